"""The journal of a review: no verdict is lost, whoever writes, whatever fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.review import journal as module
from CardiacLDMLib.review.journal import Journal, read
from CardiacLDMLib.review.verdicts import (
    FORMAT,
    JournalError,
    NewerJournal,
    Verdict,
    last_of,
    line_of,
    standing,
    verdict_of,
)

DIGEST = "a" * 64
#: A session that gives verdicts as fast as it can, and prints the number of each once it is saved.
WRITER = (
    "import sys\nfrom pathlib import Path\nfrom CardiacLDMLib.review.journal import Journal\n"
    "journal = Journal(Path(sys.argv[1]), sys.argv[2])\n"
    "for n in range(int(sys.argv[3])):\n"
    "    journal.add(journal.new(f'case {n}', 'accept', 64 * 'a', reason='x' * 300))\n"
    "    print(n, flush=True)\n"
)


def start(folder: Path, reader: str, count: int = 1_000_000) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), reader, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def full_disk(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def verdict(case: str = "one", **fields: object) -> Verdict:
    return Verdict(case, "Ann", "accept", DIGEST, **fields)  # type: ignore[arg-type]


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


# --- one line ------------------------------------------------------------------------------------------------------


def test_a_line_holds_all_of_a_verdict() -> None:
    given = verdict(
        'Änn "1"\n', scan_sha256="b" * 64, package="p 1", structure="LAA", reason="too\nshort", place=(1, 2.5, -3),
        seconds=4,
    )  # fmt: skip
    line = line_of(given)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert verdict_of(line) == given
    content = json.loads(line)
    assert content["format"] == FORMAT
    assert content["software"]
    assert content["time"].endswith("+00:00")


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels_sha256": "xyz"}, {"structure": "nose"}, {"place": (1.0, 2.0)}, {"place": (1.0, 2.0, float("nan"))},
        {"seconds": -1.0}, {"outcome": "accept"}, {"undoes": "x"}, {"reason": None}, {"case": ""}, {"verdict": "good"},
        {"verdict": "settled"}, {"verdict": "undo"}, {"time": "yesterday"}, {"id": "1"},
    ],
)  # fmt: skip
def test_a_verdict_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    fields = {"case": "one", "reader": "Ann", "verdict": "accept", "labels_sha256": DIGEST, **wrong}
    with pytest.raises(JournalError):
        Verdict(**fields)  # type: ignore[arg-type]


def test_half_a_character_does_not_spoil_a_report() -> None:
    given = verdict(reason="\ud800 odd")
    assert given.reason.encode("utf-8").endswith(b" odd")
    assert verdict_of(line_of(given)) == given


@pytest.mark.parametrize("line", [b"", b"{}", b"null", b"[1]", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_lines_hold_nothing(line: bytes) -> None:
    assert verdict_of(line) is None


# --- sessions ------------------------------------------------------------------------------------------------------


def test_opening_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "review", "Ann")
    assert journal.verdicts == journal.notes == []
    assert not list(tmp_path.iterdir())


def test_a_reader_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        Journal(tmp_path, " \t")


def test_a_reader_is_the_same_in_capitals(tmp_path: Path) -> None:
    first = Journal(tmp_path, "Ann Reader")
    first.add(first.new("one", "accept", DIGEST))
    assert Journal(tmp_path, " ann  READER").reader == "Ann Reader"


def test_each_session_writes_a_file_of_its_own_and_reads_all(tmp_path: Path) -> None:
    first, second = Journal(tmp_path, "Ann"), Journal(tmp_path, "../B\xe9la")
    for number in range(3):
        first.add(first.new(f"case {number}", "accept", DIGEST))
        second.add(second.new(f"case {number}", "reject", DIGEST))
    assert len(list(tmp_path.iterdir())) == 2
    third = Journal(tmp_path, "Ann")
    assert [v.case for v in third.verdicts] == [f"case {n}" for n in (0, 0, 1, 1, 2, 2)]
    assert {v.reader for v in third.verdicts} == {"Ann", "../B\xe9la"}
    first.refresh()
    assert first.verdicts == third.verdicts
    assert len(first.of("case 1")) == 2


def test_the_same_reader_on_two_machines_loses_nothing(tmp_path: Path) -> None:
    writers = [start(tmp_path, reader, 60) for reader in ("Ann", "Ann", "Bob")]
    assert [writer.communicate()[0].count("\n") for writer in writers] == [60, 60, 60]
    content = read(tmp_path)
    assert len(content.verdicts) == 180
    assert not content.notes


def test_times_of_a_session_never_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "Ann")
    first = journal.new("one", "accept", DIGEST)
    monkeypatch.setattr(module, "utc_now", lambda: "2020-01-01T00:00:00.000000+00:00")
    assert journal.new("two", "accept", DIGEST).time >= first.time


def test_an_undone_verdict_does_not_count_and_stays_in_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "Ann")
    for case in ("one", "two"):
        journal.add(journal.new(case, "accept", DIGEST))
    last = last_of(journal.verdicts, "Ann")
    assert last is not None
    assert last.case == "two"
    journal.add(journal.new("two", "undo", DIGEST, undoes=last.id))
    assert [v.case for v in standing(read(tmp_path).verdicts)] == ["one"]
    assert len(read(tmp_path).verdicts) == 3
    assert last_of(journal.verdicts, "Bob") is None


def test_a_reader_undoes_own_verdicts_only(tmp_path: Path) -> None:
    ann, bob = Journal(tmp_path, "Ann"), Journal(tmp_path, "Bob")
    given = ann.new("one", "accept", DIGEST)
    ann.add(given)
    bob.add(bob.new("one", "undo", DIGEST, undoes=given.id))
    assert standing(read(tmp_path).verdicts) == [given]


# --- crashes -------------------------------------------------------------------------------------------------------


def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """Fifty sessions, each a process of its own, are killed at random moments. They fork: starting takes long."""
    script = (
        "import os, random, select, signal, sys, time\nfrom pathlib import Path\n"
        "from CardiacLDMLib.review.journal import Journal\nchance = random.Random(7)\n"
        "for moment in range(50):\n"
        "    folder = Path(sys.argv[1], str(moment))\n    told, tell = os.pipe()\n    session = os.fork()\n"
        "    if not session:\n        journal, n = Journal(folder, 'Ann'), 0\n"
        "        while True:\n"
        "            journal.add(journal.new(f'case {n}', 'accept', 64 * 'a', reason='x' * 300))\n"
        "            os.write(tell, b'.')\n            n += 1\n"
        "    os.close(tell)\n    select.select([told], [], [], 60)\n    time.sleep(chance.uniform(0, 0.02))\n"
        "    os.kill(session, signal.SIGKILL)\n    os.waitpid(session, 0)\n"
        "    print(len(os.read(told, 1_000_000)), flush=True)\n    os.close(told)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    saved = [int(number) for number in done.stdout.split()]
    assert len(saved) == 50
    assert min(saved) >= 1
    for moment, number in enumerate(saved):
        cases = [v.case for v in Journal(tmp_path / str(moment), "Bob").verdicts]
        assert len(cases) - number in (0, 1)
        assert cases == [f"case {n}" for n in range(len(cases))]


@pytest.mark.parametrize("left", [1, 9, 60, -2])
def test_a_torn_last_line_is_removed_and_said_once(tmp_path: Path, left: int) -> None:
    journal = Journal(tmp_path, "Ann")
    journal.add(journal.new("one", "accept", DIGEST))
    journal.add(journal.new("zwei", "reject", DIGEST))
    journal.close()
    path = only_file(tmp_path)
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + second[:left])
    assert len(read(tmp_path).notes) == 1
    again = Journal(tmp_path, "Bob")
    assert [v.case for v in again.verdicts] == ["one"]
    assert len(again.notes) == 1
    assert path.name in again.notes[0]
    assert ("zwei" in again.notes[0]) == (left not in (1, 9))
    assert path.read_bytes() == first + b"\n"
    assert not Journal(tmp_path, "Bob").notes


def test_a_whole_last_line_without_its_end_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "Ann")
    journal.add(journal.new("one", "accept", DIGEST))
    journal.close()
    path = only_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\0" * 40)  # what a power failure leaves
    again = Journal(tmp_path, "Ann")
    assert [v.case for v in again.verdicts] == ["one"]
    assert not again.notes
    assert path.read_bytes() == whole


def test_the_torn_line_of_another_machine_is_left_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(module, "machine", lambda: "0123ab")
        journal = Journal(tmp_path, "Ann")
        journal.add(journal.new("one", "accept", DIGEST))
        journal.close()
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"case": "two", "rea')
    before = path.read_bytes()
    assert len(Journal(tmp_path, "Ann").notes) == 1
    assert path.read_bytes() == before


def test_the_file_of_a_living_session_is_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "Ann")
    journal.add(journal.new("one", "accept", DIGEST))
    path = only_file(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"case": "two')
    before = path.read_bytes()
    assert not Journal(tmp_path, "Bob").notes
    assert path.read_bytes() == before


def test_a_damaged_line_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "Ann.jsonl"
    path.write_bytes(line_of(verdict("one")) + b"nonsense\n" + b"\0" * 30 + b"\n" + line_of(verdict("two")))
    content = read(tmp_path)
    assert [v.case for v in content.verdicts] == ["one", "two"]
    assert len(content.notes) == 1


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_verdict_waits_for_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    journal = Journal(tmp_path, "Ann")
    journal.add(journal.new("one", "accept", DIGEST))
    with monkeypatch.context() as full:
        full.setattr(module.os, call, full_disk)
        for case in ("two", "three"):
            with pytest.raises(OutputError):
                journal.add(journal.new(case, "fix", DIGEST))
        assert [v.case for v in journal.unsaved] == ["two", "three"]
        assert [v.case for v in journal.verdicts] == ["one", "two", "three"]
        journal.refresh()
        assert len(journal.verdicts) == 3
    journal.add(journal.new("four", "accept", DIGEST))
    assert not journal.unsaved
    content = read(tmp_path)
    assert [v.case for v in content.verdicts] == ["one", "two", "three", "four"]
    assert not content.notes


def test_a_verdict_that_was_written_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "Ann")
    with monkeypatch.context() as drive:  # nobody can tell what is on the disk, and nothing can be taken back
        drive.setattr(module.os, "fsync", full_disk)
        drive.setattr(module.os, "ftruncate", full_disk)
        drive.setattr(module, "sync_folder", lambda folder: None)
        drive.setattr(Path, "unlink", full_disk)
        with pytest.raises(OutputError):
            journal.add(journal.new("one", "accept", DIGEST))
    journal.save()
    assert len(list(tmp_path.iterdir())) == 2
    assert [v.case for v in read(tmp_path).verdicts] == ["one"]


@pytest.mark.parametrize("how", ["removed", "moved", "replaced", "its file alone"])
def test_what_a_session_wrote_is_written_again_if_the_folder_goes(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "review"
    bob = Journal(folder, "Bob")
    bob.add(bob.new("one", "reject", DIGEST))
    bob.close()
    journal = Journal(folder, "Ann")
    first = journal.new("one", "accept", DIGEST)
    journal.add(first)
    shutil.copytree(folder, tmp_path / "copy")
    if how == "its file alone":
        next(folder.glob("Ann*")).unlink()
    elif how == "moved":
        folder.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(folder)
    if how == "replaced":
        (tmp_path / "copy").rename(folder)
    second = journal.new("two", "fix", DIGEST)
    journal.add(second)
    assert [each for each in read(folder).verdicts if each.reader == "Ann"] == [first, second]
    assert [each for each in read(folder).verdicts if each.reader == "Bob"] == bob.verdicts
    assert len(journal.notes) == (how != "replaced")  # by a copy that holds all
    assert all("review" in note for note in journal.notes)
    journal.add(journal.new("three", "fix", DIGEST))
    assert len(read(folder).verdicts) == 4
    assert len(journal.notes) == (how != "replaced")


def test_what_earlier_sessions_wrote_is_written_again_too(tmp_path: Path) -> None:
    first = Journal(tmp_path / "review", "Ann")
    first.add(first.new("one", "accept", DIGEST))
    first.close()
    journal = Journal(tmp_path / "review", "Ann")
    shutil.rmtree(tmp_path / "review")
    journal.add(journal.new("two", "fix", DIGEST))
    assert [each.case for each in read(tmp_path / "review").verdicts] == ["one", "two"]
    assert len(journal.notes) == 1


def test_refreshing_after_the_folder_went_forgets_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "review", "Ann")
    journal.add(journal.new("one", "accept", DIGEST))
    shutil.rmtree(tmp_path / "review")
    journal.refresh()
    assert [each.case for each in journal.verdicts] == ["one"]
    journal.save()
    assert [each.case for each in read(tmp_path / "review").verdicts] == ["one"]


def test_a_folder_that_cannot_be_made_again_keeps_all_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "review"
    journal = Journal(folder, "Ann")
    journal.add(journal.new("one", "accept", DIGEST))
    shutil.rmtree(folder)
    folder.write_text("in the way")
    with pytest.raises(OutputError):
        journal.add(journal.new("two", "fix", DIGEST))
    assert [each.case for each in journal.unsaved] == ["one", "two"]
    with pytest.raises(OutputError):
        journal.save()
    assert len(journal.notes) == 1  # said once
    folder.unlink()
    journal.save()
    assert [each.case for each in read(folder).verdicts] == ["one", "two"]


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "Ann")
    journal.add(journal.new("one", "accept", DIGEST))
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(module.os, "write", lambda handle, line: write(handle, line[:50]))
        with pytest.raises(OutputError):
            journal.add(journal.new("two", "accept", DIGEST))
    assert [v.case for v in read(tmp_path).verdicts] == ["one"]
    journal.save()
    assert [v.case for v in read(tmp_path).verdicts] == ["one", "two"]
    assert not read(tmp_path).notes


def test_a_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    """The system itself cuts a line short, as on a full disk; later there is room again."""
    script = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom CardiacLDMLib.errors import OutputError\n"
        "from CardiacLDMLib.review.journal import Journal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Journal(Path(sys.argv[1]), 'Ann')\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))\n"
        "for n in range(20):\n"
        "    if n == 10:\n        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "    try:\n        journal.add(journal.new(f'case {n}', 'accept', 64 * 'a', reason='x' * 300 * (n > 2)))\n"
        "    except OutputError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") > 3
    content = read(tmp_path)
    assert [v.case for v in content.verdicts] == [f"case {n}" for n in range(20)]
    assert not content.notes


def test_a_read_only_drive_keeps_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    journal = Journal(tmp_path, "Ann")
    with monkeypatch.context() as drive:
        drive.setattr(module.os, "open", read_only)
        with pytest.raises(OutputError):
            journal.add(journal.new("one", "accept", DIGEST))
    journal.save()
    assert [v.case for v in read(tmp_path).verdicts] == ["one"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_keeps_the_verdict(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    journal = Journal(tmp_path / "review", "Ann")
    with pytest.raises(OutputError):
        journal.add(journal.new("one", "accept", DIGEST))
    tmp_path.chmod(0o755)
    journal.save()
    assert [v.case for v in read(tmp_path / "review").verdicts] == ["one"]


def test_a_file_in_the_way_keeps_the_verdict(tmp_path: Path) -> None:
    (tmp_path / "review").write_text("mine")
    journal = Journal(tmp_path / "review", "Ann")
    with pytest.raises(OutputError):
        journal.add(journal.new("one", "accept", DIGEST))
    assert len(journal.unsaved) == 1
    assert (tmp_path / "review").read_text() == "mine"


def test_a_journal_of_a_newer_version_is_named_and_left(tmp_path: Path) -> None:
    path = tmp_path / "Ann-000000-000000000000.jsonl"
    content = json.loads(line_of(verdict()))
    path.write_text(json.dumps({**content, "format": FORMAT + 1, "verdict": "splendid"}))
    before = path.read_bytes()
    with pytest.raises(NewerJournal, match=path.stem):
        Journal(tmp_path, "Ann")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


def test_refreshing_keeps_what_is_known_if_a_newer_version_comes_by(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "Ann")
    journal.add(journal.new("one", "accept", DIGEST))
    (tmp_path / "Bob.jsonl").write_text('{"format": 99}\n')
    with pytest.raises(NewerJournal):
        journal.refresh()
    journal.add(journal.new("two", "accept", DIGEST))
    assert [v.case for v in journal.verdicts] == ["one", "two"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes among its files")
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"Ann-{module.machine()}-{'0' * 12}.jsonl"
    {"pipe": os.mkfifo, "folder": Path.mkdir, "loop": lambda p: p.symlink_to(p)}[kind](path)
    with pytest.raises(JournalError, match=path.name):
        Journal(tmp_path, "Ann")
