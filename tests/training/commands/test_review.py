"""``cardiacldm review`` as users run it: check, report, export, and what goes wrong."""

from __future__ import annotations

import csv
import gzip
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from typer.testing import CliRunner

from cardiacldm_training.cases.store import gather, prepare
from cardiacldm_training.cli import app
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.image.cases import read_case
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.packages import store
from CardiacLDMLib.review import export
from CardiacLDMLib.review.worklist import Worklist, open_worklist
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.box_heart import box_heart, box_pair, without
from tests.support.dicom import PATIENT_ID, PATIENT_NAME, write_series
from tests.support.phantom import phantom
from tests.support.phantom_package import write_phantom_package
from tests.support.review import pairs_folder, training_folder


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["review", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cases_of(folder: Path) -> dict[str, np.ndarray]:
    """Return the labels of an exported folder by the name of the case."""
    return {path.parent.name: read_volume(path).array for path in sorted(folder.glob("*/labels.nii.gz"))}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs, the second with a fault; each has a scan of its own."""
    folder = pairs_folder(tmp_path / "pairs")
    for number, path in enumerate(sorted(folder.glob("*/ct.nii.gz"))):
        volume = read_volume(path)
        write_volume(Volume(volume.array + number, volume.affine), path)
    return folder


@pytest.fixture
def ann(pairs: Path) -> Worklist:
    return open_worklist(pairs, "Ann Reader")


# --- check ---------------------------------------------------------------------------------------------------------


def test_check_lists_the_worst_case_first_and_goes_on_past_bad_ones(pairs: Path) -> None:
    (pairs / "pair_0001" / "labels.nii.gz").write_bytes(b"nonsense")
    result = run("check", pairs)
    assert result.exit_code == 1
    assert "pair_0001" in result.stderr
    table = [line for line in result.stdout.splitlines() if line.startswith("| pair")]
    assert len(table) == 1
    assert table[0].startswith("| pair_0002")
    found = rows(pairs / "review" / "findings.csv")
    assert [(row["case"], row["rule"]) for row in found if row["case"] != "pair_0002"] == [
        ("pair_0001", "unreadable"), ("pair_0003", ""),
    ]  # fmt: skip
    worst = next(row for row in found if row["case"] == "pair_0002")
    assert (worst["rule"], worst["structures"]) == ("missing", "LA")
    assert open_worklist(pairs, "Ann").shown(order="worst")[0].name == "pair_0002"


def test_check_looks_at_corrected_labels_once_they_are_accepted(pairs: Path, ann: Worklist) -> None:
    ann.correct("pair_0002", Volume(box_heart(), ann.read("pair_0002")[0].affine))
    assert run("check", pairs).exit_code == 0
    assert "missing" in {row["rule"] for row in rows(pairs / "review" / "findings.csv")}
    ann.judge("pair_0002", "accept")
    assert run("check", pairs).exit_code == 0
    assert {row["rule"] for row in rows(pairs / "review" / "findings.csv")} == {""}


def test_check_in_several_processes_finds_the_same(pairs: Path, tmp_path: Path) -> None:
    assert run("check", pairs, "--out", tmp_path / "one", "--review", tmp_path / "first").exit_code == 0
    assert run("check", pairs, "--out", tmp_path / "two", "--workers", 2).exit_code == 0
    one, two = (rows(tmp_path / name / "findings.csv") for name in ("one", "two"))
    assert {row["case"] for row in one} == {"pair_0001", "pair_0002", "pair_0003"}
    assert one == two
    assert run("check", pairs, "--out", tmp_path / "again").exit_code == 0  # from the cache
    assert rows(tmp_path / "again" / "findings.csv") == one


def test_check_compares_with_the_package_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write_phantom_package(tmp_path / "phantom")
    monkeypatch.setattr(store, "locate_package", lambda name=None: package)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    image, labels = phantom(Grid((45, 45, 45), affine), heart=(95.0, 82.0, 101.0))
    inside = np.argwhere(labels.array == 1)
    labels.array[tuple(inside[: len(inside) // 2].T)] = 0
    for name in ("one", "two"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        write_volume(image, tmp_path / "pairs" / name / "ct.nii.gz")
        write_volume(labels, tmp_path / "pairs" / name / "labels.nii.gz")
    (tmp_path / "pairs/two/ct.nii.gz").unlink()
    assert run("check", tmp_path / "pairs").exit_code == 0
    found = rows(tmp_path / "pairs/review/findings.csv")
    assert "own labels" not in {row["rule"] for row in found}
    assert run("check", tmp_path / "pairs", "--with-package", "--device", "cpu").exit_code == 0
    found = rows(tmp_path / "pairs/review/findings.csv")
    assert {row["case"] for row in found if row["rule"] == "own labels"} == {"one"}
    monkeypatch.setattr(Segmenter, "segment", None)  # not a second time
    assert run("check", tmp_path / "pairs", "--with-package").exit_code == 0
    assert rows(tmp_path / "pairs/review/findings.csv") == found


def test_an_empty_name_is_not_the_current_folder() -> None:
    assert run("check", "").exit_code == 2


@pytest.mark.parametrize("name", ["missing", "empty", "list.csv"])
def test_what_holds_no_cases_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("a,b\n")
    for command in (["check"], ["report"], ["export", "--out", tmp_path / "data"]):
        result = run(command[0], tmp_path / name, *command[1:])
        assert result.exit_code == 2
        assert name in result.stderr
    assert not (tmp_path / "data").exists()


# --- report --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects what a page loads, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_page_with_its_pictures(pairs: Path, ann: Worklist) -> None:
    ann.judge("pair_0003", "reject", reason="<script>alert(1)</script> | odd", place=(0, 0, 0), seconds=12.0)
    ann.judge("pair_0001", "accept", seconds=4.0)
    result = run("report", pairs)
    assert result.exit_code == 0, result.output
    folder = pairs / "review" / "report"
    assert {path.name for path in folder.iterdir()} == {"review.html", "review.md", "verdicts.csv", "findings.csv"}
    html = (folder / "review.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.tags.count("img") == 2  # the fault, and the case that was rejected
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "script" not in page.tags
    assert "http" not in re.sub(r'http-equiv|"data:[^"]*"', "", html)
    assert "<script>alert(1)</script>" in page.text
    assert page.text.index("pair_0002") < page.text.index("pair_0003")
    markdown = (folder / "review.md").read_text(encoding="utf-8")
    assert "\\| odd" in markdown
    verdicts = rows(folder / "verdicts.csv")
    assert [(row["case"], row["verdict"], row["outdated"]) for row in verdicts] == [
        ("pair_0001", "accept", ""), ("pair_0003", "reject", ""),
    ]  # fmt: skip


def test_the_report_says_which_verdicts_are_outdated(pairs: Path, ann: Worklist) -> None:
    ann.judge("pair_0001", "accept")
    write_volume(box_pair(without("LV")).labels, pairs / "pair_0001" / "labels.nii.gz")
    assert run("report", pairs, "--pictures", 0).exit_code == 0
    (row,) = rows(pairs / "review" / "report" / "verdicts.csv")
    assert row["outdated"] == "yes"


def test_the_report_keeps_a_second_reader_blinded(pairs: Path, ann: Worklist) -> None:
    bob = open_worklist(pairs, "Bob")
    ann.judge("pair_0001", "reject", reason="secret one")
    ann.judge("pair_0003", "fix", "LA", reason="open one")
    ann.judge("pair_0003", "fix")
    bob.judge("pair_0003", "accept")
    assert run("report", pairs, "--pictures", 3).exit_code == 0
    files = sorted((pairs / "review" / "report").iterdir())
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert "secret one" not in text
    assert "open one" in text
    assert "to settle" in text
    assert "Agreement of readers" in text
    assert run("report", pairs, "--unblind").exit_code == 0
    assert "secret one" in files[-1].read_text(encoding="utf-8")


# --- export --------------------------------------------------------------------------------------------------------


def test_accepted_cases_train(pairs: Path, ann: Worklist, tmp_path: Path) -> None:
    ann.judge("pair_0001", "accept")
    ann.judge("pair_0002", "fix")
    ann.correct("pair_0002", Volume(box_heart(), ann.read("pair_0002")[0].affine))
    ann.judge("pair_0002", "accept")
    ann.judge("pair_0003", "reject")
    out = tmp_path / "data"
    result = run("export", pairs, "--out", out)
    assert result.exit_code == 0, result.output
    labels = cases_of(out)
    assert len(labels) == 2
    assert all((array == box_heart()).all() for array in labels.values())  # the second as corrected
    prepared = prepare(gather([out], tmp_path / "cache"), 3.0)
    assert len(prepared.cases) == 2
    assert not prepared.skipped
    again = run("export", pairs, "--out", tmp_path / "again")
    assert again.exit_code == 0
    assert set(cases_of(tmp_path / "again")) == set(labels)
    assert run("export", pairs, "--out", out).exit_code == 2
    assert set(cases_of(out)) == set(labels)
    rejected = run("export", pairs, "--out", tmp_path / "bad", "--verdict", "reject")
    assert rejected.exit_code == 0
    assert len(cases_of(tmp_path / "bad")) == 1


def test_an_export_names_no_people(tmp_path: Path) -> None:
    folder = tmp_path / "Mustermann Erika"
    array = np.zeros((12, 10, 8), dtype=np.int16)
    array[3:9, 3:7, 2:6] = 300
    write_series(tmp_path / "scans" / "Mustermann", array)
    folder.mkdir()
    result_labels = Volume((array > 0).astype(np.uint8), np.eye(4))
    write_volume(result_labels, folder / "Mustermann.labels.nii.gz")
    cases = open_worklist(folder, "Dr Reader", scans=tmp_path / "scans")
    image = cases.cases[0].scan
    assert image is not None
    scan = read_case(image)
    write_volume(Volume((scan.array > 0).astype(np.uint8), scan.affine), folder / "Mustermann.labels.nii.gz")
    cases.judge("Mustermann", "accept", reason="Frau Mustermann, geb. 1950")
    out = tmp_path / "data"
    assert run("export", folder, "--scans", tmp_path / "scans", "--out", out).exit_code == 0
    for path in out.rglob("*"):
        content = b""
        if path.is_file():
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for word in (PATIENT_NAME, PATIENT_ID, "Mustermann", "Reader", "1950"):
            assert word not in str(path.relative_to(out))
            assert word.encode() not in content


def test_an_export_leaves_out_what_is_in_doubt(pairs: Path, ann: Worklist, tmp_path: Path) -> None:
    bob = open_worklist(pairs, "Bob")
    ann.judge("pair_0001", "accept")
    bob.judge("pair_0001", "reject")
    ann.judge("pair_0002", "accept")
    ann.judge("pair_0003", "accept")
    write_volume(box_pair(without("LV")).labels, pairs / "pair_0003" / "labels.nii.gz")
    result = run("export", pairs, "--out", tmp_path / "data")
    assert result.exit_code == 1
    assert "pair_0001" in result.stderr
    assert "pair_0003" in result.stderr
    assert len(cases_of(tmp_path / "data")) == 1
    ann.journal.refresh()
    (found,) = ann.disagreements()
    ann.settle(found, "accept")
    assert run("export", pairs, "--out", tmp_path / "settled").exit_code == 1
    assert len(cases_of(tmp_path / "settled")) == 2


def test_labels_that_were_corrected_after_a_disagreement_are_exported(
    pairs: Path, ann: Worklist, tmp_path: Path
) -> None:
    bob = open_worklist(pairs, "Bob")
    ann.judge("pair_0002", "accept")
    bob.judge("pair_0002", "reject")
    ann.journal.refresh()
    (found,) = ann.disagreements()
    ann.settle(found, "fix")
    assert run("export", pairs, "--out", tmp_path / "early").exit_code == 2
    ann.correct("pair_0002", Volume(box_heart(), ann.read("pair_0002")[0].affine))
    ann.judge("pair_0002", "accept")
    assert run("export", pairs, "--out", tmp_path / "data").exit_code == 0
    (labels,) = cases_of(tmp_path / "data").values()
    assert (labels == box_heart()).all()
    bob.correct("pair_0002", Volume(without("LAA"), ann.read("pair_0002")[0].affine))
    bob.judge("pair_0002", "accept")
    result = run("export", pairs, "--out", tmp_path / "two")
    assert result.exit_code == 2
    assert "Ann Reader and Bob" in result.stderr
    bob.journal.refresh()
    (different,) = [each for each in bob.disagreements() if each.settled is None]
    bob.settle(different, "accept", labels_sha256=different.labels["Ann Reader"])
    assert run("export", pairs, "--out", tmp_path / "right").exit_code == 0
    (labels,) = cases_of(tmp_path / "right").values()
    assert (labels == box_heart()).all()


def test_an_export_on_a_full_disk_leaves_nothing(
    pairs: Path, ann: Worklist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> NoReturn:
        raise OutputError("The disk is full.")

    ann.judge("pair_0001", "accept")
    with monkeypatch.context() as full:
        full.setattr(export, "write_volume", full_disk)
        assert run("export", pairs, "--out", tmp_path / "out" / "data").exit_code == 2
    assert not list((tmp_path / "out").iterdir())


def test_an_export_without_cases_leaves_nothing(pairs: Path, tmp_path: Path) -> None:
    result = run("export", pairs, "--out", tmp_path / "data")
    assert result.exit_code == 2
    assert run("export", pairs, "--out", tmp_path / "data", "--verdict", "splendid").exit_code == 2
    training_folder(tmp_path / "train", ("a",))
    (tmp_path / "train" / "images" / "a.nii.gz").unlink()
    open_worklist(tmp_path / "train", "Ann").judge("a", "accept")
    result = run("export", tmp_path / "train", "--out", tmp_path / "data")
    assert result.exit_code == 2
    assert "no scan" in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_scan_that_changed_since_is_left_out(pairs: Path, ann: Worklist, tmp_path: Path) -> None:
    ann.judge("pair_0001", "accept")
    ann.judge("pair_0003", "accept")
    write_volume(box_pair().image, pairs / "pair_0003" / "ct.nii.gz")
    result = run("export", pairs, "--out", tmp_path / "data")
    assert result.exit_code == 1
    assert "pair_0003" in result.stderr


def test_a_journal_of_a_newer_version_stops_before_any_work(pairs: Path, ann: Worklist, tmp_path: Path) -> None:
    ann.judge("pair_0001", "accept")
    (pairs / "review" / "Bob.jsonl").write_text('{"format": 99}\n')
    for command in (["check"], ["report"], ["export", "--out", tmp_path / "data"]):
        result = run(command[0], pairs, *command[1:])
        assert result.exit_code == 2
        assert "newer" in result.stderr
    assert not (tmp_path / "data").exists()


def test_tables_hold_no_formulas(pairs: Path) -> None:
    (pairs / "pair_0001").rename(pairs / "=1+1")
    evil = open_worklist(pairs, '=HYPERLINK("http://x")')
    evil.judge("=1+1", "reject", reason="@SUM(A1)")
    assert run("report", pairs, "--pictures", 0).exit_code == 0
    for name in ("verdicts.csv", "findings.csv"):
        cells = [cell for row in rows(pairs / "review" / "report" / name) for cell in row.values()]
        assert any("1+1" in cell for cell in cells)
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]


@pytest.mark.parametrize("name", ["Images", "labels", "review"])
def test_an_export_does_not_become_part_of_the_review(pairs: Path, ann: Worklist, name: str) -> None:
    ann.judge("pair_0001", "accept")
    result = run("export", pairs, "--out", pairs / name)
    assert (result.exit_code, name in result.stderr) == (2, True)
    assert not (pairs / name / "review.json").exists()


def test_damage_of_journals_is_said(pairs: Path, ann: Worklist) -> None:
    ann.judge("pair_0001", "accept")
    (pairs / "review" / "Bob.jsonl").write_text("hand-edited\n")
    for command in ("check", "report"):
        assert "Bob.jsonl" in run(command, pairs).stderr
