"""Virtual cases: a heart, the body around it and a scan of both; the same bytes for the same seed.

On disk: ``DIR/cohort.json`` and ``DIR/case_0000/{ct.nii.gz, labels.nii.gz, case.json}``. Case ``i`` of seed ``S``
depends only on the settings, ``S`` and ``i``, so a cohort can be continued, split over machines and reproduced.
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
from CardiacLDMLib.errors import MemoryShortage, OutputError
from CardiacLDMLib.files import sha256, sweep, write_json
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.text import plural

from ..cases.workers import spread
from ..errors import AnatomyError
from .body.body import paint_body
from .body.catheters import draw_catheter
from .body.frame import draw_frame, extend_aorta
from .body.implants import draw_implant
from .body.real_trunk import read_trunk
from .heart.anatomy import Heart, HeartSources, draw_heart
from .heart.templates import read_template, template_files
from .protocol import Appearance, ScanProtocol, draw_protocol
from .scanner.scanner import draw_view, scan
from .shapes import Lattice
from .tissue import Body, Tissue

#: Increased whenever a seed gives other bytes than before.
FORMAT = 11
#: Share of the bodies whose lungs and organs are those of a real trunk, if one is given.
TRUNK_SHARE = 0.5
#: Share of elongated aortas whose arch is calcified.
CALCIFIED_ARCH = 0.7
#: Tissues of disease whose volume in the scan is recorded.
RECORDED = (Tissue.FLUID, Tissue.COLLAPSED_LUNG, Tissue.FALSE_LUMEN, Tissue.THROMBUS)
#: Approximate size of a case of 1.5 mm on disk, MB.
CASE_MB = 9.0


@dataclass(frozen=True)
class CohortSettings:
    """Settings of a virtual cohort.

    ``anatomies`` is a folder of template label maps, from which ``template_share`` of the hearts come; the others, and
    all without a folder, are parametric. ``trunk`` is the label map of a real trunk, whose lungs and organs surround
    half of the hearts; around the others, and all without it, they are drawn. ``deformation`` is the strength of random
    deformations; 1 covers the range of adults. ``appearance`` selects the ranges of the scans
    (:class:`~.protocol.Ranges`). Without ``surroundings`` the heart lies in a plain body, which shows the effect of the
    surrounding organs on training.
    """

    seed: int = 0
    spacing_mm: float = 1.5
    anatomies: Path | None = None
    template_share: float = 0.7
    deformation: float = 1.0
    appearance: Appearance = "realistic"
    surroundings: bool = True
    trunk: Path | None = None

    def record(self) -> dict[str, Any]:
        """Return the settings as stored with the cohort: templates by file name and hash, without their folder."""
        record = asdict(self) | {"format": FORMAT}
        record["anatomies"] = {p.name: sha256(p) for p in template_files(self.anatomies)} if self.anatomies else {}
        record["trunk"] = {self.trunk.name: sha256(self.trunk)} if self.trunk else {}
        return record

    def heart_sources(self) -> HeartSources:
        """Return the sources of the hearts. Raises :class:`AnatomyError` if the folder has no template."""
        templates = template_files(self.anatomies) if self.anatomies else []
        return HeartSources(templates, self.template_share, self.deformation)


#: Settings of ``cardiacldm cohort --preset``.
PRESETS: dict[str, dict[str, Any]] = {
    "realistic": {"appearance": "realistic", "deformation": 1.0},
    "randomised": {"appearance": "randomised", "deformation": 1.4},
}


@dataclass(frozen=True)
class Case:
    """One virtual case: CT (int16 HU) and labels (uint8) on one grid, and the record for case.json."""

    image: Volume
    labels: Volume
    record: dict[str, Any]


def make_case(settings: CohortSettings, index: int) -> Case:
    """Make case ``index`` of the cohort. Raises :class:`AnatomyError` for templates that cannot be used."""
    rng = np.random.default_rng([settings.seed, index, FORMAT])
    spacing = settings.spacing_mm
    heart = draw_heart(rng, spacing, settings.heart_sources(), finish=lambda heart: extend_aorta(heart, rng))
    frame = draw_frame(heart, rng)
    protocol = draw_protocol(rng, settings.appearance)
    if "elongated aorta" in heart.findings and rng.random() < CALCIFIED_ARCH:
        protocol = replace(protocol, calcified_arch=True)
    low, high, view = draw_view(heart, frame, protocol, rng)
    lattice = _scan_lattice(heart, low, high)
    trunk = None
    if settings.trunk and settings.surroundings and rng.random() < TRUNK_SHARE:
        trunk = read_trunk(settings.trunk)
    body = paint_body(heart, lattice, frame, rng, settings.surroundings, trunk)
    implant = draw_implant(body, lattice, protocol.implant, rng)
    if not implant:  # none, or its site is outside the scan
        protocol = replace(protocol, implant="none")
    catheter = draw_catheter(body, lattice, protocol.catheter, rng)
    if not catheter:
        protocol = replace(protocol, catheter="none")
    image = scan(body, lattice, protocol, rng, [*implant, *catheter])
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = np.round(lattice.origin, 4)
    around = trunk.name if trunk else "drawn" if settings.surroundings else "plain"
    record = {"index": index, "seed": settings.seed, "view": view, "surroundings": around, "synthetic": True}
    record |= _case_record(heart, protocol, body, spacing)
    return Case(Volume(image, affine), Volume(body.labels, affine), record)


def _scan_lattice(heart: Heart, low: np.ndarray, high: np.ndarray) -> Lattice:
    """Return the scan's grid between two corners (mm), whose voxels coincide with those of the heart."""
    spacing = heart.lattice.spacing
    shape = np.maximum(np.rint((high - low) / spacing), 8).astype(int)
    start = np.rint((low - heart.lattice.origin) / spacing)
    return Lattice(heart.lattice.origin + start * spacing, spacing, tuple(int(n) for n in shape))


def _case_record(heart: Heart, protocol: ScanProtocol, body: Body, spacing: float) -> dict[str, Any]:
    """Return the description of patient and scan; ``conditions`` are those of a generator."""
    voxel_ml = spacing**3 / 1000.0
    count = np.bincount(body.labels.ravel(), minlength=NUM_CLASSES)
    tissue = np.bincount(body.tissue.ravel(), minlength=len(Tissue))
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
        "tissues_ml": {name.name.lower(): round(float(tissue[name]) * voxel_ml, 2) for name in RECORDED},
        "volumes_ml": {s.name: round(float(count[s.value]) * voxel_ml, 2) for s in STRUCTURES},
    }


# --- on disk -------------------------------------------------------------------------------------------------------


def write_case(case: Case, folder: Path) -> None:
    """Write a case. ``case.json`` is written last, so a folder that contains it is complete."""
    sweep(folder)
    write_volume(case.image, folder / "ct.nii.gz")
    write_volume(case.labels, folder / "labels.nii.gz")
    write_json(folder / "case.json", case.record, sort_keys=True)


def _case_folder(out: Path, index: int) -> Path:
    return out / f"case_{index:04d}"


def _make_and_write(settings: CohortSettings, out: Path, index: int) -> str | None:
    """Make and write a case unless it exists; return why it failed, or None.

    Raises :class:`OutputError` if a file cannot be written, which ends the whole cohort.
    """
    folder = _case_folder(out, index)
    if (folder / "case.json").is_file():
        return None
    try:
        case = make_case(settings, index)
    except AnatomyError as error:
        return f"{folder.name}: {error}"
    except MemoryError:
        return f"{folder.name}: not enough memory; use fewer workers or a larger spacing."
    write_case(case, folder)
    return None


def write_cohort(
    settings: CohortSettings, cases: int, out: Path, workers: int = 1, progress: Callable[[int], None] | None = None
) -> list[str]:
    """Write ``cases`` cases to ``out``, continuing an earlier call; return a sentence for each case that failed.

    ``progress`` receives the number of cases so far. Raises :class:`AnatomyError` if templates or trunk are unusable,
    :class:`OutputError` if ``out`` is unsuitable or a file cannot be written.
    """
    for path in settings.heart_sources().templates:
        read_template(path)
    if settings.trunk:
        read_trunk(settings.trunk)
    _check_folder(settings, cases, out)
    failed = []
    try:
        for index, problem in enumerate(spread(partial(_make_and_write, settings, out), range(cases), workers)):
            if problem:
                failed.append(problem)
            if progress:
                progress(index + 1)
    except BrokenProcessPool as error:
        raise MemoryShortage(
            "A worker was killed, perhaps because memory ran out: use fewer workers and repeat."
        ) from error
    return failed


def _check_folder(settings: CohortSettings, cases: int, out: Path) -> None:
    """Write the settings to ``out``. Raises OutputError for the folder of another cohort or a full disk."""
    record, existing = settings.record(), out / "cohort.json"
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: choose a folder.")
    if existing.is_file():
        try:
            previous = json.loads(existing.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{existing} cannot be read: choose another folder.") from error
        if previous != record:
            raise OutputError(f"{out} holds a cohort made with other settings: choose another folder.")
    sweep(out)
    write_json(existing, record, sort_keys=True)
    missing = sum(not (_case_folder(out, index) / "case.json").is_file() for index in range(cases))
    needed = missing * CASE_MB * (1.5 / settings.spacing_mm) ** 3
    free = shutil.disk_usage(out).free / 1e6
    if needed > free:
        raise OutputError(
            f"{out} has {free / 1e3:.1f} GB free and {plural(missing, 'case')} would take about {needed / 1e3:.1f} GB: "
            "make room or ask for fewer cases."
        )
