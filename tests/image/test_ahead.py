"""Reading ahead: one scan and no more, errors at their own case, and no reading that silences the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import RLELossless

from CardiacLDMLib.errors import VolumeError
from CardiacLDMLib.image import ahead
from CardiacLDMLib.image.ahead import ReadAhead
from CardiacLDMLib.image.cases import Case, Refused, find_cases, read_case
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume
from tests.support.dicom import write_series

NAMES = ("a", "b", "c", "d")


class Reads:
    """Notes which cases are read, and on which thread. A case in ``errors`` fails."""

    def __init__(self) -> None:
        self.threads: dict[str, threading.Thread] = {}
        self.there = {name: threading.Event() for name in NAMES}
        self.errors: dict[str, Exception] = {}

    def read(self, case: Case) -> tuple[Volume, tuple[str, ...]]:
        self.threads[case.name] = threading.current_thread()
        self.there[case.name].set()
        if case.name in self.errors:
            raise self.errors[case.name]
        return Volume(np.full((2, 2, 2), ord(case.name), dtype=np.int16), np.eye(4)), (case.name,)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads = Reads()
    monkeypatch.setattr(ahead, "read_case_with_notes", reads.read)
    return reads


@pytest.fixture
def cases() -> list[Case]:
    return [Case(name, Path(name)) for name in NAMES]


@pytest.fixture
def reader(reads: Reads, cases: list[Case]) -> Iterator[ReadAhead]:
    reader = ReadAhead(cases)
    yield reader
    reader.close()


def test_the_next_scan_is_read_while_the_last_one_is_in_use_and_no_more(
    reader: ReadAhead, reads: Reads, cases: list[Case]
) -> None:
    for case, after in zip(cases, (*NAMES[1:], None), strict=True):
        volume, notes = reader.read(case)
        assert (volume.array == ord(case.name)).all()
        assert notes == (case.name,)
        assert after is None or reads.there[after].wait(60)
        assert len(reads.threads) <= NAMES.index(case.name) + 2
    assert threading.main_thread() not in reads.threads.values()


def test_an_error_belongs_to_its_own_case(reader: ReadAhead, reads: Reads, cases: list[Case]) -> None:
    reads.errors = {"b": VolumeError("b is damaged."), "c": MemoryError()}
    assert reader.read(cases[0])[1] == ("a",)
    with pytest.raises(VolumeError, match="b is damaged"):
        reader.read(cases[1])
    with pytest.raises(MemoryError):
        reader.read(cases[2])
    assert reader.read(cases[3])[1] == ("d",)


def test_stopped_it_holds_no_scan_and_reads_each_when_it_is_needed(
    reader: ReadAhead, reads: Reads, cases: list[Case]
) -> None:
    reader.read(cases[0])
    assert reader.stop()
    assert not reader.stop()
    for case in (cases[0], *cases[1:]):  # the first one again, as after a shortage of memory
        assert reader.read(case)[1] == (case.name,)
        assert reads.threads[case.name] is threading.main_thread()


def test_compressed_dicom_is_not_read_beside_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoders' complaints are kept off the screen, and with them all that the process prints meanwhile."""
    array = np.arange(6 * 8 * 5, dtype=np.int16).reshape(6, 8, 5)
    write_volume(Volume(array, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "in" / "a.nii.gz")
    write_series(tmp_path / "in" / "b", array, change=lambda data, _: data.compress(RLELossless))
    write_series(tmp_path / "in" / "c", array)
    paths = [tmp_path / "in" / name for name in ("a.nii.gz", "b", "c")]
    found = [case for case in find_cases(paths) if not isinstance(case, Refused)]
    threads = {}
    monkeypatch.setattr(
        ahead, "read_case_with_notes",
        lambda case: (threads.setdefault(case.name, threading.current_thread()), (read_case(case), ()))[1],
    )  # fmt: skip
    reader = ReadAhead(found)
    for case in found:
        reader.read(case)
    reader.close()
    assert {name: thread is threading.main_thread() for name, thread in threads.items()} == {
        "a": False, "b": True, "c": False,
    }  # fmt: skip
