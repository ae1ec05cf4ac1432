"""Export and import: the same bytes, complete or absent, and what a zip is refused for."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from CardiacLDMLib.packages import archive, store
from CardiacLDMLib.packages.archive import export_package, import_package
from CardiacLDMLib.packages.store import open_package
from tests.support.package_attacks import (
    SEGMENTER,
    check_one_sentence,
    check_refused,
    cli,
    content,
    flip,
    set_manifest,
    zipped,
)


def test_export_import_show_verify(tiny: Path, tmp_path: Path) -> None:
    exported = cli("export", tiny, tmp_path)
    assert exported.exit_code == 0, exported.output
    installed = cli("import", tmp_path / "tiny.zip")
    assert installed.exit_code == 0, installed.output
    assert "--package tiny" in installed.stdout
    assert content(store.user_packages_dir()) == {f"tiny/{name}": data for name, data in content(tiny).items()}
    for package in ("tiny", tiny, tmp_path / "tiny.zip"):
        assert "is whole" in cli("verify", package).stdout
        card = cli("show", package).stdout
        for expected in ("Tiny heart", "Labels nothing well", "Nothing (0 cases", "mean Dice", "0.01", "CC0-1.0",
                         "locator", "segmenter", "6 mm", "LAA 8", "The authors of the tests"):  # fmt: skip
            assert expected in card


def test_files_of_file_managers_are_not_imported(copy: Path, tiny: Path, models: Path) -> None:
    for name in (".DS_Store", "._manifest.json", "Thumbs.db"):
        (copy / name).write_bytes(b"")
    (copy / "__MACOSX").mkdir()
    assert cli("import", copy, "--models", models).exit_code == 0
    assert content(models / "tiny") == content(tiny)


def test_export_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    one, two = (export_package(open_package(tiny), tmp_path / name) for name in ("1.zip", "2.zip"))
    assert one.read_bytes() == two.read_bytes()


def test_export_overwrites_only_on_request(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.zip"
    target.write_text("mine")
    result = cli("export", tiny, target)
    assert result.exit_code == 2
    check_one_sentence(result.stderr)
    assert target.read_text() == "mine"
    assert cli("export", tiny, target, "--overwrite").exit_code == 0
    assert zipfile.is_zipfile(target)


def test_a_flat_zip_is_accepted(tiny: Path, tmp_path: Path, models: Path) -> None:
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        for file in tiny.iterdir():
            archive.write(file, file.name)
    assert cli("import", tmp_path / "flat.zip", "--models", models).exit_code == 0


@pytest.mark.parametrize("top", ["tiny/", ""])
def test_a_zip_of_macos_is_accepted(tiny: Path, tmp_path: Path, models: Path, top: str) -> None:
    """macOS adds ``__MACOSX`` with the attributes of every file, and its Finder's own files."""
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        archive.writestr("__MACOSX/", b"")
        for file in tiny.iterdir():
            archive.write(file, f"{top}{file.name}")
            archive.writestr(f"__MACOSX/{top}._{file.name}", b"attributes")
        archive.writestr(f"{top}.DS_Store", b"Finder")
        archive.writestr(f"{top}._README.md", b"attributes")
    result = cli("import", tmp_path / "mac.zip", "--models", models)
    assert result.exit_code == 0, result.output
    assert content(models / "tiny") == content(tiny)


def test_a_zip_with_an_entry_for_its_folder_is_accepted(tiny: Path, tmp_path: Path, models: Path) -> None:
    shutil.make_archive(str(tmp_path / "made"), "zip", tiny.parent, "tiny")
    assert cli("import", tmp_path / "made.zip", "--models", models).exit_code == 0


def test_in_a_process_of_its_own(copy: Path, tmp_path: Path, models: Path) -> None:
    """As a user runs it: the terminal shows one sentence and no traceback."""
    flip(SEGMENTER, -1)(copy)
    bad = zipped(copy, tmp_path / "bad.zip")
    command = [sys.executable, "-m", "cardiacldm_training.cli", "package", "import", bad, "--models", models]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(models.iterdir())
    check_one_sentence(done.stderr.replace("\n", " ").strip() + "\n")
    for fact in ("bad.zip", SEGMENTER):
        assert fact in done.stderr


# --- attacks on the zip -----------------------------------------------------------------------------------------------


def zip_with(tiny: Path, path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    """The valid package, and ``entries`` added to it."""
    zipped(tiny, path)
    with zipfile.ZipFile(path, "a") as archive:
        for entry, data in entries:
            archive.writestr(entry, data)
    return path


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "tiny/../../evil.txt", "/evil.txt", "//server/evil.txt", "C:/evil.txt", "C:evil.txt",
     "..\\evil.txt", "tiny\\..\\evil.txt", "tiny/./evil.txt", "tiny//evil.txt", "tiny/evil.txt:stream", "evil\x1b[2J",
     "tiny/evil.txt ", "../", "tiny/\u202eevil.txt"],
)  # fmt: skip
def test_escaping_names_are_refused(name: str, tiny: Path, tmp_path: Path, models: Path) -> None:
    source = zip_with(tiny, tmp_path / "tiny.zip", (name, b"evil"))
    before = set(tmp_path.parent.rglob("*evil*"))
    check_refused(cli("import", source, "--models", models), models, "safe file name")
    assert set(tmp_path.parent.rglob("*evil*")) == before


def test_name_hidden_behind_a_null_byte_is_refused(tiny: Path, tmp_path: Path, models: Path) -> None:
    source = zip_with(tiny, tmp_path / "tiny.zip", ("tiny/README.md~evil", b"evil"))
    source.write_bytes(source.read_bytes().replace(b"README.md~", b"README.md\x00"))
    check_refused(cli("import", source, "--models", models), models, "safe file name")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(kind: int, tiny: Path, tmp_path: Path, models: Path) -> None:
    link = zipfile.ZipInfo("tiny/link")
    link.create_system, link.external_attr = 3, (kind | 0o777) << 16
    source = zip_with(tiny, tmp_path / "tiny.zip", (link, b"/etc/passwd"))
    check_refused(cli("import", source, "--models", models), models, "tiny/link")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "fact"),
    [("tiny/README.md", "README.md"), ("tiny/readme.MD", "readme.MD"),
     ("tiny/sub/README.md", "tiny/sub"), ("tiny/sub/", "tiny/sub"),
     ("other/notes.txt", "one folder"), ("other/", "one folder"),
     ("notes.txt", "one folder"), ("tiny/notes.txt", "notes.txt")],
)  # fmt: skip
def test_odd_entries_are_refused(name: str, fact: str, tiny: Path, tmp_path: Path, models: Path) -> None:
    source = zip_with(tiny, tmp_path / "tiny.zip", (name, b"x" if not name.endswith("/") else b""))
    check_refused(cli("import", source, "--models", models), models, fact)


def test_zip_of_something_else_is_refused(tmp_path: Path, models: Path) -> None:
    source = tmp_path / "photos.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("photo.jpg", b"x")
    check_refused(cli("import", source, "--models", models), models, "photos.zip")
    for data in (b"", b"no zip at all", b"PK\x05\x06" + bytes(18)):
        source.write_bytes(data)
        result = cli("import", source, "--models", models)
        check_refused(result, models, "photos.zip")


def test_zip_bombs_are_refused(tiny: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = zipfile.ZipInfo("tiny/zeros.txt")
    dense.compress_type = zipfile.ZIP_DEFLATED
    source = zip_with(tiny, tmp_path / "tiny.zip", (dense, bytes(20_000_000)))
    check_refused(cli("import", source, "--models", models), models, "100 times")
    monkeypatch.setattr(archive, "MAX_RATIO", 10**9)
    monkeypatch.setattr(archive, "MAX_BYTES", 10_000_000)
    check_refused(cli("import", source, "--models", models), models, "GB")


def test_size_is_counted_while_copying(copy: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder has no table of sizes; the bytes read are counted."""
    monkeypatch.setattr(archive, "MAX_BYTES", 10_000)
    check_refused(cli("import", copy, "--models", models), models, "GB")


def test_a_wrong_size_in_the_header_is_refused(tiny: Path, tmp_path: Path, models: Path) -> None:
    """The header says 16 bytes, the data unpack to 20 MB: only 16 bytes are read, and the checksum is wrong."""
    dense = zipfile.ZipInfo("tiny/zeros.txt")
    dense.compress_type = zipfile.ZIP_DEFLATED
    source = zip_with(tiny, tmp_path / "tiny.zip", (dense, bytes(20_000_000)))
    source.write_bytes(source.read_bytes().replace((20_000_000).to_bytes(4, "little"), (16).to_bytes(4, "little")))
    check_refused(cli("import", source, "--models", models), models, "damaged")


@pytest.mark.parametrize("count", [100, 20_000])
def test_many_entries_are_refused(count: int, tmp_path: Path, models: Path) -> None:
    """The larger table of contents is not even read."""
    source = tmp_path / "many.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for n in range(count):
            archive.writestr(f"tiny/{n:06}.txt", b"")
    check_refused(cli("import", source, "--models", models), models, "32 files")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(method: int, tiny: Path, tmp_path: Path, models: Path) -> None:
    entry = zipfile.ZipInfo("tiny/notes.txt")
    entry.compress_type = method
    source = zip_with(tiny, tmp_path / "tiny.zip", (entry, b"notes"))
    check_refused(cli("import", source, "--models", models), models, "notes.txt")


def test_protected_zip_is_refused(tiny: Path, tmp_path: Path, models: Path) -> None:
    source = zipped(tiny, tmp_path / "tiny.zip")
    data = bytearray(source.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(data)
    check_refused(cli("import", source, "--models", models), models, "password")


# --- the models folder ------------------------------------------------------------------------------------------------


def test_import_replaces_only_on_request(tiny: Path, copy: Path, models: Path) -> None:
    import_package(tiny, models)
    set_manifest(title="Another heart")(copy)
    result = cli("import", copy, "--models", models)
    assert result.exit_code == 2
    assert "--replace" in result.stderr
    assert content(models / "tiny") == content(tiny)
    assert cli("import", copy, "--models", models, "--replace").exit_code == 0
    assert open_package(models / "tiny").manifest.title == "Another heart"
    assert [p.name for p in models.iterdir()] == ["tiny"]


def test_replace_keeps_a_folder_that_is_no_package(tiny: Path, models: Path) -> None:
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "thesis.txt").write_text("mine")
    result = cli("import", tiny, "--models", models, "--replace")
    assert result.exit_code == 2
    assert "tiny" in result.stderr
    assert content(models) == {"tiny/thesis.txt": b"mine"}


def test_a_failed_replacement_leaves_the_old_package(
    tiny: Path, copy: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_package(tiny, models)
    set_manifest(title="Another heart")(copy)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "content":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    result = cli("import", copy, "--models", models, "--replace")
    assert result.exit_code == 2
    assert "tiny" in result.stderr
    assert "No space left on device" in result.stderr
    assert content(models) == {f"tiny/{name}": data for name, data in content(tiny).items()}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_as_a_user(tiny: Path, models: Path) -> None:
    models.mkdir(mode=0o555)
    check_refused(cli("import", tiny, "--models", models), models, "models")


def test_folder_that_cannot_be_written_to(tiny: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> str:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", read_only)
        result = cli("import", tiny, "--models", models)
    check_refused(result, models, "Read-only file system")
    models.rmdir()
    models.write_text("a file")
    check_refused(cli("import", tiny, "--models", models), models, "models")
