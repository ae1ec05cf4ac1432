"""The messages between Slicer and its worker: a request for each job, and its reply.

Client and worker share these types, so a field and its default value are written once. A field of the type ``Volume``
does not travel in the message: its voxels lie in the job's private folder as ``NAME.npy``.

This module imports pydantic, which a new Slicer lacks. The client and the panels therefore import it only where they
submit a request.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, ValidationError, model_validator

from ..errors import JobError
from ..files import PART
from ..image.grid import Volume
from ..progress import Quality
from ..results.trust import ExpectedDice
from ..text import first_problem
from .device import Device, DeviceCheck
from .message import FilePath, Message, Reply, Request
from .review_messages import REVIEW_REQUESTS

__all__ = ["FilePath", "Message", "Reply", "Request"]

# --- replies -------------------------------------------------------------------------------------------------------


class PackageName(Message):
    """Name, version and hash of a model package: enough to find the same one again."""

    name: str
    version: str
    sha256: str


class ResultFacts(Reply):
    """Facts about labels. ``seconds``: how long they took to make. ``volumes_ml``: mL by structure.

    ``expected_dice``: by structure, empty if the package does not foretell it at this quality.
    """

    warnings: list[str]
    seconds: float
    device: str
    quality: Quality
    heart_found: bool
    volumes_ml: dict[str, float]
    expected_dice: dict[str, ExpectedDice] = Field(default_factory=dict)
    package: PackageName


class SegmentationFacts(ResultFacts):
    """Facts about labels that were made just now, with their ``seconds`` from the request to the result.

    ``stage_seconds``: seconds by stage. ``network_seconds``: the seconds of all stages that the networks took.
    """

    stage_seconds: dict[str, float]
    network_seconds: float


class SegmentedVolume(SegmentationFacts):
    """The labels (uint8, (I, J, K)) of a volume, on its grid. Their voxels are mapped from a deleted file."""

    labels: Volume

    @model_validator(mode="after")
    def _check_labels(self) -> SegmentedVolume:
        if self.labels.array.dtype != np.uint8:
            raise ValueError("labels must be uint8")
        return self


class SegmentedFile(SegmentationFacts):
    """The files written for a case."""

    name: str
    files: list[FilePath]


class OpenedCase(ResultFacts):
    """A scan in HU and its labels (uint8, on the same grid), mapped from deleted files.

    ``program_version`` made them, at ``time`` (UTC, ISO 8601).
    """

    program_version: str
    time: str
    image: Volume
    labels: Volume

    @model_validator(mode="after")
    def _check_shapes(self) -> OpenedCase:
        if self.image.array.shape != self.labels.array.shape:
            raise ValueError("image and labels must have the same shape")
        return self


class FoundCase(Message):
    """A scan in a folder. ``study`` tells a DICOM study from others in the folder ``source``."""

    name: str
    source: FilePath
    study: str


class RefusedCase(Message):
    """A file or folder that cannot be segmented, with the reason in one sentence."""

    name: str
    reason: str


class FoundCases(Reply):
    """The cases of a folder, and the files and folders that cannot be segmented."""

    cases: list[FoundCase]
    refused: list[RefusedCase]


class GeneratedPair(Reply):
    """A synthetic pair: ``image`` (int16 HU) and ``labels`` (uint8), mapped from deleted files.

    ``provenance``: the generator's record of the pair. ``warnings``: sentences for the user. ``seconds``: from the
    request to the result.
    """

    image: Volume
    labels: Volume
    provenance: dict[str, Any]
    warnings: list[str] = Field(default_factory=list)
    device: str
    seconds: float

    @model_validator(mode="after")
    def _check_shapes(self) -> GeneratedPair:
        if self.image.array.shape != self.labels.array.shape:
            raise ValueError("image and labels must have the same shape")
        return self


class SavedPair(Reply):
    """The folder that a pair was written to."""

    folder: FilePath


class LoadedSegmenter(Reply):
    """The segmenter that is loaded now, and the device that it will use."""

    package: PackageName
    device: str


class DeviceList(Reply):
    """The GPUs and the CPU of this computer."""

    devices: list[Device]


class CheckedDevice(Reply):
    """The result of checking a device."""

    check: DeviceCheck


class CheckedPackage(Reply):
    """A package whose files and tensors were all checked."""

    name: str
    version: str
    sha256: str
    size_bytes: int


# --- requests ------------------------------------------------------------------------------------------------------


class _WithModel(Message):
    """``package``: name or folder of a model package, None for the one that ships. ``device``: auto, cpu, cuda:N."""

    package: str | None = None
    device: str = "auto"


class SegmentVolume(_WithModel, Request[SegmentedVolume]):
    """Label a volume."""

    job: ClassVar[str] = "segment_volume"
    image: Volume
    quality: Quality = "full"

    def read_reply(self, fields: Mapping[str, Any], volumes: Mapping[str, Volume]) -> SegmentedVolume:
        """Return the reply; its labels must have the shape of the volume."""
        reply = super().read_reply(fields, volumes)
        if reply.labels.array.shape != self.image.array.shape:
            raise ValueError("the labels have another shape than the volume")
        return reply


class SegmentFile(_WithModel, Request[SegmentedFile]):
    """Label the volume file or DICOM folder ``source`` and write the results to the folder ``out``.

    ``name``: name of the case, None for that of the file or folder. ``study``: the DICOM study, if the folder holds
    several. Earlier results are kept unless ``overwrite``.
    ``token`` makes the name of the temporary folder unique.
    """

    job: ClassVar[str] = "segment_file"
    source: FilePath
    out: FilePath
    name: str | None = None
    study: str = ""
    overwrite: bool = False
    quality: Quality = "full"
    token: str = Field(default_factory=lambda: uuid.uuid4().hex, pattern="^[0-9a-f]{32}$")

    @property
    def aside(self) -> Path:
        """The temporary folder within ``out``."""
        return self.out / f"{PART}{self.token}"


class LoadSegmenter(_WithModel, Request[LoadedSegmenter]):
    """Load a segmenter before it is needed, so that the first volume takes no longer than the next one.

    The networks stay in the computer's memory: no memory of a GPU is taken.
    """

    job: ClassVar[str] = "load_segmenter"


class OpenCase(Request[OpenedCase]):
    """Read the scan ``source`` and the results that :class:`SegmentFile` wrote for it to ``out`` under ``name``."""

    job: ClassVar[str] = "open_case"
    source: FilePath
    out: FilePath
    name: str
    study: str = ""


class FindCases(Request[FoundCases]):
    """Find the volume files and DICOM series in a folder, for :class:`SegmentFile`."""

    job: ClassVar[str] = "find_cases"
    source: FilePath


class GeneratePair(_WithModel, Request[GeneratedPair]):
    """Generate pair ``index`` of ``seed``.

    ``steps``: number of solver steps, None for the package's default. With ``check`` the pair is generated
    again until it passes the checks; if it never does, the failure is of the kind ``rejected``.
    """

    job: ClassVar[str] = "generate_pair"
    seed: int
    index: int
    steps: int | None = None
    conditions: dict[str, str | int | float] = Field(default_factory=dict)
    check: bool = True


class SavePair(Request[SavedPair]):
    """Write a pair to the new folder ``out``: ct.nii.gz, labels.nii.gz and provenance.json."""

    job: ClassVar[str] = "save_pair"
    image: Volume
    labels: Volume
    provenance: dict[str, Any]
    out: FilePath
    token: str = Field(default_factory=lambda: uuid.uuid4().hex, pattern="^[0-9a-f]{32}$")

    @property
    def aside(self) -> Path:
        """The temporary folder beside ``out``."""
        return self.out.parent / f"{PART}{self.token}"


class ListDevices(Request[DeviceList]):
    """List the GPUs, with the memory that is free now, and the CPU."""

    job: ClassVar[str] = "list_devices"


class CheckDevice(Request[CheckedDevice]):
    """Check the Python libraries, and compute a convolution on ``device``."""

    job: ClassVar[str] = "check_device"
    device: str = "auto"


class VerifyPackage(Request[CheckedPackage]):
    """Check every file and tensor of a package, named by its name or folder."""

    job: ClassVar[str] = "verify_package"
    package: str


class ImportPackage(Request[CheckedPackage]):
    """Check a package, a zip file or a folder, and install it for this user.

    A failure of the kind ``exists``: a package of that name is installed, and ``replace`` is false.
    """

    job: ClassVar[str] = "import_package"
    source: FilePath
    replace: bool = False


_JOBS: tuple[type[Request[Any]], ...] = (
    LoadSegmenter, SegmentVolume, SegmentFile, OpenCase, FindCases, GeneratePair, SavePair, ListDevices, CheckDevice,
    VerifyPackage, ImportPackage,
)  # fmt: skip
REQUESTS: dict[str, type[Request[Any]]] = {request.job: request for request in (*_JOBS, *REVIEW_REQUESTS)}


@contextlib.contextmanager
def explain_invalid_values() -> Iterator[None]:
    """Turn pydantic's error for an invalid value into a :class:`JobError` that names the field."""
    try:
        yield
    except ValidationError as error:
        raise JobError(f"The request is not valid: {first_problem(error)}.") from error


def read_request(job: object, fields: object, volumes: Mapping[str, Volume]) -> Request[Any]:
    """Return the request in a message; raise :class:`JobError` for an unknown job or fields that do not fit it."""
    request = REQUESTS.get(job) if isinstance(job, str) else None
    if request is None:
        raise JobError(f"The worker does not know the job {job!r}: restart Slicer after an update.")
    if not isinstance(fields, dict):
        raise JobError(f"The request {job!r} has no fields: restart Slicer after an update.")
    with explain_invalid_values():
        return request.model_validate({**fields, **volumes})
