"""What a folder of cases holds: the facts of each case, the structures, and scans that occur twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from CardiacLDMLib import anatomy
from CardiacLDMLib.errors import VolumeError, explain
from CardiacLDMLib.image.grid import Volume, in_ras_order
from CardiacLDMLib.image.labels import volumes_ml
from CardiacLDMLib.review.checks import check
from CardiacLDMLib.segmentation.findings import Finding
from CardiacLDMLib.segmentation.scan import check_values

from .readers.cases import ReadCase, has_structures, read_case
from .readers.files import ImageFiles
from .readers.label_map import IGNORED

#: Percentiles of a scan's values that tell its range.
_RANGE = (1.0, 99.0)
#: Every so many voxels along each axis are enough for percentiles.
_SPARSE = 2


@dataclass(frozen=True)
class CaseFacts:
    """What is known of a case. ``problem``: why it cannot be used; then only the names are known.

    ``hu``: the 1st and the 99th percentile of its scan. ``volumes``: of the structures that its labels tell of, in mL;
    0 for one that is not there. ``ignored``: the share of voxels that teach nothing. ``digest``: of the scan's voxels,
    however the file stores them.
    """

    name: str
    patient: str
    part: str = ""
    problem: str = ""
    labelled: bool = True
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    hu: tuple[float, float] = (0.0, 0.0)
    volumes: tuple[tuple[str, float], ...] = ()
    unknown: tuple[str, ...] = ()
    ignored: float = 0.0
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    digest: str = ""

    @property
    def present(self) -> list[str]:
        return [name for name, volume in self.volumes if volume]


def inspect(files: ImageFiles) -> CaseFacts:
    """Return the facts of one case, also of one that cannot be used."""
    patient = files.patient or files.name
    try:
        case = read_case(files)
        floor = check_values(case.image.array)
        if files.labels is not None and not has_structures(case.labels.array):
            raise VolumeError("Its labels are empty.")
        findings = _findings(files, case) if files.labels is not None else ()
    except OSError as error:
        return CaseFacts(files.name, patient, files.part, f"It cannot be read: {error.strerror or error}.")
    except Exception as error:  # one case must not stop the others
        return CaseFacts(files.name, patient, files.part, explain(error).message)
    notes = case.notes if floor is None else (*case.notes, f"The scan is clipped at {floor:g} HU.")
    return _facts(files, patient, case, findings, notes)


def _facts(
    files: ImageFiles, patient: str, case: ReadCase, findings: tuple[Finding, ...], notes: tuple[str, ...]
) -> CaseFacts:
    image, labels = case.image, case.labels.array
    low, high = np.percentile(image.array[::_SPARSE, ::_SPARSE, ::_SPARSE], _RANGE)
    volumes = volumes_ml(np.where(labels == IGNORED, np.uint8(0), labels), image.grid.voxel_ml)
    told = [(name, volume) for name, volume in volumes.items() if volume or name not in case.unknown]
    return CaseFacts(
        files.name, patient, files.part, labelled=files.labels is not None, shape=image.array.shape,
        spacing=tuple(float(s) for s in image.spacing), hu=(float(low), float(high)),
        volumes=tuple(told) if files.labels is not None else (),
        unknown=tuple(name for name in anatomy.NAMES if name in case.unknown),
        ignored=float(np.mean(labels == IGNORED)), findings=findings, notes=notes, digest=voxel_digest(image),
    )  # fmt: skip


def _findings(files: ImageFiles, case: ReadCase) -> tuple[Finding, ...]:
    """Return the findings of the review's checks on what the labels tell of; unknown structures have none."""
    labels = np.where(case.labels.array == IGNORED, np.uint8(0), case.labels.array)
    found = check(Volume(labels, case.labels.affine), case.image, sex=files.sex)
    return tuple(finding for finding in found if not case.unknown.intersection(finding.structures))


def voxel_digest(image: Volume) -> str:
    """Return the SHA-256 over shape and whole HU of a scan, its axes in the order of the patient."""
    array = in_ras_order(image).array
    digest = hashlib.sha256(repr(array.shape).encode())
    for plane in array:
        digest.update(np.ascontiguousarray(np.rint(np.nan_to_num(plane)).astype(np.int32)).tobytes())
    return digest.hexdigest()


def copies(facts: Sequence[CaseFacts]) -> list[list[CaseFacts]]:
    """Return the groups of cases whose scans are the same."""
    by_digest: dict[str, list[CaseFacts]] = {}
    for case in facts:
        if case.digest:
            by_digest.setdefault(case.digest, []).append(case)
    return [cases for cases in by_digest.values() if len(cases) > 1]


def leaks(facts: Sequence[CaseFacts]) -> list[str]:
    """Return sentences on what ties a data set's own test cases to its training cases, or patients to each other."""
    found = []
    for cases in copies(facts):
        if len({case.patient for case in cases}) > 1:
            names = " and ".join(case.name for case in cases)
            found.append(f"One scan, but two patients: {names}.")
        if len({case.part for case in cases}) > 1:
            test = next(case.name for case in cases if case.part == "test")
            train = next(case.name for case in cases if case.part != "test")
            found.append(f"The test case {test} has the scan of the training case {train}.")
    trained = {case.patient: case.name for case in facts if case.part != "test"}
    for case in facts:
        if case.part == "test" and case.patient in trained:
            found.append(f"The test case {case.name} is of the patient of the training case {trained[case.patient]}.")
    return found
