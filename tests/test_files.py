"""Replacing files and folders: whole or not at all, also when the process is killed or the disk is full."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from CardiacLDMLib import files
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.files import (
    lock,
    make_folder,
    remove_folder,
    replace_file,
    replace_files,
    replace_folder,
    sweep,
    temporary_folder,
    write_json,
    write_text,
)


def killed(script: str, folder: Path) -> None:
    """Run ``script``, which kills itself with ``die()``; it sees ``folder`` and all of ``files``."""
    header = (
        "import os, sys\nfrom pathlib import Path\nfrom CardiacLDMLib import files\nfrom CardiacLDMLib.files import *\n"
        f"folder = Path({str(folder)!r})\ndef die(*_, **__): os.kill(os.getpid(), {signal.SIGKILL})\n"
    )
    done = subprocess.run([sys.executable, "-c", header + script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def full_disk(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- one file ------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_with_the_permissions_of_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.nii.gz"
    with replace_file(path) as part:
        assert part.parent == path.parent
        assert part.name.endswith(".nii.gz")
        part.write_text("new")
    assert content(tmp_path) == {"new/result.nii.gz": "new"}
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_text_and_json_keep_their_lines(tmp_path: Path) -> None:
    write_text(tmp_path / "a.md", "é\n")
    assert (tmp_path / "a.md").read_bytes() == "é\n".encode()
    write_json(tmp_path / "b.json", {"b": 1, "a": 2}, sort_keys=True)
    assert (tmp_path / "b.json").read_text() == '{\n "a": 2,\n "b": 1\n}\n'


def _write_half(path: Path) -> None:
    with replace_file(path) as part:
        part.write_text("half")
        raise RuntimeError("interrupted")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        _write_half(path)
    assert content(tmp_path) == {"result.json": "old"}


@pytest.mark.parametrize("step", ["writing", "renaming"])
def test_a_process_killed_within_replace_file_leaves_the_old_file(tmp_path: Path, step: str) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    body = {"writing": "die()", "renaming": "os.replace = os.rename = die"}[step]
    killed(f"with replace_file(folder / 'result.json') as part:\n    part.write_text('half')\n    {body}\n", tmp_path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    sweep(tmp_path)  # so young that its process may not have locked it yet
    assert len(list(tmp_path.iterdir())) == 2
    _make_older(tmp_path)
    sweep(tmp_path)
    assert content(tmp_path) == {"result.json": "old"}


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    monkeypatch.setattr(os, function, full_disk)
    with pytest.raises(OutputError, match=r"result\.json") as refused:
        write_text(path, "new")
    monkeypatch.undo()
    assert refused.value.kind == "output"
    assert os.strerror(errno.ENOSPC) in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert content(tmp_path) == {"result.json": "old"}


def test_folders_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    for name in ("loop", "gone", "x" * 300):
        with pytest.raises(OutputError, match=name), temporary_folder(tmp_path / name):
            pass
    with pytest.raises(OutputError, match="link"):
        make_folder(tmp_path / "loop")


def test_long_names_with_dots_are_written(tmp_path: Path) -> None:
    path = tmp_path / f"a.{'b' * 235}.seg.nrrd"
    write_text(path, "content")
    assert path.read_text() == "content"


def test_a_file_is_never_written_over_a_folder_or_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for path, name in ((tmp_path / "folder", "folder"), (tmp_path / "file" / "result", "file")):
        with pytest.raises(OutputError, match=name):
            write_text(path, "new")
    assert content(tmp_path) == {"file": ""}
    assert (tmp_path / "folder" / "inner").is_dir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("write", [lambda path: write_text(path, ""), lambda path: _fill(path, "")])
def test_a_read_only_folder(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "kept").mkdir(mode=0o555)
    with pytest.raises(OutputError, match=r"kept|result"):
        write(tmp_path / "kept" / "result")
    assert not list((tmp_path / "kept").iterdir())


# --- several files in one folder -----------------------------------------------------------------------------------

NAMES = ("a.labels", "a.report")


def _case(folder: Path, text: str) -> None:
    with replace_files(folder, NAMES) as part:
        for name in NAMES:
            (part / name).write_text(text)


def test_files_of_one_set_are_replaced_together(tmp_path: Path) -> None:
    for text in ("old", "new"):
        _case(tmp_path / "out", text)
        assert content(tmp_path / "out") == dict.fromkeys(NAMES, text)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_set_without_one_of_its_files_replaces_nothing(tmp_path: Path) -> None:
    _case(tmp_path, "old")
    with pytest.raises(OutputError), replace_files(tmp_path, NAMES) as part:
        (part / NAMES[0]).write_text("new")
    assert content(tmp_path) == dict.fromkeys(NAMES, "old")


def test_a_set_whose_process_is_killed_between_two_files_is_incomplete(tmp_path: Path) -> None:
    _case(tmp_path, "old")
    killed(
        "replace = os.replace\n"
        "def second(source, target):\n    if str(target).endswith('report'): die()\n    replace(source, target)\n"
        "os.replace = second\n"
        f"with replace_files(folder, {NAMES}) as part:\n"
        f"    for name in {NAMES}: (part / name).write_text('new')\n",
        tmp_path,
    )
    sweep(tmp_path, older_than=0)
    assert content(tmp_path) == {NAMES[0]: "new"}


def test_a_single_file_is_never_absent(tmp_path: Path) -> None:
    (tmp_path / "scene.mrb").write_text("old")
    killed(
        "os.replace = os.rename = die\n"
        "with replace_files(folder, ['scene.mrb']) as part:\n    (part / 'scene.mrb').write_text('new')\n",
        tmp_path,
    )
    assert (tmp_path / "scene.mrb").read_text() == "old"


# --- folders -------------------------------------------------------------------------------------------------------


def _fill(target: Path, text: str = "new", *, replace: bool = False) -> None:
    with replace_folder(target, replace=replace) as part:
        (part / "inner").mkdir()
        (part / "file").write_text(text)
        (part / "inner" / "file").write_text(text)


def test_a_folder_is_made_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "pair"
    for text in ("old", "new"):
        _fill(target, text, replace=True)
        assert content(tmp_path) == {"parent/pair/file": text, "parent/pair/inner/file": text}
    assert list(target.parent.iterdir()) == [target]


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    _fill(tmp_path / "pair", "old")
    before = content(tmp_path)
    with pytest.raises(OutputError, match="pair"):
        _fill(tmp_path / "pair")
    assert content(tmp_path) == before


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "pair"

    def write() -> None:
        with replace_folder(target) as part:
            (part / "file").write_text("mine")
            target.mkdir()
            (target / "file").write_text("theirs")

    with pytest.raises(OutputError, match="pair"):
        write()
    assert content(tmp_path) == {"pair/file": "theirs"}


@pytest.mark.parametrize("step", ["fsync", "mkdtemp", "first rename", "second rename"])
def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    target = tmp_path / "pair"
    _fill(target, "old")
    before = content(tmp_path)
    rename = os.rename

    def failing(source: str, place: str) -> None:
        first = str(source) == str(target)
        if first == (step == "first rename") and ".replaced" not in str(source):
            full_disk()
        rename(source, place)

    if "rename" in step:
        monkeypatch.setattr(os, "rename", failing)
    else:
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "mkdtemp": (files.tempfile, "mkdtemp")}[step], full_disk)
    with pytest.raises(OutputError) as refused:
        _fill(target, replace=True)
    monkeypatch.undo()
    assert os.strerror(errno.ENOSPC) in str(refused.value)
    assert content(tmp_path) == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("step", ["writing", "flushing", "between the renames"])
def test_a_process_killed_within_replace_folder_costs_nothing(tmp_path: Path, step: str) -> None:
    """Between the two renames the old folder is away for a moment; sweeping puts it back."""
    _fill(tmp_path / "pair", "old")
    before = content(tmp_path)
    body = {"writing": "die()", "flushing": "os.fsync = die", "between the renames": "os.rename = second"}[step]
    killed(
        "rename = os.rename\n"
        "def second(source, target):\n"
        "    if str(target) == str(folder / 'pair'): die()\n    rename(source, target)\n"
        "with replace_folder(folder / 'pair', replace=True) as part:\n"
        f"    (part / 'file').write_text('half')\n    {body}\n",
        tmp_path,
    )
    assert (tmp_path / "pair").exists() == (step != "between the renames")
    sweep(tmp_path, older_than=0)
    assert content(tmp_path) == before
    assert list(tmp_path.iterdir()) == [tmp_path / "pair"]


def test_another_process_may_choose_the_temporary_folder(tmp_path: Path) -> None:
    chosen = tmp_path / f"{files.PART}1"
    with temporary_folder(tmp_path, chosen) as part:
        assert part == chosen
        assert part.is_dir()
    assert not list(tmp_path.iterdir())


def test_a_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.tempfile, "mkstemp", read_only)
    monkeypatch.setattr(files.tempfile, "mkdtemp", read_only)
    for write in (lambda path: write_text(path, ""), _fill):
        with pytest.raises(OutputError) as refused:
            write(tmp_path / "result")
        assert os.strerror(errno.EROFS) in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_removed_folder_is_gone_whole_also_after_a_kill(tmp_path: Path) -> None:
    _fill(tmp_path / "one")
    _fill(tmp_path / "two")
    remove_folder(tmp_path / "one")
    killed("files.shutil.rmtree = die\nremove_folder(folder / 'two')\n", tmp_path)
    assert not (tmp_path / "two").exists()
    sweep(tmp_path, older_than=0)
    assert not list(tmp_path.iterdir())


# --- leftovers -----------------------------------------------------------------------------------------------------


def _make_older(folder: Path, seconds: float = 10.0) -> None:
    for path in folder.iterdir():
        then = path.lstat().st_mtime - seconds
        os.utime(path, (then, then), follow_symlinks=False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells leftovers by their age")
@pytest.mark.parametrize("holder", ["replace_file(folder / 'result.json')", "temporary_folder(folder)"])
def test_what_a_living_process_writes_is_no_leftover(tmp_path: Path, holder: str) -> None:
    """The folder is swept as soon as its process is gone, not before, however long it takes."""
    script = (
        "import sys, time; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "from CardiacLDMLib.files import replace_file, temporary_folder\n"
        f"with {holder}: print('ready', flush=True); time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        _make_older(tmp_path)
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        process.kill()
        process.communicate()
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_leftover_without_locks_is_told_by_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_: int) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files, "lock", no_locks)
    (tmp_path / f"{files.PART}1").mkdir()
    _make_older(tmp_path, 60.0)
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    _make_older(tmp_path, files.ABANDONED_SECONDS)
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


# --- locks ---------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_process_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "owner"
    path.write_text("")
    other = f"from CardiacLDMLib.files import lock\nfile = open({str(path)!r}, 'rb+')\nexit(lock(file.fileno()))"
    with path.open("rb+") as file:
        assert lock(file.fileno())
        assert subprocess.run([sys.executable, "-c", other], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", other], check=False).returncode == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_only_files_are_hashed(tmp_path: Path) -> None:
    """A pipe would be waited for without end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(OSError):  # noqa: PT011 - of several kinds
            files.sha256(path)


def test_a_claimed_folder_is_refused_until_its_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    monkeypatch.setattr(files, "_CLAIM_SECONDS", 0.2)
    script = "with claim_folder(folder / 'folder'):\n    print('held', flush=True)\n    sys.stdin.read()"
    header = (
        f"import sys\nfrom pathlib import Path\nfrom CardiacLDMLib.files import *\nfolder = Path({str(tmp_path)!r})\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", header + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == b"held"
    with pytest.raises(OutputError, match="folder"), files.claim_folder(folder):
        raise AssertionError("Two processes own it.")
    holder.kill()
    holder.communicate()
    with files.claim_folder(folder):
        assert folder.is_dir()
