"""Virtual cases: a heart, the body around it and a scan of both; the same bytes for the same seed.

On disk: ``DIR/cohort.json`` and ``DIR/case_0000/{ct.nii.gz, labels.nii.gz, case.json}``. Case ``i`` of seed ``S``
depends on nothing but the settings, ``S`` and ``i``: a cohort can be continued, split over machines and made again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from CardiacLDMLib.anatomy import HEART, NUM_CLASSES, STRUCTURES, VALUE
from CardiacLDMLib.volume import Volume, VolumeError, write_volume, written_aside

from .anatomy import AnatomyError, draw_heart, read_template, template_files
from .body import draw_frame, paint_body, with_aorta
from .scanner import draw_scan, scan
from .shapes import Lattice

#: Raised whenever the same seed would give other bytes than before. 1 let large hearts reach into the spine.
FORMAT = 2


@dataclass(frozen=True)
class CohortSettings:
    """What a virtual cohort is made of.

    ``anatomies`` is a folder of template label maps, mixed with the built-in shapes; without it all are built-in.
    ``deformation`` scales how strongly hearts are bent; 1 covers the adult range and somewhat beyond.
    """

    seed: int = 0
    spacing_mm: float = 1.5
    anatomies: Path | None = None
    deformation: float = 1.0

    def record(self) -> dict[str, Any]:
        """The settings as stored with the cohort: templates by name and content, not by place."""
        record = asdict(self) | {"format": FORMAT}
        record["anatomies"] = {p.name: sha256(p) for p in template_files(self.anatomies)} if self.anatomies else {}
        return record


@dataclass(frozen=True)
class Case:
    """One virtual case: CT (int16 HU) and labels (uint8) on the same grid, and how it came about."""

    image: Volume
    labels: Volume
    record: dict[str, Any]


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_case(settings: CohortSettings, index: int) -> Case:
    """Case ``index`` of the cohort. Raises :class:`AnatomyError` for templates that cannot be used."""
    rng = np.random.default_rng([settings.seed, index, FORMAT])
    spacing = settings.spacing_mm
    templates = template_files(settings.anatomies) if settings.anatomies else []
    heart = draw_heart(rng, spacing, templates, settings.deformation, lambda heart: with_aorta(heart, rng))
    frame = draw_frame(heart, rng)
    low, high, view = _field_of_view(heart, frame, rng)
    shape = np.maximum(np.rint((high - low) / spacing), 8).astype(int)
    start = np.rint((low - heart.lattice.origin) / spacing)
    lattice = Lattice(heart.lattice.origin + start * spacing, spacing, tuple(int(n) for n in shape))
    body = paint_body(heart, lattice, frame, rng)
    protocol = draw_scan(rng, spacing)
    image = scan(body.tissue, lattice, protocol, rng)
    labels = body.labels
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = np.round(lattice.origin, 4)
    voxel_ml = spacing**3 / 1000.0
    count = np.bincount(labels.ravel(), minlength=NUM_CLASSES)
    record = {
        "index": index,
        "seed": settings.seed,
        "anatomy": heart.source,
        "view": view,
        "scan": asdict(protocol),
        "volumes_ml": {s.name: round(float(count[s.value]) * voxel_ml, 2) for s in STRUCTURES},
        "synthetic": True,
    }
    return Case(Volume(image, affine), Volume(labels, affine), record)


def _field_of_view(heart: Any, frame: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
    """Lower and upper corner of the scan, mm: a cardiac, a wide cardiac or a chest protocol."""
    chambers = np.isin(heart.labels, [VALUE[name] for name in HEART])
    points = heart.lattice.origin + heart.lattice.spacing * np.argwhere(chambers)
    low, high = points.min(0), points.max(0)
    view = str(rng.choice(["cardiac", "wide", "chest"], p=[0.4, 0.2, 0.4]))
    middle = (low + high) / 2
    if view == "chest":
        side = 2 * (frame.half_width + rng.uniform(25, 50))
        centre = np.array([frame.middle[0], frame.middle[1] - 8.0]) + rng.normal(0, 6, 2)
        bottom, top = low[2] - rng.uniform(40, 130), high[2] + rng.uniform(70, 130)
    else:
        side = rng.uniform(185, 235) if view == "cardiac" else rng.uniform(235, 320)
        centre = middle[:2] + rng.normal(0, 8, 2)
        bottom, top = low[2] - rng.uniform(4, 40), high[2] + rng.uniform(12, 60)
    half = np.array([side / 2, side / 2 * (0.78 if view == "chest" else 1.0)])
    return np.append(centre - half, bottom), np.append(centre + half, top), view


# --- on disk -------------------------------------------------------------------------------------------------------


def write_case(case: Case, folder: Path) -> None:
    """Write a case; ``case.json`` comes last, so a folder that has one is whole."""
    write_volume(case.image, folder / "ct.nii.gz")
    write_volume(case.labels, folder / "labels.nii.gz")
    _write_json(case.record, folder / "case.json")


def _write_json(record: dict[str, Any], path: Path) -> None:
    with written_aside(path) as part:
        part.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _make_and_write(settings: CohortSettings, index: int, out: Path) -> str | None:
    """One case to disk, unless it is there; returns what went wrong, if anything."""
    folder = out / f"case_{index:04d}"
    if (folder / "case.json").is_file():
        return None
    try:
        write_case(make_case(settings, index), folder)
    except (AnatomyError, VolumeError, MemoryError) as error:
        return f"case_{index:04d}: {error}"
    return None


def write_cohort(
    settings: CohortSettings, cases: int, out: Path, workers: int = 1, done: Callable[[int], None] | None = None
) -> list[str]:
    """Write ``cases`` cases to ``out``, going on where an earlier call stopped; returns the cases that failed.

    Raises :class:`AnatomyError` if the templates are unusable or ``out`` holds a cohort of other settings.
    """
    record = settings.record()
    if settings.anatomies:
        for path in template_files(settings.anatomies):
            read_template(path)
    existing = out / "cohort.json"
    if existing.is_file() and json.loads(existing.read_text(encoding="utf-8")) != record:
        raise AnatomyError(f"{out} holds a cohort made with other settings: choose another folder.")
    _write_json(record, existing)
    failed = []
    for index, problem in enumerate(_results(settings, cases, out, workers)):
        if problem:
            failed.append(problem)
        if done:
            done(index + 1)
    return failed


def _results(settings: CohortSettings, cases: int, out: Path, workers: int) -> Iterator[str | None]:
    if workers <= 1:
        for index in range(cases):
            yield _make_and_write(settings, index, out)
        return
    # Fresh processes: one that is forked while torch's threads run hangs at its first parallel loop.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_use_one_thread) as pool:
        yield from pool.map(_make_and_write, [settings] * cases, range(cases), [out] * cases)


def _use_one_thread() -> None:
    """One core a worker: threads within workers only get in each other's way."""
    import torch

    torch.set_num_threads(1)
