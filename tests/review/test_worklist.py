"""The list of a reader: order, filters, progress, corrected labels, what is read and what is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from CardiacLDMLib.errors import OutputError, VolumeError
from CardiacLDMLib.image.case_names import case_name
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.review import cache, sources, worklist
from CardiacLDMLib.review.cache import content_hash
from CardiacLDMLib.review.journal import Journal
from CardiacLDMLib.review.sources import Source, cases_of_scene
from CardiacLDMLib.review.verdicts import standing
from CardiacLDMLib.review.worklist import Filter, Worklist, open_worklist
from CardiacLDMLib.segmentation.findings import Finding
from tests.support.review import pairs_folder, small_labels, training_folder


def shown(cases: Worklist, which: Filter = "all", order: worklist.Order = "given") -> list[str]:
    return [case.name[-1] for case in cases.shown(which, order)]


def only_note(*_: object) -> NoReturn:
    raise AssertionError("A file was read.")


def test_the_panel_can_import_it_in_slicer() -> None:
    code = "import sys, CardiacLDMLib.review.worklist; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "monai", "SimpleITK", "pydantic", "cc3d", "scipy", "numpy"}


def test_hundreds_of_cases_are_open_without_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(500):
        place = tmp_path / f"pair_{number:04d}"
        place.mkdir()
        (place / "ct.nii.gz").write_bytes(b"not read")
        (place / "labels.nii.gz").write_bytes(b"%d" % number)
    monkeypatch.setattr(cache, "sha256", only_note)
    monkeypatch.setattr(sources, "read_both", only_note)
    cases = open_worklist(tmp_path, "Ann")
    assert len(cases.shown("unseen", "worst")) == 500
    assert not cases.shown("mine")
    assert cases.resume() is cases.cases[0]
    assert cases.advance().total == 500
    monkeypatch.undo()
    cases.judge("pair_0000", "accept", seconds=3)
    assert cases.resume() is cases.cases[1]


def test_verdicts_order_filters_and_resuming(tmp_path: Path) -> None:
    cases = open_worklist(pairs_folder(tmp_path), "Ann")
    assert shown(cases, order="worst") == ["1", "2", "3"]
    for case in cases.cases:
        cases.findings(case.name)
    assert shown(cases, order="worst") == ["2", "1", "3"]
    assert shown(cases, "flagged") == ["2"]
    given = cases.judge("pair_0001", "accept", seconds=10.0, place=(1, 2, 3), reason="good")
    assert (given.package, given.place) == ("pairs 2.0", (1.0, 2.0, 3.0))
    assert len(given.labels_sha256) == len(given.scan_sha256) == 64
    cases.judge("pair_0003", "fix", structure="LA", seconds=3.0)
    assert shown(cases, "mine") == ["1", "3"]
    assert shown(cases, "unseen") == ["2", "3"]
    assert shown(cases, "flagged") == ["2", "3"]
    later = open_worklist(tmp_path, "Ann")
    assert later.resume() is later["pair_0002"]
    assert shown(later, order="worst") == ["2", "1", "3"]
    undone = later.undo()
    assert undone is not None
    assert undone.structure == "LA"
    assert shown(later, "mine") == ["1"]
    assert shown(open_worklist(tmp_path, "Bob"), "unseen") == ["1", "2", "3"]


def test_undo_keeps_to_the_cases_of_the_list(tmp_path: Path) -> None:
    both = open_worklist(training_folder(tmp_path), "Ann")
    both.judge("a", "accept")
    both.judge("b", "accept")
    part = Worklist(Source([both["a"]], tmp_path / "review"), Journal(tmp_path / "review", "Ann"))
    undone = part.undo()
    assert undone is not None
    assert undone.case == "a"
    assert part.undo() is None


def test_progress_is_told_by_the_median_time_of_a_case(tmp_path: Path) -> None:
    cases = open_worklist(training_folder(tmp_path, ("a", "b", "c", "d", "e")), "Ann")
    assert (cases.advance().done, cases.advance().seconds_left) == (0, None)
    for name, seconds in (("a", 10.0), ("b", 30.0), ("c", 20_000.0)):
        cases.judge(name, "fix", structure="LA", seconds=seconds / 2)
        cases.judge(name, "fix", seconds=seconds / 2)
    advance = cases.advance()
    assert (advance.done, advance.total, advance.median_seconds, advance.seconds_left) == (3, 5, 30.0, 60.0)


def test_verdicts_on_labels_that_changed_are_outdated(tmp_path: Path) -> None:
    cases = open_worklist(training_folder(tmp_path), "Ann")
    cases.judge("a", "accept")
    assert cases.status("a").is_done
    (tmp_path / "labels" / "a.nii.gz").write_bytes((tmp_path / "labels" / "b.nii.gz").read_bytes() + b"more")
    for each in (cases, open_worklist(tmp_path, "Ann")):
        status = each.status("a")
        assert (status.is_done, status.is_outdated, status.judgement.outcome) == (False, True, "accept")
        assert each.resume() is each["a"]


def test_corrected_labels_are_a_new_file_for_their_reader(tmp_path: Path) -> None:
    ann, bob = open_worklist(pairs_folder(tmp_path), "Ann"), open_worklist(tmp_path, "Bob")
    first = (tmp_path / "pair_0002" / "labels.nii.gz").read_bytes()
    ann.findings("pair_0002")
    ann.judge("pair_0002", "fix")
    good, _image = ann.read("pair_0001")
    ann.correct("pair_0002", good, seconds=5.0)
    assert ann.status("pair_0002").is_outdated
    assert ann.known_findings("pair_0002") is None
    assert [finding.rule for finding in ann.findings("pair_0002")] == []
    assert (ann.read("pair_0002")[0].array == good.array).all()
    ann.judge("pair_0002", "accept")
    assert open_worklist(tmp_path, "Ann").status("pair_0002").is_done
    bob.journal.refresh()
    assert bob.labels_of("pair_0002") == tmp_path / "pair_0002" / "labels.nii.gz"
    assert (tmp_path / "pair_0002" / "labels.nii.gz").read_bytes() == first
    assert ann.undo() is not None
    assert ann.undo() is not None  # the correction
    assert ann.labels_of("pair_0002") == tmp_path / "pair_0002" / "labels.nii.gz"


def test_a_reader_sees_others_only_when_both_are_done(tmp_path: Path) -> None:
    ann, bob = open_worklist(training_folder(tmp_path), "Ann"), open_worklist(tmp_path, "Bob")
    bob.judge("a", "reject")
    ann.journal.refresh()
    assert ann.seen("a") == ann.disagreements() == []
    ann.judge("a", "accept")
    assert {v.reader for v in ann.seen("a")} == {"Ann", "Bob"}
    (found,) = ann.disagreements()
    ann.settle(found, "reject", "agreed")
    assert [each.settled for each in ann.disagreements()] == ["reject"]


def test_a_case_of_the_scene_has_no_file(tmp_path: Path) -> None:
    cases = Worklist(Source(cases_of_scene(["Heart"]), tmp_path), Journal(tmp_path, "Ann"))
    first, second = content_hash(small_labels()), content_hash(small_labels(2))
    assert first != second
    cases.set_hash("Heart", first)
    cases.keep("Heart", [Finding("order", ("RA", "LV"), where="right of", place=(1.0, 2.0, 3.0), severity=0.5)])
    cases.judge("Heart", "accept")
    assert cases.status("Heart").is_done
    assert shown(cases, "flagged") == ["t"]
    cases.set_hash("Heart", second)
    assert cases.status("Heart").is_outdated
    assert cases.known_findings("Heart") is None


# --- bad input -----------------------------------------------------------------------------------------------------


def test_labels_without_their_scan_and_a_scan_without_labels(tmp_path: Path) -> None:
    training_folder(tmp_path)
    (tmp_path / "images" / "a.nii.gz").unlink()
    (tmp_path / "labels" / "b.nii.gz").unlink()
    cases = open_worklist(tmp_path, "Ann")
    assert cases.findings("a") == []
    assert not cases.judge("a", "accept").scan_sha256
    with pytest.raises(VolumeError):
        cases.findings("b")
    cases.judge("b", "reject", reason="no labels")
    assert cases.resume() is None


def test_empty_labels_are_the_worst(tmp_path: Path) -> None:
    pairs_folder(tmp_path, 2, ())
    cases = open_worklist(tmp_path, "Ann")
    empty = Volume(np.zeros((4, 4, 4), dtype=np.uint8), np.eye(4))
    (tmp_path / "pair_0001" / "ct.nii.gz").unlink()
    cases.correct("pair_0001", empty)
    assert [finding.rule for finding in open_worklist(tmp_path, "Ann").findings("pair_0001")] == ["missing"]


def test_a_folder_that_is_read_only_is_reviewed_with_the_journal_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = training_folder(tmp_path / "data")

    def refuse(*_: object) -> NoReturn:
        raise OutputError("It is read-only.")

    with monkeypatch.context() as drive:
        drive.setattr(cache, "write_text", refuse)
        drive.setattr(Journal, "_begin", refuse)
        cases = open_worklist(data, "Ann")
        assert cases.findings("a") == []
        with pytest.raises(OutputError):
            cases.judge("a", "accept")
        assert cases.status("a").is_done
        assert len(cases.journal.unsaved) == 1
    elsewhere = open_worklist(data, "Ann", review=tmp_path / "mine")
    elsewhere.judge("a", "accept")
    assert len(standing(Journal(tmp_path / "mine", "Bob").verdicts)) == 1
    assert not (data / "review").exists()


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    cases = open_worklist(training_folder(tmp_path), "Ann")
    cases.findings("a")
    file = tmp_path / "review" / "computed.json"
    odd = file.read_text().replace("[]", '[{"odd": 1}]')
    for text in ("{", "[]", '{"version": 1}', odd):
        file.write_text(text)
        again = open_worklist(tmp_path, "Ann")
        assert again.findings("a") == []


def test_corrected_labels_of_a_case_with_the_longest_name_have_a_file(tmp_path: Path) -> None:
    digest = worklist.write_corrected(tmp_path, case_name("日" * 200), small_labels())
    (path,) = (tmp_path / worklist.CORRECTED).iterdir()
    assert digest[:16] in path.name
