"""``cardiacldm segment`` as users run it: good scans, bad ones, and being stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from highdicom.seg import segread
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import OutputError, explain
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.results.case_files import ENDINGS
from CardiacLDMLib.results.report import CaseReport
from tests.support.bad_inputs import write_bad_inputs
from tests.support.dicom import DESCRIPTION, PATIENT_ID, PATIENT_NAME, write_series
from tests.support.phantom import phantom
from tests.support.phantom_package import write_phantom_package

#: A left-handed grid, its slices stored from the head down.
AFFINE = np.array([[-4.0, 0, 0, 90], [0, 4, 0, -95], [0, 0, -5, 100], [0, 0, 0, 1]])
GRID = Grid((44, 44, 36), AFFINE)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom_package(tmp_path_factory.mktemp("packages") / "phantom")


@pytest.fixture(scope="module")
def truth() -> tuple[Volume, Volume]:
    return phantom(GRID)


@pytest.fixture
def scan(tmp_path: Path, truth: tuple[Volume, Volume]) -> Path:
    write_volume(truth[0], tmp_path / "in" / "chest.nrrd")
    return tmp_path / "in" / "chest.nrrd"


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["segment", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


# --- good scans ----------------------------------------------------------------------------------------------------


def test_a_scan_becomes_four_files_with_the_right_labels(
    tmp_path: Path, scan: Path, package: Path, truth: tuple[Volume, Volume]
) -> None:
    result = run(scan, "--out", tmp_path / "out", "--package", package, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert files(tmp_path / "out") == sorted(f"chest{ending}" for ending in ENDINGS)
    labels = read_volume(tmp_path / "out" / "chest.labels.nii.gz")
    assert labels.grid.same_as(GRID)
    for value in anatomy.BY_VALUE:
        assert dice(labels.array == value, truth[1].array == value) > 0.6, value
    report = CaseReport.model_validate_json((tmp_path / "out" / "chest.report.json").read_text(encoding="utf-8"))
    assert report.heart_found
    assert report.device == "cpu"
    assert report.source == "chest.nrrd"
    assert report.package.name == "phantom"
    assert {"read", "locate", "segment", "write"} <= set(report.seconds)
    assert report.volumes_ml["LV"] == pytest.approx((labels.array == 2).sum() * 0.08, abs=0.01)
    assert str(tmp_path) not in (tmp_path / "out" / "chest.report.json").read_text(encoding="utf-8")
    assert "chest: done" in result.stdout
    assert "chest: segmenting" in result.stderr


def test_a_dicom_series_gives_the_same_labels_and_names_no_one(
    tmp_path: Path, scan: Path, package: Path, truth: tuple[Volume, Volume]
) -> None:
    lps = np.diag([-1.0, -1.0, 1.0]) @ AFFINE[:3, :3]  # the first slice is the lowest: against the axis of the volume
    origin = np.diag([-1.0, -1.0, 1.0]) @ (AFFINE @ [0, 43, 35, 1])[:3]
    axes = (tuple(lps[:, 0] / 4), tuple(-lps[:, 1] / 4))
    folder = tmp_path / "in" / "study"
    array = truth[0].array[:, ::-1, ::-1]
    write_series(folder, array, spacing=(4.0, 4.0, 5.0), origin=tuple(origin), axes=axes, number=4)
    write_series(folder, array[:, :, :8], spacing=(4.0, 4.0, 5.0), number=2, prefix="B", modality="MR")
    write_series(folder, array[:, :, :1], number=1, prefix="C", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    result = run(folder, scan, "--out", tmp_path / "out", "--package", package)
    assert result.exit_code == 0, result.output
    assert "series 4 (36 slices, CT, axial, 5 mm apart)" in result.stderr
    of_dicom = read_volume(tmp_path / "out" / "study.labels.nii.gz").array[:, ::-1, ::-1]
    of_file = read_volume(tmp_path / "out" / "chest.labels.nii.gz").array
    assert np.array_equal(of_dicom, of_file)
    everything = result.output.encode() + b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    for secret in (PATIENT_NAME, PATIENT_ID, DESCRIPTION, "Mustermann", "19701224", "Musterstadt"):
        assert secret.encode() not in everything


def test_dicom_seg_lies_on_the_slices_of_its_scan(tmp_path: Path, scan: Path, package: Path) -> None:
    array = read_volume(scan).array
    write_series(tmp_path / "in" / "study", array, spacing=(4.0, 4.0, 5.0))
    options = ("--out", tmp_path / "out", "--package", package, "--dicom-seg")
    result = run(tmp_path / "in" / "study", scan, *options)
    assert result.exit_code == 0, result.output
    assert "chest" in next(line for line in result.stderr.splitlines() if "DICOM" in line)
    assert [name for name in files(tmp_path / "out") if name.endswith(".dcm")] == ["study.seg.dcm"]
    labels = read_volume(tmp_path / "out" / "study.labels.nii.gz")
    seg = segread(tmp_path / "out" / "study.seg.dcm")
    counted = dict(
        zip(seg.segment_numbers, np.bincount(seg.get_volume(combine_segments=True).array.ravel())[1:], strict=True)
    )
    named = {seg.get_segment_description(number).segment_label: count for number, count in counted.items()}
    assert named == {s.title: n for s in anatomy.STRUCTURES if (n := np.count_nonzero(labels.array == s.value))}
    (tmp_path / "out" / "study.seg.dcm").unlink()
    again = run(tmp_path / "in" / "study", scan, *options, "--skip-existing")
    assert again.exit_code == 0
    assert (tmp_path / "out" / "study.seg.dcm").exists()


def test_a_scan_without_a_heart_says_so(tmp_path: Path, package: Path, truth: tuple[Volume, Volume]) -> None:
    array = np.where(truth[1].array > 0, 0, truth[0].array).astype(np.int16)
    write_volume(Volume(array, AFFINE), tmp_path / "legs.nii.gz")
    result = run(tmp_path / "legs.nii.gz", "--out", tmp_path / "out", "--package", package)
    assert result.exit_code == 0, result.output
    assert "no heart found" in result.stdout
    report = json.loads((tmp_path / "out" / "legs.report.json").read_text(encoding="utf-8"))
    assert not report["heart_found"]
    assert not read_volume(tmp_path / "out" / "legs.labels.nii.gz").array.any()


def test_results_are_only_replaced_when_asked(tmp_path: Path, scan: Path, package: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "chest.png").write_bytes(b"mine")
    refused = run(scan, "--out", out, "--package", package)
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1].startswith("  chest: chest.png ")
    assert "reading" not in refused.stderr
    assert files(out) == ["chest.png"]
    assert (out / "chest.png").read_bytes() == b"mine"
    assert run(scan, "--out", out, "--package", package, "--overwrite", "--tta").exit_code == 0
    assert len(files(out)) == 4
    assert json.loads((out / "chest.report.json").read_text(encoding="utf-8"))["quality"] == "flips"


def results_of(scan: Path, package: Path, out: Path) -> dict[str, bytes]:
    assert run(scan, "--out", out, "--package", package, "--fast").exit_code == 0
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_case_that_has_its_results_is_skipped_and_counts_as_done(tmp_path: Path, scan: Path, package: Path) -> None:
    out = tmp_path / "out"
    before = results_of(scan, package, out)
    shutil.copy(scan, scan.with_name("second.nrrd"))
    result = run(scan.parent, "--out", out, "--package", package, "--fast", "--skip-existing")
    assert result.exit_code == 0, result.output
    assert "chest: done" not in result.stdout
    assert "second: done" in result.stdout
    assert "Segmented 1, skipped 1 " in result.stderr.splitlines()[-1]
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(after) == 8
    assert {name: after[name] for name in before} == before
    again = run(scan.parent, "--out", out, "--package", package, "--skip-existing")
    assert again.exit_code == 0
    assert "Segmented 0, skipped 2 " in again.stderr.splitlines()[-1]


def test_a_case_with_a_part_of_its_results_is_segmented_again(tmp_path: Path, scan: Path, package: Path) -> None:
    out = tmp_path / "out"
    before = results_of(scan, package, out)
    (out / "chest.report.json").unlink()
    result = run(scan, "--out", out, "--package", package, "--fast", "--skip-existing")
    assert result.exit_code == 0, result.output
    assert "chest: done" in result.stdout
    assert "skipped" not in result.stderr
    assert files(out) == sorted(before)


def test_what_to_do_with_existing_results_is_named_and_chosen_once(tmp_path: Path, scan: Path, package: Path) -> None:
    results_of(scan, package, tmp_path / "out")
    refused = run(scan, "--out", tmp_path / "out", "--package", package)
    assert refused.exit_code == 1
    assert "--skip-existing" in refused.stderr
    assert "--overwrite" in refused.stderr
    both = run(scan, "--out", tmp_path / "out", "--package", package, "--overwrite", "--skip-existing")
    assert both.exit_code == 2


# --- bad scans -----------------------------------------------------------------------------------------------------


def test_bad_inputs_of_every_kind_are_named_and_do_not_stop_the_good_one(
    tmp_path: Path, package: Path, truth: tuple[Volume, Volume]
) -> None:
    expected = write_bad_inputs(tmp_path / "in", truth[0])
    write_volume(truth[0], tmp_path / "in" / "good.nii.gz")
    names = list(expected)
    paths = [tmp_path / "in" / name for name in (*names[:10], "good.nii.gz", *names[10:])]
    result = run(*paths, "--out", tmp_path / "out", "--package", package)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()[-len(names) - 1 :]
    assert lines[0] == f"{len(names)} of {len(names) + 1} cases failed:"
    reasons = dict(line.strip().split(": ", 1) for line in lines[1:])
    assert len(reasons) == len(names)
    counts: dict[str, int] = {}
    for name, part in expected.items():
        stem = name.removesuffix(".gz").rsplit(".", 1)[0] if "." in name else name
        counts[stem] = counts.get(stem, 0) + 1
        reason = reasons[stem if counts[stem] == 1 else f"{stem}-{counts[stem]}"]
        assert part in reason, (name, reason)
        assert reason.endswith((".", "?"))
        assert "unforeseen" not in reason, (name, reason)
        assert str(tmp_path) not in reason
    assert files(tmp_path / "out") == sorted(f"good{ending}" for ending in ENDINGS)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (("--package", "no-such-package"), "no-such-package"),
        (("--device", "tpu"), "'tpu'"),
        (("--device", "cuda:77"), "GPU"),
    ],
)
def test_unusable_options_are_one_sentence(
    tmp_path: Path, scan: Path, package: Path, options: tuple[str, ...], fact: str
) -> None:
    result = run(scan, "--out", tmp_path / "out", "--package", package, *options)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    assert fact in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path, scan: Path, package: Path) -> None:
    result = run(scan, "--out", tmp_path / "out", "--package", package, "--device", "cuda")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "GPU" in result.stderr


@pytest.mark.parametrize(("out", "fact"), [("file", "file is a file"), ("file/out", "out ")])
def test_out_folders_that_cannot_be(tmp_path: Path, scan: Path, package: Path, out: str, fact: str) -> None:
    (tmp_path / "file").write_text("")
    result = run(scan, "--out", tmp_path / out, "--package", package)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert fact in result.stderr


def test_an_unforeseen_error_stops_only_its_case(
    tmp_path: Path, scan: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    predict = Segmenter.predict

    def sometimes(self: Segmenter, volume: Volume, **options: object) -> object:
        if volume.array.shape[2] == 20:
            raise RuntimeError("the moon\nis full")
        return predict(self, volume, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Segmenter, "predict", sometimes)
    write_volume(Volume(np.zeros((20, 20, 20), dtype=np.int16), np.eye(4)), tmp_path / "odd.nii.gz")
    result = run(tmp_path / "odd.nii.gz", scan, "--out", tmp_path / "out", "--package", package)
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("  odd: ")
    assert last.endswith("RuntimeError: the moon")
    assert "chest.report.json" in files(tmp_path / "out")


def test_the_next_scan_is_read_while_one_is_labelled(
    tmp_path: Path, scan: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first scan waits for the reading of the second one, which gets the labels that it gets by itself."""
    from CardiacLDMLib.image import ahead
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    read, predict = ahead.read_case_with_notes, Segmenter.predict
    there = threading.Event()
    labelled = 0

    def noticed(case: Any) -> Any:
        if case.name == "second":
            there.set()
        return read(case)

    def patient(self: Segmenter, volume: Volume, **options: object) -> object:
        nonlocal labelled
        labelled += 1
        assert there.wait(60)
        return predict(self, volume, **options)  # type: ignore[arg-type]

    second = scan.with_name("second.nrrd")
    write_volume(Volume(read_volume(scan).array[:, :, 4:], AFFINE), second)
    assert run(second, "--out", tmp_path / "alone", "--package", package).exit_code == 0
    monkeypatch.setattr(ahead, "read_case_with_notes", noticed)
    monkeypatch.setattr(Segmenter, "predict", patient)
    assert run(scan, second, "--out", tmp_path / "out", "--package", package).exit_code == 0
    assert labelled == 2
    for ending in (".labels.nii.gz", ".seg.nrrd"):
        name = f"second{ending}"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_case_is_finished_while_the_networks_work_on_the_next_one(
    tmp_path: Path, scan: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture of the first case waits for the networks' work on the second one, and fails."""
    from cardiacldm_training.results import case_picture
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    predict, draw = Segmenter.predict, case_picture.draw_case
    second_began, first_ended = threading.Event(), threading.Event()
    shapes = []

    def noticed(self: Segmenter, volume: Volume, **options: object) -> object:
        shapes.append(volume.array.shape)
        if len(shapes) == 2:
            second_began.set()
            assert first_ended.wait(60)
        return predict(self, volume, **options)  # type: ignore[arg-type]

    def patient(volume: Volume, labels: Volume, report: CaseReport, path: Path) -> None:
        if report.case == "chest":
            assert second_began.wait(60)
            first_ended.set()
            raise OutputError("The canvas is torn.")
        draw(volume, labels, report, path)

    monkeypatch.setattr(Segmenter, "predict", noticed)
    monkeypatch.setattr(case_picture, "draw_case", patient)
    shutil.copy(scan, scan.with_name("second.nrrd"))
    result = run(scan.parent, "--out", tmp_path / "out", "--package", package)
    assert result.exit_code == 1, result.output
    assert result.stderr.splitlines()[-1] == "  chest: The canvas is torn."
    assert "second: done" in result.stdout
    assert files(tmp_path / "out") == sorted(f"second{ending}" for ending in ENDINGS)


@pytest.mark.parametrize("part", ["predict", "finish"])
def test_a_scan_that_does_not_fit_beside_others_is_labelled_alone(
    tmp_path: Path, scan: Path, package: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    from CardiacLDMLib.image.ahead import ReadAhead
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    work, stop = getattr(Segmenter, part), ReadAhead.stop
    freed = False

    def stopped(self: ReadAhead) -> bool:
        nonlocal freed
        freed = True
        return stop(self)

    def tight(self: Segmenter, *arguments: object, **options: object) -> object:
        if not freed:
            raise MemoryError
        return work(self, *arguments, **options)

    monkeypatch.setattr(ReadAhead, "stop", stopped)
    monkeypatch.setattr(Segmenter, part, tight)
    shutil.copy(scan, scan.with_name("second.nrrd"))
    result = run(scan.parent, "--out", tmp_path / "out", "--package", package)
    assert result.exit_code == 0, result.output
    assert len(files(tmp_path / "out")) == 2 * len(ENDINGS)


def test_nothing_is_done_beside_a_case_once_memory_was_short(
    tmp_path: Path, scan: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first case cannot be finished beside the second one, which is then finished before the first is repeated."""
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    predict, finish = Segmenter.predict, Segmenter.finish
    repeated = threading.Event()
    predicted, finished, beside = 0, 0, []

    def counted(self: Segmenter, volume: Volume, **options: object) -> object:
        nonlocal predicted
        predicted += 1
        if predicted > 2:
            repeated.set()
        return predict(self, volume, **options)  # type: ignore[arg-type]

    def tight(self: Segmenter, prediction: Any) -> object:
        nonlocal finished
        finished += 1
        if finished == 1:
            raise MemoryError
        if finished == 2:
            beside.append(repeated.wait(1))
        return finish(self, prediction)

    monkeypatch.setattr(Segmenter, "predict", counted)
    monkeypatch.setattr(Segmenter, "finish", tight)
    shutil.copy(scan, scan.with_name("second.nrrd"))
    result = run(scan.parent, "--out", tmp_path / "out", "--package", package, "--fast")
    assert result.exit_code == 0, result.output
    assert (predicted, finished, beside) == (3, 3, [False])
    assert len(files(tmp_path / "out")) == 2 * len(ENDINGS)


LIMITED = """
import resource, sys
import matplotlib.figure, SimpleITK, torch
from cardiacldm_training.cli import app
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 600_000_000,) * 2)
app(sys.argv[1:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory as Linux does")
def test_a_scan_that_does_not_fit_in_memory_is_named_and_the_others_are_done(
    tmp_path: Path, scan: Path, package: Path
) -> None:
    header = (
        "ObjectType = Image\nNDims = 3\nDimSize = 1024 1024 1024\nElementType = MET_SHORT\nElementDataFile = huge.raw\n"
    )
    (tmp_path / "huge.mhd").write_text(header)
    with (tmp_path / "huge.raw").open("wb") as file:
        file.truncate(2 << 30)
    arguments = [
        tmp_path / "huge.mhd",
        scan,
        "--out",
        tmp_path / "out",
        "--package",
        package,
        "--fast",
        "--device",
        "cpu",
    ]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, "segment", *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("  huge: ")
    assert last.endswith(explain(MemoryError()).message)
    assert len(files(tmp_path / "out")) == 4


# --- odd paths and streams -----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_odd_paths_and_closed_streams_end_no_batch(tmp_path: Path, scan: Path, package: Path) -> None:
    odd = os.fsdecode(b"M\xfcller")
    inputs, out = tmp_path / odd, tmp_path / f"out{odd}"
    write_volume(read_volume(scan), inputs / f"{odd}.nrrd")
    (inputs / "loop.nrrd").symlink_to("loop.nrrd")
    (inputs / f"{odd}2.nii").write_bytes(b"no scan")
    shutil.copytree(package, tmp_path / odd / "package")
    program = [sys.executable, "-m", "cardiacldm_training.cli", "segment"]
    arguments = [inputs, scan, "--out", out, "--package", tmp_path / odd / "package", "--fast"]
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&-', "sh", *program, *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert b"Traceback" not in result.stderr
    assert files(out) == sorted(f"{name}{ending}" for name in ("M_ller", "chest") for ending in ENDINGS)
    labels = [read_volume(out / f"{name}.labels.nii.gz").array for name in ("M_ller", "chest")]
    assert labels[0].any()
    assert np.array_equal(*labels)
    CaseReport.model_validate_json((out / "M_ller.report.json").read_text(encoding="utf-8"))


def test_empty_names_are_refused(tmp_path: Path, scan: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scan.parent)  # which an empty path would mean
    result = run("", "--out", tmp_path / "out", "--package", package)
    assert (result.exit_code, files(tmp_path / "out")) == (1, [])
    assert run(scan, "--out", "", "--package", package).exit_code == 2


# --- being stopped -------------------------------------------------------------------------------------------------


@pytest.fixture
def long_run(tmp_path: Path, scan: Path, package: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The command in a process of its own, in the middle of the first of three scans."""
    for name in ("b.nrrd", "c.nrrd"):
        shutil.copy(scan, scan.with_name(name))
    out = tmp_path / "out"
    arguments = [scan, scan.parent, "--out", out, "--package", package, "--tta"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cardiacldm_training.cli", "segment", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "finding the heart" in line:
            break
    yield process, out
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_leaves_nothing_half_written(
    long_run: tuple[subprocess.Popen[str], Path], number: signal.Signals
) -> None:
    process, out = long_run
    process.send_signal(number)
    _, output = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert last.startswith("Stopped. Cases done: ")
    done = int(last.split(": ")[1][0])
    assert done < 3
    assert len(files(out)) == done * len(ENDINGS)


def test_fast_and_mirrored_exclude_each_other(tmp_path: Path, scan: Path, package: Path) -> None:
    result = run(scan, "--out", tmp_path / "out", "--package", package, "--fast", "--tta")
    assert result.exit_code == 2
    assert "--tta" in result.output
    assert run(scan, "--out", tmp_path / "out", "--package", package, "--fast").exit_code == 0
    assert json.loads((tmp_path / "out" / "chest.report.json").read_text(encoding="utf-8"))["quality"] == "fast"
