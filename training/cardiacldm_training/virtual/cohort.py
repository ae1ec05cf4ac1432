"""Virtual cases: a heart, the body around it and a scan of both; the same bytes for the same seed.

On disk: ``DIR/cohort.json`` and ``DIR/case_0000/{ct.nii.gz, labels.nii.gz, case.json}``. Case ``i`` of seed ``S``
depends on nothing but the settings, ``S`` and ``i``: a cohort can be continued, split over machines and made again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from CardiacLDMLib.anatomy import NUM_CLASSES, STRUCTURES
from CardiacLDMLib.files import sha256, write_json
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume

from ..cases.workers import spread
from ..errors import AnatomyError, CohortError
from .body.body import draw_frame, paint_body, with_aorta
from .body.implants import draw_implant
from .heart.anatomy import Anatomies, Heart, draw_heart
from .heart.templates import read_template, template_files
from .protocol import Appearance, Scan, draw_scan
from .scanner.scanner import draw_view, scan
from .shapes import Lattice

#: Raised whenever the same seed would give other bytes than before. 1 let large hearts reach into the spine; 2 had
#: one kind of scanner and none of the structures that confuse a network; 3 named implants that the scan did not hold.
FORMAT = 6
#: What a case of 1.5 mm takes on disk, about, MB.
CASE_MB = 9.0


@dataclass(frozen=True)
class CohortSettings:
    """What a virtual cohort is made of.

    ``anatomies`` is a folder of template label maps: ``template_share`` of the hearts come from them, the others and,
    without a folder, all are built-in shapes. ``deformation`` scales how strongly hearts are bent; 1 covers the adult
    range and somewhat beyond. ``appearance`` is how they are scanned (:class:`~.protocol.Ranges`). Without
    ``surroundings`` the heart lies in a plain body: for showing what the organs around it are good for.
    """

    seed: int = 0
    spacing_mm: float = 1.5
    anatomies: Path | None = None
    template_share: float = 0.7
    deformation: float = 1.0
    appearance: Appearance = "realistic"
    surroundings: bool = True

    def record(self) -> dict[str, Any]:
        """The settings as stored with the cohort: templates by name and content, not by place."""
        record = asdict(self) | {"format": FORMAT}
        record["anatomies"] = {p.name: sha256(p) for p in template_files(self.anatomies)} if self.anatomies else {}
        return record

    def hearts(self) -> Anatomies:
        """Where the hearts come from."""
        templates = template_files(self.anatomies) if self.anatomies else []
        return Anatomies(templates, self.template_share, self.deformation)


#: What ``cardiacldm cohort --preset`` stands for.
PRESETS: dict[str, dict[str, Any]] = {
    "realistic": {"appearance": "realistic", "deformation": 1.0},
    "randomised": {"appearance": "randomised", "deformation": 1.4},
}


@dataclass(frozen=True)
class Case:
    """One virtual case: CT (int16 HU) and labels (uint8) on the same grid, and how it came about."""

    image: Volume
    labels: Volume
    record: dict[str, Any]


def make_case(settings: CohortSettings, index: int) -> Case:
    """Case ``index`` of the cohort. Raises :class:`AnatomyError` for templates that cannot be used."""
    rng = np.random.default_rng([settings.seed, index, FORMAT])
    spacing = settings.spacing_mm
    heart = draw_heart(rng, spacing, settings.hearts(), finish=lambda heart: with_aorta(heart, rng))
    frame = draw_frame(heart, rng)
    protocol = draw_scan(rng, settings.appearance)
    low, high, view = draw_view(heart, frame, protocol, rng)
    lattice = _lattice(heart, low, high)
    body = paint_body(heart, lattice, frame, rng, surroundings=settings.surroundings)
    implant = draw_implant(body, lattice, protocol.implant, rng)
    if not implant:  # none was drawn, or the scan does not hold its place
        protocol = replace(protocol, implant="none")
    image = scan(body, lattice, protocol, rng, implant)
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = np.round(lattice.origin, 4)
    record = {"index": index, "seed": settings.seed, "view": view, "synthetic": True}
    record |= _record(heart, protocol, body.labels, spacing)
    return Case(Volume(image, affine), Volume(body.labels, affine), record)


def _lattice(heart: Heart, low: np.ndarray, high: np.ndarray) -> Lattice:
    """The scan's grid between two corners (mm), its voxels on those of the heart."""
    spacing = heart.lattice.spacing
    shape = np.maximum(np.rint((high - low) / spacing), 8).astype(int)
    start = np.rint((low - heart.lattice.origin) / spacing)
    return Lattice(heart.lattice.origin + start * spacing, spacing, tuple(int(n) for n in shape))


def _record(heart: Heart, protocol: Scan, labels: np.ndarray, spacing: float) -> dict[str, Any]:
    """What case.json says of patient and scan; ``conditions`` is what a generator is asked for."""
    voxel_ml = spacing**3 / 1000.0
    count = np.bincount(labels.ravel(), minlength=NUM_CLASSES)
    return {
        "anatomy": heart.source,
        "appendage": heart.appendage,
        "findings": list(heart.findings),
        "measures": {name: round(float(value), 2) for name, value in heart.measures.items()},
        "scan": asdict(protocol),
        "conditions": {
            "sex": heart.sex,
            "contrast_phase": protocol.phase,
            "scan_location": protocol.site,
            "implant": protocol.implant,
            "spacing_mm": spacing,
        },
        "volumes_ml": {s.name: round(float(count[s.value]) * voxel_ml, 2) for s in STRUCTURES},
    }


# --- on disk -------------------------------------------------------------------------------------------------------


def write_case(case: Case, folder: Path) -> None:
    """Write a case; ``case.json`` comes last, so a folder that has one is whole."""
    write_volume(case.image, folder / "ct.nii.gz")
    write_volume(case.labels, folder / "labels.nii.gz")
    write_json(folder / "case.json", case.record, sort_keys=True)


def _folder(out: Path, index: int) -> Path:
    return out / f"case_{index:04d}"


def _make_and_write(settings: CohortSettings, out: Path, index: int) -> str | None:
    """One case to disk, unless it is there; returns what was wrong with it, if anything.

    A case that cannot be written is an error of the whole cohort: :class:`OutputError`.
    """
    folder = _folder(out, index)
    if (folder / "case.json").is_file():
        return None
    try:
        case = make_case(settings, index)
    except AnatomyError as error:
        return f"{folder.name}: {error}"
    except MemoryError:
        return f"{folder.name}: the memory is full; use fewer workers or a larger spacing."
    write_case(case, folder)
    return None


def write_cohort(
    settings: CohortSettings, cases: int, out: Path, workers: int = 1, done: Callable[[int], None] | None = None
) -> list[str]:
    """Write ``cases`` cases to ``out``, going on where an earlier call stopped; returns the cases that failed.

    Raises :class:`AnatomyError` if the templates are unusable, :class:`CohortError` if ``out`` cannot take the cohort,
    ``OutputError`` if a file cannot be written.
    """
    for path in settings.hearts().templates:
        read_template(path)
    _prepare(settings, cases, out)
    failed = []
    try:
        for index, problem in enumerate(spread(partial(_make_and_write, settings, out), range(cases), workers)):
            if problem:
                failed.append(problem)
            if done:
                done(index + 1)
    except BrokenProcessPool as error:
        raise CohortError("A worker was killed, perhaps for want of memory: use fewer workers and repeat.") from error
    return failed


def _prepare(settings: CohortSettings, cases: int, out: Path) -> None:
    """Refuse a folder of another cohort, or one without room; else leave the settings there."""
    record, existing = settings.record(), out / "cohort.json"
    if out.exists() and not out.is_dir():
        raise CohortError(f"{out} is a file: choose a folder.")
    if existing.is_file():
        try:
            found = json.loads(existing.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CohortError(f"{existing} cannot be read: choose another folder.") from error
        if found != record:
            raise CohortError(f"{out} holds a cohort made with other settings: choose another folder.")
    write_json(existing, record, sort_keys=True)
    missing = sum(not (_folder(out, index) / "case.json").is_file() for index in range(cases))
    needed = missing * CASE_MB * (1.5 / settings.spacing_mm) ** 3
    free = shutil.disk_usage(out).free / 1e6
    if needed > free:
        raise CohortError(
            f"{out} has {free / 1e3:.1f} GB free and {missing} cases need about {needed / 1e3:.1f} GB: "
            "make room, or fewer cases."
        )
