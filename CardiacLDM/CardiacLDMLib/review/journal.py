"""The journal of a review: every verdict is one line of JSON, which is on the disk before the next one is given.

Lines are only added: undoing is a line too. Each session of a reader writes to a file of its own,
``READER-MACHINE-RANDOM.jsonl``, and reads the files of all, so readers and machines never write over each other, also
where a network drive has no locks. A line may end early if the computer fails while it is written; the same machine
removes what is left of it at the next session, and says so. Only the standard library.

A line names a case by its name in the list, and no patient.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import lock, make_folder, output_errors, sync_folder
from ..text import plural, printable
from .verdicts import JournalError, Kind, NewerJournal, Verdict, by_case, line_of, utc_now, verdict_of

#: Folder of a review beside the cases, and the ending of its journals.
FOLDER, ENDING = "review", ".jsonl"

_NAME = re.compile(r".*-(?P<machine>[0-9a-f]{6})-[0-9a-f]{12}\.jsonl")


# --- reading -------------------------------------------------------------------------------------------------------


@dataclass
class Content:
    """The verdicts of all journals of a folder, in the order of their times, and sentences on what was damaged."""

    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(folder: Path) -> Content:
    """Return what the journals of the review ``folder`` hold; nothing if there is no folder. Changes nothing.

    Raises :class:`JournalError` for a journal that cannot be opened and for one of a newer version: without it some
    verdicts would be missing, and undone ones would count.
    """
    content, seen = Content(), set[str]()
    for path in journals(folder):
        verdicts, note = _read_file(path)
        content.notes += [note] if note else []
        for verdict in verdicts:
            if verdict.id not in seen:  # one that was written again after an error
                seen.add(verdict.id)
                content.verdicts.append(verdict)
    content.verdicts.sort(key=lambda verdict: verdict.time)
    return content


def journals(folder: Path) -> list[Path]:
    """Return the journals of a review folder. Raises :class:`JournalError` if it or one of them cannot be opened."""
    try:
        found = sorted(path for path in folder.iterdir() if path.name.endswith(ENDING) and path.name[0] != ".")
        for path in found:
            if not path.is_file():
                raise JournalError(f"The journal {printable(path.name)} is no file: move it away.")
        return found
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise JournalError(f"The folder {printable(folder.name)} cannot be opened: {error.strerror}.") from error


def _read_file(path: Path) -> tuple[list[Verdict], str]:
    """Return the verdicts of a journal, and a sentence on damaged lines, empty without any."""
    name = printable(path.name)
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JournalError(f"The journal {name} cannot be read: {error.strerror}.") from error
    try:
        found = [verdict_of(line) for line in lines if line.strip(b"\0 \r")]
        last = verdict_of(rest) if rest.strip(b"\0") else None
    except NewerJournal as error:
        raise NewerJournal(
            f"The journal {name} was written by a newer version of CardiacLDM: update this one to read it."
        ) from error
    verdicts = [verdict for verdict in (*found, last) if verdict is not None]
    notes = []
    damaged = sum(verdict is None for verdict in found)
    if damaged:
        notes.append(f"{plural(damaged, 'line')} of the journal {name} cannot be read and {_were(damaged)} left out.")
    if rest.strip(b"\0") and last is None and not _is_being_written(path):
        notes.append(f"The last line of the journal {name} is cut short and was left out{_whose(rest)}.")
    return verdicts, " ".join(notes)


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _whose(torn: bytes) -> str:
    """Return the end of a sentence that names the case of a torn line, if the line still does."""
    match = re.match(rb'\s*\{"case": ("(?:[^"\\]|\\.)*")', torn)
    if not match:
        return ": give the last verdict again"
    return f": give the verdict on {printable(json.loads(match[1]))} again"


def _is_being_written(path: Path) -> bool:
    """Return whether a living session holds the file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)


# --- repair --------------------------------------------------------------------------------------------------------


def machine() -> str:
    """Return six digits that tell this computer from others."""
    return hashlib.sha256(socket.gethostname().encode("utf-8", "replace")).hexdigest()[:6]


def repair(folder: Path) -> list[str]:
    """Repair the last line of journals that a session on this computer left torn; return a sentence on each.

    A whole line without its end gets it; a part of one is removed: its verdict was never reported as saved. Journals
    of living sessions, of other computers and of read-only folders stay as they are.
    """
    notes = []
    for path in journals(folder):
        match = _NAME.fullmatch(path.name)
        if match and match["machine"] == machine():
            with contextlib.suppress(OSError):
                notes += _repair(path)
    return notes


def _repair(path: Path) -> list[str]:
    """Repair a journal. Raises ``OSError`` if it cannot be changed, or if nobody can tell whether it is in use."""
    if path.read_bytes()[-1:] in (b"\n", b""):
        return []
    handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    with open(handle, "r+b") as file:
        if not lock(handle):
            return []
        data = file.read()
        start = data.rfind(b"\n") + 1
        torn = data[start:].rstrip(b"\0")  # what a file system leaves after a power failure
        try:
            verdict = verdict_of(torn)
        except NewerJournal:  # reading tells
            return []
        file.seek(start + len(torn) if verdict else start)
        if verdict:
            file.write(b"\n")
        file.truncate()
        file.flush()
        os.fsync(handle)
    if verdict or not torn:
        return []
    return [f"The last line of the journal {printable(path.name)} was cut short and was removed{_whose(torn)}."]


# --- writing -------------------------------------------------------------------------------------------------------


class Journal:
    """The journals of a review folder, and one of its own for the verdicts of ``reader`` in this session.

    Nothing is made on the disk before the first verdict. ``verdicts``: all known ones, in the order of their times,
    also ``unsaved`` ones, which could not be written yet. ``notes``: sentences on damage. Raises
    :class:`JournalError`.

    The folder may be removed or replaced while a session is open: what it held is then written once more, to the file
    of this session, and a further note says so.
    """

    def __init__(self, folder: Path, reader: str) -> None:
        self.folder, self.reader = Path(folder), " ".join(reader.split())
        if not self.reader:
            raise JournalError("A review needs the name or the initials of its reader.")
        self.unsaved: list[Verdict] = []
        self.verdicts: list[Verdict] = []
        self._by_case: dict[str, list[Verdict]] = {}
        self._handle: int | None = None
        self._path = self.folder
        self._size = 0
        self._last = ""
        self.notes = repair(self.folder)
        self.notes += self.refresh()
        spellings = {verdict.reader.casefold(): verdict.reader for verdict in self.verdicts}
        self.reader = spellings.get(self.reader.casefold(), self.reader)  # "ann" is Ann, and may see what Ann said

    def refresh(self) -> list[str]:
        """Read all journals again, those of other readers too; return sentences on damage.

        Raises :class:`JournalError`; the known verdicts then stay as they were. What the folder held and was removed is
        ``unsaved`` again.
        """
        if self._is_gone():
            self.close()
            self._restore()
        content = read(self.folder)
        known = {verdict.id for verdict in content.verdicts}
        added = [verdict for verdict in self.unsaved if verdict.id not in known]
        self.verdicts = sorted(content.verdicts + added, key=lambda verdict: verdict.time)
        self._by_case = by_case(self.verdicts)
        return content.notes

    def add(self, verdict: Verdict) -> None:
        """Add a verdict and write it, after those that could not be written before. On return it is on the disk.

        Raises :class:`OutputError` if it cannot be written: it then counts, is in ``unsaved``, and :meth:`save` or
        the next verdict writes it.
        """
        self.verdicts.append(verdict)
        self._by_case.setdefault(verdict.case, []).append(verdict)
        self.unsaved.append(verdict)
        self.save()

    def save(self) -> None:
        """Write what is ``unsaved``. Raises :class:`OutputError`; what could not be written stays there."""
        if self._is_gone():
            self.close()
            self._restore()
        while self.unsaved:
            self._append(line_of(self.unsaved[0]))
            del self.unsaved[0]

    def _is_gone(self) -> bool:
        """Return whether what was read or written is not in the folder any more."""
        if self._handle is None:
            return len(self.verdicts) > len(self.unsaved) and not self.folder.exists()
        try:  # numbers of files change on some network drives: they are not compared
            return os.fstat(self._handle).st_nlink == 0 or os.stat(self._path).st_size != self._size
        except OSError:
            return True

    def _restore(self) -> None:
        """Let all known verdicts be written again that are not on the disk any more, also those of other readers."""
        there = {verdict.id for verdict in self.unsaved}
        with contextlib.suppress(JournalError):
            there |= {verdict.id for verdict in read(self.folder).verdicts}
        again = [verdict for verdict in self.verdicts if verdict.id not in there]
        self.unsaved = [*again, *self.unsaved]
        if again:
            self.notes.append(
                f"The folder {printable(self.folder.name)} was removed or replaced while the review was open: "
                f"{plural(len(again), 'line')} of its journals {_were(len(again))} written again."
            )

    def of(self, case: str) -> list[Verdict]:
        """Return the verdicts on a case, also undone ones, in the order of their times."""
        return self._by_case.get(case, [])

    def close(self) -> None:
        """Let go of this session's file. Another verdict begins a new one."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            with contextlib.suppress(OSError):
                os.close(handle)

    def new(self, case: str, verdict: Kind, labels_sha256: str, **fields: Any) -> Verdict:
        """Return a verdict of this reader, later than the one before also if the clock was set back."""
        self._last = max(utc_now(), self._last)
        return Verdict(case, self.reader, verdict, labels_sha256, time=self._last, **fields)

    def _append(self, line: bytes) -> None:
        """Write a line at once and wait until it is on the disk. After an error the next line begins a new file."""
        with output_errors(self.folder / "The journal"):
            if self._handle is None:
                self._begin()
            assert self._handle is not None
            try:
                if os.write(self._handle, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._handle)
            except OSError:
                self._abandon()
                raise
            self._size += len(line)

    def _begin(self) -> None:
        """Make a new file. Raises ``OSError`` or :class:`OutputError`."""
        make_folder(self.folder)
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", self.reader)[:40].strip("_") or "reader"
        self._path = self.folder / f"{plain}-{machine()}-{uuid.uuid4().hex[:12]}{ENDING}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._handle, self._size = os.open(self._path, flags, 0o666), 0
        with contextlib.suppress(OSError):  # some network drives have no locks
            lock(self._handle)
        sync_folder(self.folder)
        sync_folder(self.folder.parent)

    def _abandon(self) -> None:
        """Cut off what was written of a line that failed, and close the file; remove it if it holds no other line."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
            self.close()
            if not self._size:
                with contextlib.suppress(OSError):
                    self._path.unlink()
