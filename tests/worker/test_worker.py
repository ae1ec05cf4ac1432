"""Real worker processes: jobs, failures and ends of every kind. No file or process may remain."""

from __future__ import annotations

import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cardiacldm_training.results.pair_files import read_pair
from CardiacLDMLib import __version__
from CardiacLDMLib.errors import JobError, OutputError, explain
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.packages import store
from CardiacLDMLib.packages.store import DEFAULT_GENERATOR, DEFAULT_PACKAGE, open_package, shipped_packages_dir
from CardiacLDMLib.progress import STAGES
from CardiacLDMLib.results import pairs
from CardiacLDMLib.results.case_files import ENDINGS
from CardiacLDMLib.results.report import CaseReport
from CardiacLDMLib.segmentation.segmenter import Segmenter
from CardiacLDMLib.worker import handlers, messages
from CardiacLDMLib.worker.client import CANCEL_SECONDS
from CardiacLDMLib.worker.job import Failure
from CardiacLDMLib.worker.jobs import Jobs
from CardiacLDMLib.worker.messages import (
    CheckDevice,
    FindCases,
    GeneratePair,
    ListDevices,
    Request,
    SavePair,
    SegmentFile,
    SegmentVolume,
    VerifyPackage,
)
from CardiacLDMLib.worker.models import LoadedModels
from CardiacLDMLib.worker.wire import decode
from tests.support.dicom import write_series
from tests.support.generator_package import GRID, write_tiny_generator
from tests.support.phantom import phantom
from tests.support.phantom_package import write_phantom_package
from tests.support.worker import Bench, Outcome, bad_worker

AFFINE = np.array([[-4.0, 0, 0, 90], [0, 4, 0, -95], [0, 0, -5, 100], [0, 0, 0, 1]])
CT, _ = phantom(Grid((44, 44, 36), AFFINE))
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.timeout(600),  # torch is imported by processes of their own, on whatever else runs here
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_phantom_package(tmp_path_factory.mktemp("packages") / "phantom"))


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_generator(tmp_path_factory.mktemp("packages") / "tiny"))


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder for private folders; it must be empty at the end."""
    folder = tmp_path_factory.mktemp("temporary")
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    yield folder
    tempfile.tempdir = before
    assert not folders(folder)


@pytest.fixture(scope="module")
def warm(temporary: Path) -> Iterator[Bench]:
    """A worker that is shared by the tests that do not end it."""
    bench = Bench(environment=ENVIRONMENT)
    yield bench
    bench.client.shutdown()
    assert_gone(bench.process.pid)


def gone(pid: int) -> bool:
    """Return whether a process has ended, also if nobody has waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_gone(pid: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not gone(pid):
        assert time.monotonic() < end, "the process is still there"
        time.sleep(0.02)


def submit(bench: Bench, request: Request[Any]) -> Outcome:
    outcome = Outcome()
    bench.client.submit(request, outcome.listener())
    return outcome


def done(bench: Bench, request: Request[Any]) -> Any:
    """Return the reply to a request."""
    outcome = bench.wait(submit(bench, request))
    assert outcome.done is not None, outcome.failure
    return outcome.done


def failure(bench: Bench, request: Request[Any]) -> Failure:
    """Return the failure of a request, which must be one sentence without a traceback."""
    outcome = bench.wait(submit(bench, request))
    assert outcome.failure is not None
    assert "\n" not in outcome.failure.message
    assert "Traceback" not in outcome.failure.message
    return outcome.failure


def folders(temporary: Path) -> list[Path]:
    return list(temporary.glob("cardiacldm-*"))


# --- jobs ----------------------------------------------------------------------------------------------------------


def test_a_volume_is_labelled_as_by_the_segmenter_itself(warm: Bench, package: str, temporary: Path) -> None:
    expected = Segmenter(open_package(package), "cpu").segment(CT)
    outcome = submit(warm, SegmentVolume(image=CT, package=package, device="cpu"))
    reply = warm.wait(outcome).done
    np.testing.assert_array_equal(reply.labels.array, expected.labels.array)
    assert reply.labels.grid.same_as(CT.grid)
    assert reply.heart_found
    assert reply.volumes_ml == expected.volumes_ml
    assert reply.expected_dice == expected.expected_dice != {}
    assert (reply.device, reply.quality, reply.package.name) == ("cpu", "full", "phantom")
    assert 0 < reply.network_seconds <= sum(reply.stage_seconds.values()) <= reply.seconds
    steps = [progress.step for progress in outcome.progress]
    assert steps == sorted(steps)
    assert steps[-1] == 100
    assert {progress.stage for progress in outcome.progress} <= set(STAGES)
    assert not folders(temporary)


def test_a_loaded_segmenter_is_not_loaded_again(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = handlers.RunningJob(LoadedModels(), None, lambda _: None, lambda: False)
    reply = handlers.handle(messages.LoadSegmenter(package=package, device="cpu"), job)
    assert (reply.package.name, reply.device) == ("phantom", "cpu")

    def refuse(*_: Any) -> None:
        raise AssertionError("the package is opened again")

    monkeypatch.setattr(store, "open_package", refuse)
    assert handlers.handle(SegmentVolume(image=CT, package=package, device="cpu"), job).package == reply.package


def test_qualities_differ_and_the_process_stays(warm: Bench, package: str) -> None:
    labels = {}
    before = len(warm.transports)
    for quality in ("fast", "full"):
        reply = done(warm, SegmentVolume(image=CT, package=package, device="cpu", quality=quality))
        labels[quality] = reply.labels.array
        assert reply.quality == quality
    assert len(warm.transports) == max(before, 1)
    assert (labels["fast"] != labels["full"]).any()


def test_a_volume_that_is_no_scan_is_refused(warm: Bench, package: str) -> None:
    blank = Volume(np.zeros((20, 20, 20)), AFFINE)
    refused = failure(warm, SegmentVolume(image=blank, package=package, device="cpu"))
    assert refused.kind == "input"
    assert "Traceback" not in refused.details


def test_unknown_packages_and_devices(warm: Bench, package: str) -> None:
    for options, kind, fact in (
        ({"package": "none-such"}, "package", "none-such"),
        ({"package": package, "device": "tpu"}, "device", "tpu"),
    ):
        refused = failure(warm, SegmentVolume(image=CT, **options))
        assert refused.kind == kind
        assert fact in refused.message


def test_a_case_is_opened_with_the_expected_dice_of_its_report(warm: Bench, package: str, tmp_path: Path) -> None:
    write_volume(CT, tmp_path / "chest.nrrd")
    case = {"source": tmp_path / "chest.nrrd", "out": tmp_path / "out"}
    made = done(warm, SegmentFile(**case, package=package, device="cpu"))
    opened = done(warm, messages.OpenCase(**case, name="chest"))
    report = CaseReport.model_validate_json(made.files[-1].read_text(encoding="utf-8"))
    assert opened.expected_dice == report.expected_dice == made.expected_dice != {}


def test_files_and_dicom_folders(warm: Bench, package: str, tmp_path: Path) -> None:
    write_volume(CT, tmp_path / "in" / "chest.nrrd")
    lps, _ = phantom(Grid((44, 44, 36), np.diag([-4.0, -4.0, 5.0, 1.0]) + np.outer([90, 85, -80, 0], [0, 0, 0, 1])))
    write_series(tmp_path / "in" / "dicom", lps.array, spacing=(4.0, 4.0, 5.0), origin=(-90.0, -85.0, -80.0))
    (tmp_path / "in" / "text.nii.gz").write_text("Dear colleague")
    cases = {case.name: case.source for case in done(warm, FindCases(source=tmp_path / "in")).cases}
    assert set(cases) == {"chest", "dicom", "text"}
    out = tmp_path / "out"
    for name, ct in (("chest", CT), ("dicom", lps)):
        reply = done(warm, SegmentFile(source=cases[name], out=out, package=package, device="cpu", quality="fast"))
        assert [file.name for file in reply.files] == [f"{name}{ending}" for ending in ENDINGS]
        assert all(file.is_file() for file in reply.files)
        report = CaseReport.model_validate_json(reply.files[-1].read_text(encoding="utf-8"))
        assert (report.quality, report.heart_found) == ("fast", True)
        assert read_volume(reply.files[0]).grid.same_as(ct.grid, tolerance_mm=0.01)
        opened = done(warm, messages.OpenCase(source=cases[name], out=out, name=name))
        assert opened.labels.array.any()
        assert opened.image.grid.same_as(ct.grid, tolerance_mm=0.01)
    bad = failure(warm, SegmentFile(source=cases["text"], out=out, package=package))
    assert (bad.kind, "text.nii.gz" in bad.message) == ("input", True)
    again = failure(warm, SegmentFile(source=cases["chest"], out=out, package=package))
    assert (again.kind, "chest.labels.nii.gz" in again.message) == ("output", True)
    assert len(list(out.iterdir())) == 2 * len(ENDINGS)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_paths_that_are_no_unicode_do_not_end_the_worker(warm: Bench, package: str, tmp_path: Path) -> None:
    odd = os.fsdecode(b"M\xfcller")
    lps, _ = phantom(Grid((44, 44, 36), np.diag([-4.0, -4.0, 5.0, 1.0]) + np.outer([90, 85, -80, 0], [0, 0, 0, 1])))
    write_volume(CT, tmp_path / odd / f"{odd}.nrrd")
    for study in ("1.1", "1.2"):  # in one folder
        write_series(tmp_path / odd / f"{odd}2", lps.array, spacing=(4.0, 4.0, 5.0), study=study, prefix=study)
    (tmp_path / odd / f"{odd}3.nii").write_bytes(b"no scan")
    (tmp_path / odd / "loop.nrrd").symlink_to("loop.nrrd")
    process = warm.transports[-1]
    found = done(warm, FindCases(source=tmp_path / odd))
    assert [case.name for case in found.cases] == ["M_ller", "M_ller2", "M_ller2-2", "M_ller3"]
    assert [case.name for case in found.refused] == ["loop"]
    for case in found.cases:
        request = SegmentFile(
            source=case.source, study=case.study, name=case.name, out=tmp_path / f"{odd}4", package=package,
            device="cpu", quality="fast",
        )  # fmt: skip
        if case.name == "M_ller3":
            assert failure(warm, request).kind == "input"
        else:
            assert all(file.is_file() for file in done(warm, request).files)
    assert len(list((tmp_path / f"{odd}4").iterdir())) == 3 * len(ENDINGS)
    assert warm.transports[-1] is process


def test_a_case_is_opened_with_its_results(warm: Bench, package: str, tmp_path: Path) -> None:
    write_volume(CT, tmp_path / "scan.nii.gz")
    out = tmp_path / "results"
    made = done(warm, SegmentFile(source=tmp_path / "scan.nii.gz", out=out, package=package, device="cpu"))
    request = messages.OpenCase(source=tmp_path / "scan.nii.gz", out=out, name="scan")
    opened = done(warm, request)
    np.testing.assert_array_equal(opened.image.array, CT.array)
    assert opened.labels.array.any()
    assert opened.labels.grid.same_as(opened.image.grid)
    assert opened.volumes_ml == pytest.approx(made.volumes_ml, abs=0.01)
    assert (opened.package, opened.quality, opened.device) == (made.package, made.quality, made.device)
    assert opened.program_version == __version__
    assert datetime.datetime.fromisoformat(opened.time).tzinfo is not None
    moved = CT.affine.copy()
    moved[0, 3] += 3.0
    write_volume(Volume(CT.array, moved), tmp_path / "scan.nii.gz")
    assert "scan.nii.gz" in failure(warm, request).message
    (out / "scan.report.json").write_text("{}")
    assert "scan.report.json" in failure(warm, request).message
    (out / "scan.labels.nii.gz").unlink()
    assert "scan.labels.nii.gz" in failure(warm, request).message


def test_a_folder_that_cannot_be_written_to(warm: Bench, package: str, tmp_path: Path) -> None:
    write_volume(CT, tmp_path / "chest.nrrd")
    (tmp_path / "out").write_text("a file")
    request = SegmentFile(source=tmp_path / "chest.nrrd", out=tmp_path / "out", package=package, device="cpu")
    refused = failure(warm, request)
    assert refused.kind == "output"
    assert "out" in refused.message


def test_packages_are_verified_and_reloaded_when_they_change(warm: Bench, package: str, tmp_path: Path) -> None:
    copy = tmp_path / "phantom"
    shutil.copytree(package, copy)
    requests = SegmentVolume(image=CT, package=str(copy), device="cpu"), VerifyPackage(package=str(copy))
    for request in requests:
        assert done(warm, request)
    weights = copy / "segmenter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x77")
    for request in requests:
        assert failure(warm, request).kind == "package"


def test_devices_and_their_check(warm: Bench) -> None:
    assert done(warm, ListDevices()).devices[-1].device == "cpu"
    check = done(warm, CheckDevice(device="cpu")).check
    assert check.ok
    assert check.problem is None
    assert check.seconds > 0
    assert check.devices[-1].device == "cpu"
    for fact in ("torch: ", "Check on cpu: passed", "Device cpu: "):
        assert fact in check.text
    assert str(Path.home()) not in check.text
    check = done(warm, CheckDevice(device="cuda:77")).check
    assert not check.ok
    assert check.problem in check.text


# --- pairs ---------------------------------------------------------------------------------------------------------


def pair_request(package: str | None, **options: Any) -> GeneratePair:
    return GeneratePair(**{"package": package, "seed": 7, "index": 1, "device": "cpu", "check": False, **options})


def test_a_pair_is_generated_as_by_the_generator_itself(warm: Bench, generator: str, temporary: Path) -> None:
    settings = {"conditions": {"sex": "female", "spacing_mm": 2.0}, "steps": 9}
    expected = Generator(open_package(generator), "cpu").generate(7, 1, **settings)
    outcome = submit(warm, pair_request(generator, **settings))
    reply = warm.wait(outcome).done
    np.testing.assert_array_equal(reply.image.array, expected.image.array)
    np.testing.assert_array_equal(reply.labels.array, expected.labels.array)
    assert (reply.image.array.dtype, reply.labels.array.dtype) == (np.int16, np.uint8)
    assert reply.image.grid.same_as(expected.image.grid)
    assert {name: reply.provenance[name] for name in ("seed", "index", "conditions", "steps")} == {
        "seed": 7, "index": 1, **settings
    }  # fmt: skip
    assert [picture[:12] for picture in outcome.previews] == [b"P5 16 16 255"] * 2  # after steps 4 and 8
    assert {len(picture) for picture in outcome.previews} == {13 + GRID[0] * GRID[1]}
    assert [p.step for p in outcome.progress] == sorted(p.step for p in outcome.progress)
    assert not folders(temporary)


def test_requests_for_pairs_that_cannot_be_met(warm: Bench, package: str, generator: str) -> None:
    for name, options, kind, facts in (
        (package, {}, "package", ("phantom", "segmenter")),
        (generator, {"conditions": {"colour": "red"}}, "input", ("colour",)),
        (generator, {"conditions": {"sex": "x"}}, "input", ("'x'", "female, male")),
        (generator, {"steps": 0}, "input", ("1000", "not 0")),
        (generator, {"seed": -1}, "input", ("4294967295", "not -1")),
        (generator, {"device": "cuda:77"}, "device", ("GPU",)),
    ):
        refused = failure(warm, pair_request(name, **options))
        assert refused.kind == kind
        assert all(fact in refused.message for fact in facts), refused.message


@pytest.mark.skipif((shipped_packages_dir() / DEFAULT_GENERATOR).is_dir(), reason="a generator ships")
def test_a_missing_shipped_generator_is_reported(warm: Bench) -> None:
    assert failure(warm, pair_request(None)).kind == "input"


def test_a_pair_that_never_passes_the_checks_is_rejected(warm: Bench, generator: str) -> None:
    outcome = warm.wait(submit(warm, pair_request(generator, check=True)))
    assert outcome.failure.kind == "rejected"
    assert "10 attempts" in outcome.failure.message
    assert {progress.total for progress in outcome.progress} == {100 * n for n in range(1, 11)}


def test_generating_is_cancelled_within_a_step_and_the_worker_stays_warm(warm: Bench, generator: str) -> None:
    outcome = submit(warm, pair_request(generator, steps=1000))
    warm.loop.run(lambda: outcome or outcome.previews)
    process, began = warm.process, time.monotonic()
    warm.client.cancel()
    assert warm.wait(outcome).cancelled
    assert time.monotonic() - began < 1.0
    assert process is warm.process


def test_a_full_disk_is_reported(generator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", save)
    jobs = Jobs()
    jobs._loaded.set()
    fields = {"package": generator, "seed": 1, "index": 0, "check": False, "device": "cpu"}
    message = {"job": "generate_pair", "folder": str(tmp_path), "fields": fields, "volumes": {}}
    with pytest.raises(OutputError):
        jobs.run(message, lambda _: None, lambda: False)


@pytest.mark.parametrize(
    ("message", "fact"),
    [
        ({"job": "paint"}, "paint"),
        ({"job": ["find_cases"]}, "find_cases"),
        ({"job": "find_cases"}, "find_cases"),
        ({"job": "find_cases", "fields": {}}, "source"),
        ({"job": "find_cases", "fields": {"source": 3}}, "source"),
        ({"job": "find_cases", "fields": {"source": "x", "depth": 2}}, "depth"),
        ({"job": "generate_pair", "fields": {"seed": "7", "index": 0}}, "seed"),
        ({"job": "segment_volume", "fields": {}}, "image"),
    ],
)
def test_unknown_and_ill_typed_messages_are_refused(message: dict[str, Any], fact: str) -> None:
    jobs = Jobs()
    jobs._loaded.set()
    with pytest.raises(JobError, match=fact):
        jobs.run(message, lambda _: None, lambda: False)


def test_every_request_has_a_handler_and_a_reply() -> None:
    assert set(handlers.HANDLERS) >= set(messages.REQUESTS.values())
    for request in messages.REQUESTS.values():
        assert issubclass(request.reply_type(), messages.Reply)


def test_a_pair_is_saved_as_training_reads_it_and_never_over_another(
    warm: Bench, generator: str, tmp_path: Path
) -> None:
    pair = done(warm, pair_request(generator))
    out = tmp_path / "pairs" / "pair_0001"
    request = SavePair(image=pair.image, labels=pair.labels, provenance=pair.provenance, out=out)
    assert done(warm, request).folder == out
    other = Volume(np.zeros(GRID, np.uint8), pair.image.affine)
    refused = failure(warm, SavePair(image=pair.image, labels=other, provenance=pair.provenance, out=out))
    assert refused.kind in ("input", "output")
    assert "pair_0001" in refused.message
    assert sorted(path.name for path in out.parent.iterdir()) == ["pair_0001"]
    assert sorted(path.name for path in out.iterdir()) == ["ct.nii.gz", "labels.nii.gz", "provenance.json"]
    saved = read_pair(out.parent, 1)
    np.testing.assert_array_equal(saved.image.array, pair.image.array)
    np.testing.assert_array_equal(saved.labels.array, pair.labels.array)
    assert (saved.image.array.dtype, saved.labels.array.dtype) == (np.int16, np.uint8)
    assert saved.image.grid.same_as(pair.image.grid)
    assert saved.provenance == pair.provenance


def test_edited_labels_are_marked_and_a_half_written_pair_is_removed(
    generator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Generator(open_package(generator), "cpu").generate(7, 1)
    edited = pair.labels.array.copy()
    edited[:2] = 1
    labels, aside = Volume(edited, pair.labels.affine), tmp_path / ".part-x"
    pairs.write_pair(tmp_path / "pair_0001", aside, pair.image, labels, pair.provenance)
    assert read_pair(tmp_path, 1).provenance == {**pair.provenance, "edited": True}

    def full(volume: Volume, path: Path) -> None:
        if path.name == "labels.nii.gz":
            raise OutputError(f"{path.name} could not be written: is the disk full or read-only?")
        write_volume(volume, path)

    monkeypatch.setattr(pairs, "write_volume", full)
    with pytest.raises(OutputError):
        pairs.write_pair(tmp_path / "pair_0002", aside, pair.image, labels, pair.provenance)
    assert [path.name for path in tmp_path.iterdir()] == ["pair_0001"]


# --- protocol ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(request: pytest.FixtureRequest, temporary: Path) -> Iterator[Bench]:
    """A worker of the kind in the test's parameter, or a good one; it is ended after the test."""
    kind = getattr(request, "param", None)
    bench = Bench(bad_worker(kind) if kind else None, ENVIRONMENT)
    yield bench
    bench.client.shutdown()
    for transport in bench.transports:
        if transport.process is not None:
            assert_gone(transport.process.pid)


def ask(bench: Bench) -> Outcome:
    """Submit a job that needs no library; most misbehaving workers misbehave at it."""
    return submit(bench, FindCases(source=Path()))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize("bench", ["noisy"], indirect=True)
def test_output_of_libraries_is_only_in_the_details(bench: Bench, chunk: int) -> None:
    bench.chunk = chunk
    assert bench.wait(ask(bench)).done.cases == []
    bench.loop.run(lambda: "from a child" in bench.output)


@pytest.mark.parametrize(
    ("bench", "kind", "fact", "details"),
    [
        ("memory", "memory", "", "MemoryError"),
        ("cuda", "device", "CUDA error: an illegal memory access was encountered", "Traceback"),
        ("import", "missing", "torch", "DLL load failed"),
        ("unforeseen", "internal", "KeyError: 'no such thing'", "Traceback"),
        ("crash", "crash", "signal 11", "Segmentation fault"),
        ("garbage", "internal", "", ""),
        ("newer", "internal", "restart Slicer", ""),
        ("leaving", "crash", "exit code 3", ""),
    ],
    indirect=["bench"],
)
def test_every_way_to_fail_is_one_sentence_and_details(bench: Bench, kind: str, fact: str, details: str) -> None:
    failed = failure(bench, FindCases(source=Path()))
    assert failed.kind == kind
    assert fact in failed.message
    assert details in failed.details
    bench.client._program = bad_worker("good")
    if bench.client._process is None:
        assert bench.wait(ask(bench)).done is not None
        assert len(bench.transports) == 2


def test_a_full_gpu_is_reported_and_ends_the_worker() -> None:
    full = explain(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert (full.kind, full.expected) == ("memory", False)
    assert "GPU" in full.message
    ram = explain(RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"))
    assert ram.kind == "memory"


@pytest.mark.parametrize("bench", ["without torch"], indirect=True)
def test_a_missing_library_is_named(bench: Bench, package: str) -> None:
    check = done(bench, CheckDevice()).check
    assert "torch" in check.problem
    assert check.problem in check.text
    refused = failure(bench, SegmentVolume(image=CT, package=package))
    assert refused.kind == "missing"
    assert "torch" in refused.message


# --- being stopped -------------------------------------------------------------------------------------------------


def demo_scan() -> Volume:
    """Return a scan without a heart that keeps the shipped package busy for a second or more."""
    rng = np.random.default_rng(0)
    array = rng.integers(-900, 300, (192, 192, 192)).astype(np.int16)
    return Volume(array, np.diag([2.0, 2.0, 2.0, 1.0]))


def test_cancel_while_the_shipped_package_works_takes_less_than_two_seconds(warm: Bench) -> None:
    shipped = str(shipped_packages_dir() / DEFAULT_PACKAGE)
    outcome = submit(warm, SegmentVolume(image=demo_scan(), package=shipped, device="cpu"))
    warm.loop.run(lambda: outcome or any(p.stage == "locate" and p.step > 2 for p in outcome.progress))
    process = warm.process
    began = time.monotonic()
    warm.client.cancel()
    warm.wait(outcome)
    assert outcome.cancelled
    assert time.monotonic() - began < CANCEL_SECONDS + 0.2
    assert process is warm.process


@pytest.mark.parametrize("bench", ["slow"], indirect=True)
def test_cancel_leaves_the_worker_warm(bench: Bench) -> None:
    for _ in range(2):
        outcome = ask(bench)
        bench.loop.run(lambda: "begun" in bench.output)
        bench.client.cancel()
        assert bench.wait(outcome).cancelled
    assert len(bench.transports) == 1


@pytest.mark.parametrize("bench", ["endless"], indirect=True)
def test_cancel_ends_a_worker_that_does_not_listen(bench: Bench) -> None:
    outcome = ask(bench)
    bench.loop.run(lambda: "begun" in bench.output)
    began = time.monotonic()
    bench.client.cancel()
    assert bench.wait(outcome).cancelled
    assert CANCEL_SECONDS - 0.1 < time.monotonic() - began < CANCEL_SECONDS + 1
    assert_gone(bench.process.pid)


@pytest.mark.parametrize("bench", ["slow"], indirect=True)
def test_cancel_ends_a_worker_that_is_halted(bench: Bench, temporary: Path) -> None:
    outcome = submit(bench, SegmentVolume(image=CT))
    bench.loop.run(lambda: "begun" in bench.output)
    assert folders(temporary)
    os.kill(bench.process.pid, signal.SIGSTOP)
    bench.client.cancel()
    assert bench.wait(outcome).cancelled
    assert_gone(bench.process.pid)
    assert not folders(temporary)


def test_a_killed_worker_is_reported_and_the_next_job_works(warm: Bench, package: str, temporary: Path) -> None:
    outcome = submit(warm, SegmentVolume(image=demo_scan(), device="cpu"))
    warm.loop.run(lambda: outcome or any(p.stage == "locate" for p in outcome.progress))
    assert folders(temporary)
    os.kill(warm.process.pid, signal.SIGKILL)
    crash = warm.wait(outcome, 5.0).failure
    assert crash.kind == "crash"
    assert "signal 9" in crash.message
    assert not folders(temporary)
    processes = len(warm.transports)
    assert done(warm, SegmentVolume(image=CT, package=package, device="cpu")).heart_found
    assert len(warm.transports) == processes + 1


# --- ends ----------------------------------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [*bad_worker("good"), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | ENVIRONMENT)


def hello(process: subprocess.Popen[bytes]) -> dict[str, object]:
    assert process.stdout is not None
    while not (line := process.stdout.readline()).strip():
        assert process.poll() is None
    message = decode(line)
    assert message is not None
    return message


def test_ends_when_idle_on_request_and_with_its_input() -> None:
    workers = [start("--idle-seconds", "0.2"), start(), start()]
    for process in workers:
        assert hello(process)["event"] == "hello"
        assert process.stdin is not None
    began = time.monotonic()
    assert workers[1].stdin is not None
    workers[1].stdin.write(b'{"job": "quit"}\n')
    workers[1].stdin.flush()
    assert workers[2].stdin is not None
    workers[2].stdin.close()
    assert [process.wait(20) for process in workers] == [0, 0, 0]
    assert time.monotonic() - began < 15


PARENT = """
import subprocess, sys, os
read, write = os.pipe()
os.set_inheritable(write, True)
worker = subprocess.Popen(sys.argv[1:], stdin=read, stdout=subprocess.PIPE, pass_fds=[write])
line = b""
while b"hello" not in line:
    line = worker.stdout.readline()
print(worker.pid, flush=True)
import time; time.sleep(1000)
"""


def test_ends_when_its_parent_is_killed_though_its_input_stays_open() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *bad_worker("good")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.wait()
    assert_gone(pid, 15.0)


CLIENT = """
import sys; sys.path.insert(0, sys.argv[1])
import tempfile; tempfile.tempdir = sys.argv[2]
import numpy as np
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.worker.messages import SegmentVolume
from tests.support.worker import *
bench = Bench(bad_worker("slow"))
outcome = Outcome()
bench.client.submit(SegmentVolume(image=Volume(np.zeros((9, 9, 9)), np.eye(4))), outcome.listener())
bench.loop.run(lambda: "begun" in bench.output)
print(bench.process.pid, flush=True)
bench.loop.run(lambda: False, 1000)
"""


def test_a_worker_whose_slicer_is_killed_half_way_ends_and_takes_the_arrays_with_it(temporary: Path) -> None:
    command = [sys.executable, "-c", CLIENT, str(Path(__file__).parents[2]), str(temporary)]
    slicer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert slicer.stdout is not None
    pid = int(slicer.stdout.readline())
    assert folders(temporary)
    slicer.kill()
    slicer.wait()
    assert_gone(pid, 15.0)
    assert not folders(temporary)


def test_the_module_is_light_until_a_job_comes() -> None:
    code = (
        "import sys, CardiacLDMLib.worker.client, CardiacLDMLib.worker.worker;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "monai", "SimpleITK", "pydantic", "cc3d"}


def test_the_device_check_imports_no_torch_where_pydantic_is_missing() -> None:
    """Slicer runs the check in its own process then."""
    code = (
        "import sys; sys.modules['pydantic'] = None\n"
        "from CardiacLDMLib.worker.device import check_device\n"
        "check = check_device()\n"
        "assert not {'torch', 'monai'} & set(sys.modules)\n"
        "print(check.problem, check.text, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    problem, *text = done.stdout.splitlines()
    assert "pydantic" in problem
    assert any(line.startswith("torch: ") for line in text)
