"""One function for each job of the worker: typed request in, typed reply out.

The client never imports this module. Each handler imports heavy libraries itself, so a job loads only its own.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..anatomy import HEART_WINDOW
from ..errors import JobError, OutputError
from ..progress import Cancelled, Preview, Progress
from ..text import plural
from . import messages
from .arrays import explain_full_disk
from .device import check_device, list_devices
from .messages import Reply, Request
from .models import LoadedModels

#: Voxel centres this close are the same: NIfTI stores single precision.
SAME_PLACE_MM = 0.05

if TYPE_CHECKING:
    from ..generation.generator import Generator, Pair
    from ..image.cases import Case
    from ..packages.store import ModelPackage
    from ..segmentation.segmenter import Segmentation, Segmenter


@dataclass
class RunningJob:
    """A job in progress, as its handler uses it.

    ``folder``: the job's private folder, None if it has no volumes. ``report``: receives progress and previews.
    ``cancelled``: returns whether the job should stop.
    """

    models: LoadedModels
    folder: Path | None
    report: Callable[[Progress | Preview], None]
    cancelled: Callable[[], bool]
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds since the job began."""
        return time.perf_counter() - self.began

    def step(self, percent: int, stage: str) -> None:
        """Report progress in percent; raise :class:`Cancelled` if the job should stop."""
        if self.cancelled():
            raise Cancelled
        self.report(Progress(percent, 100, stage, self.seconds))


Handler = Callable[[Any, RunningJob], Reply]
HandlerT = TypeVar("HandlerT", bound=Handler)
HANDLERS: dict[type[Request[Any]], Handler] = {}


def handles(request: type[Request[Any]]) -> Callable[[HandlerT], HandlerT]:
    """Register a function as the handler of ``request``."""

    def register(handler: HandlerT) -> HandlerT:
        HANDLERS[request] = handler
        return handler

    return register


def handle(request: Request[Any], job: RunningJob) -> Reply:
    """Carry out ``request``."""
    return HANDLERS[type(request)](request, job)


# --- segmentation --------------------------------------------------------------------------------------------------


@handles(messages.LoadSegmenter)
def load_segmenter(request: messages.LoadSegmenter, job: RunningJob) -> messages.LoadedSegmenter:
    """Load a segmenter. Only loading is slow the first time: no scan has to be segmented in advance."""
    segmenter = job.models.segmenter(request.package, request.device)
    return messages.LoadedSegmenter(package=_package_name(segmenter.package), device=segmenter.device)


@handles(messages.SegmentVolume)
def segment_volume(request: messages.SegmentVolume, job: RunningJob) -> messages.SegmentedVolume:
    """Label a volume."""
    segmenter = job.models.segmenter(request.package, request.device)
    with release_gpu_memory():
        result = segmenter.segment(request.image, quality=request.quality, progress=job.report, cancelled=job.cancelled)
    return messages.SegmentedVolume(labels=result.labels, **_facts(segmenter, result, request.quality, job))


@handles(messages.SegmentFile)
def segment_file(request: messages.SegmentFile, job: RunningJob) -> messages.SegmentedFile:
    """Read, label and write one case, as the command line does."""
    from ..results.case_files import existing_results
    from ..segmentation.case import segment_case

    job.step(0, "read")
    case = single_case(request.source, request.study)
    if request.name:
        case = replace(case, name=request.name)
    existing = [] if request.overwrite else existing_results(request.out, case.name)
    if existing:
        raise OutputError(f"{existing[0]} exists already: choose another folder, or allow replacing.")
    segmenter = job.models.segmenter(request.package, request.device)
    with release_gpu_memory():
        done = segment_case(
            case, segmenter, request.out, quality=request.quality, progress=job.report, cancelled=job.cancelled,
            aside=request.aside,
        )  # fmt: skip
    facts = {**_facts(segmenter, done.segmentation, request.quality, job), "warnings": done.report.warnings}
    return messages.SegmentedFile(name=case.name, files=done.files, **facts)


@handles(messages.OpenCase)
def open_case(request: messages.OpenCase, job: RunningJob) -> messages.OpenedCase:
    """Read a scan, and the labels and the report that were written for it."""
    from ..image.cases import read_case
    from ..image.files import read_volume
    from ..image.grid import Volume
    from ..image.labels import check_labels
    from ..results.case_files import LABELS, REPORT, read_report

    job.step(0, "read")
    files = [request.out / f"{request.name}{ending}" for ending in (LABELS, REPORT)]
    for path in files:
        if not path.is_file():
            raise JobError(f"{path.name} is not in {request.out.name} any more: run the batch again.")
    try:
        report = read_report(files[1])
    except ValueError as error:
        raise JobError(f"{files[1].name} cannot be read: run the batch again with another folder.") from error
    image = read_case(single_case(request.source, request.study))
    job.step(60, "read")
    labels = read_volume(files[0])
    if not labels.grid.same_as(image.grid, SAME_PLACE_MM):
        raise JobError(f"{files[0].name} does not fit {request.source.name}: one of them was replaced.")
    check_labels(labels.array)
    made = datetime.datetime.fromtimestamp(files[1].stat().st_mtime, datetime.UTC)
    return messages.OpenedCase(
        program_version=report.software.get("cardiacldm", ""), time=made.isoformat(timespec="seconds"), image=image,
        labels=Volume(labels.array.astype(np.uint8), image.affine), warnings=report.warnings,
        seconds=sum(report.seconds.values()), device=report.device, quality=report.quality,
        heart_found=report.heart_found, volumes_ml=report.volumes_ml, expected_dice=report.expected_dice,
        package=messages.PackageName(**report.package.model_dump()),
    )  # fmt: skip


@handles(messages.FindCases)
def find_cases(request: messages.FindCases, job: RunningJob) -> messages.FoundCases:
    """Find the cases in a folder, with unique names, and the files that cannot be segmented, with the reasons."""
    from ..image.cases import Refused, find_cases

    cases = find_cases([request.source])
    return messages.FoundCases(
        cases=[
            messages.FoundCase(name=c.name, source=c.path, study=c.study) for c in cases if not isinstance(c, Refused)
        ],
        refused=[messages.RefusedCase(name=c.name, reason=c.reason) for c in cases if isinstance(c, Refused)],
    )


def single_case(source: Path, study: str = "") -> Case:
    """Return the only case in ``source``, a file or folder; with ``study`` the only one of that DICOM study.

    Raises :class:`JobError` for none or several.
    """
    from ..image.cases import Refused, find_cases

    cases = find_cases([source])
    if study:
        cases = [case for case in cases if isinstance(case, Refused) or case.study == study]
    own = [case for case in cases if not isinstance(case, Refused) and case.path == source]
    if len(own) == 1:
        return own[0]
    if len(cases) != 1:
        raise JobError(f"{source.name} holds {plural(len(cases), 'scan')}: choose one of them.")
    if isinstance(cases[0], Refused):
        raise JobError(cases[0].reason)
    return cases[0]


@contextlib.contextmanager
def release_gpu_memory() -> Iterator[None]:
    """Give back the GPU memory that torch keeps for later: Slicer draws on the same GPU."""
    import torch

    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _facts(segmenter: Segmenter, result: Segmentation, quality: str, job: RunningJob) -> dict[str, Any]:
    """Return the fields of :class:`~.messages.SegmentationFacts`."""
    return {
        "warnings": result.warnings,
        "seconds": job.seconds,
        "stage_seconds": result.seconds,
        "network_seconds": result.network_seconds,
        "device": result.device,
        "quality": quality,
        "heart_found": result.heart_found,
        "volumes_ml": result.volumes_ml,
        "expected_dice": result.expected_dice,
        "package": _package_name(segmenter.package),
    }


def _package_name(package: ModelPackage) -> messages.PackageName:
    manifest = package.manifest
    return messages.PackageName(name=manifest.name, version=manifest.version, sha256=package.sha256)


# --- pairs ---------------------------------------------------------------------------------------------------------


@handles(messages.GeneratePair)
def generate_pair(request: messages.GeneratePair, job: RunningJob) -> messages.GeneratedPair:
    """Generate one pair; report a preview of its middle slice every few steps."""

    def preview(step: int, total: int, image: np.ndarray) -> None:
        assert job.folder is not None
        file = job.folder / f"preview-{step}.pgm"
        with explain_full_disk():
            file.write_bytes(grey_picture(image))
        job.report(Preview(step, total, str(file)))

    generator = job.models.generator(request.package, request.device)
    with release_gpu_memory():
        pair = _generate_pair(generator, request, job, preview)
    return messages.GeneratedPair(
        image=pair.image,
        labels=pair.labels,
        provenance=pair.provenance,
        warnings=[generator.remark] if generator.remark else [],
        device=generator.device,
        seconds=job.seconds,
    )


def _generate_pair(
    generator: Generator,
    request: messages.GeneratePair,
    job: RunningJob,
    preview: Callable[[int, int, np.ndarray], None],
) -> Pair:
    """Return the pair; with ``check`` it is the first attempt that passes the checks."""
    from ..generation.acceptance import Judge, generate_accepted

    judge = Judge(job.models.shipped_segmenter(generator.device)) if request.check else None
    return generate_accepted(
        generator, judge, request.seed, request.index, request.conditions, steps=request.steps, progress=job.report,
        cancelled=job.cancelled, preview=preview,
    )  # fmt: skip


def grey_picture(image: np.ndarray) -> bytes:
    """Return an axial slice (I, J; HU; RAS) as a PGM file in radiological view: the patient's right is on the left."""
    share = (image.T[::-1, ::-1] - HEART_WINDOW.low) / HEART_WINDOW.width
    grey = np.rint(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8)
    return f"P5 {grey.shape[1]} {grey.shape[0]} 255\n".encode() + grey.tobytes()


@handles(messages.SavePair)
def save_pair(request: messages.SavePair, job: RunningJob) -> messages.SavedPair:
    """Write a pair's volumes and provenance as the files that training takes."""
    from ..results.pairs import write_pair

    write_pair(request.out, request.aside, request.image, request.labels, request.provenance)
    return messages.SavedPair(folder=request.out)


# --- packages and devices ------------------------------------------------------------------------------------------


@handles(messages.VerifyPackage)
def verify_package(request: messages.VerifyPackage, job: RunningJob) -> messages.CheckedPackage:
    """Check every file and tensor of a package."""
    from ..packages.store import locate_package
    from ..packages.weights import verify_package

    return _package_reply(verify_package(locate_package(request.package)))


@handles(messages.ImportPackage)
def import_package(request: messages.ImportPackage, job: RunningJob) -> messages.CheckedPackage:
    """Check a package and install it for this user."""
    from ..packages.archive import import_package
    from ..packages.store import user_packages_dir

    return _package_reply(import_package(request.source, user_packages_dir(), request.replace))


def _package_reply(package: ModelPackage) -> messages.CheckedPackage:
    manifest = package.manifest
    return messages.CheckedPackage(
        name=manifest.name, version=manifest.version, sha256=package.sha256, size_bytes=package.size_bytes
    )


@handles(messages.ListDevices)
def report_devices(request: messages.ListDevices, job: RunningJob) -> messages.DeviceList:
    """List the GPUs and the CPU."""
    return messages.DeviceList(devices=list_devices())


@handles(messages.CheckDevice)
def report_device_check(request: messages.CheckDevice, job: RunningJob) -> messages.CheckedDevice:
    """Check the libraries and one device."""
    return messages.CheckedDevice(check=check_device(request.device))
