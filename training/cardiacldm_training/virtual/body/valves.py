"""Heart valves: open orifices between the cavities, leaflets and cusps in their blood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from CardiacLDMLib.anatomy import VALUE

from ..shapes import perpendicular
from ..tissue import Tissue
from .canvas import Box, Canvas, LabelBoxes, blur
from .frame import Landmarks


def paint_valves(canvas: Canvas, marks: Landmarks, labels: LabelBoxes, rng: np.random.Generator) -> None:
    """Fill the valves' orifices with blood and paint leaflets and cusps.

    In systole mitral and tricuspid leaflets are shut; otherwise they hang into the ventricles, and the aortic and
    pulmonary cusps are shut.
    """
    shut = "systole" in marks.findings or rng.random() < 0.25
    for upper, lower in (("LA", "LV"), ("RA", "RV")):
        ring = _open_orifice(canvas, labels, upper, lower, Tissue[lower])
        if ring is not None:
            _paint_leaflets(canvas, ring, Tissue[lower], shut, rng)
    for upper, lower in (("AO", "LV"), ("PA", "RV")):
        ring = _open_orifice(canvas, labels, lower, upper, Tissue[lower])
        if ring is not None and not shut:
            _paint_cusps(canvas, ring, Tissue[upper], rng)


@dataclass(frozen=True)
class Ring:
    """The ring of a valve, in mm."""

    centre: np.ndarray
    normal: np.ndarray  # unit vector in the direction of flow
    radius: float


def _open_orifice(canvas: Canvas, labels: LabelBoxes, before: str, behind: str, blood: Tissue) -> Ring | None:
    """Find where two structures meet, fill the gap between them with blood and return the valve's ring.

    Return None if they do not meet within the scan.
    """
    lattice, spacing = canvas.lattice, canvas.lattice.spacing
    margin = int(4.0 / spacing) + 1
    boxes = [labels.box((n,), margin) for n in (before, behind)]
    if boxes[0] is None or boxes[1] is None:
        return None
    spans = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(*boxes, strict=True)]
    box = tuple(slice(start, max(start, stop)) for start, stop in spans)
    part = labels.array[box]
    if not part.size:
        return None
    shares = [blur(part == VALUE[n], max(1.4, 0.9 * spacing), spacing) for n in (before, behind)]
    meeting = (shares[0] > 0.18) & (shares[1] > 0.18)
    if meeting.sum() * spacing**3 < 200.0:
        return None
    canvas.tissue[box][meeting & (part == 0)] = blood
    points = lattice.origin + spacing * (np.argwhere(meeting) + [s.start for s in box])
    centre = points.mean(0)
    _, values, rows = np.linalg.svd(points - centre, full_matrices=False)
    spread = values[:2] / np.sqrt(len(points))
    middles = [np.argwhere(part == VALUE[n]).mean(0) for n in (before, behind)]
    normal = rows[2] * (np.sign(rows[2] @ (middles[1] - middles[0])) or 1.0)
    return Ring(centre, normal, float(2.0 * np.sqrt(spread[0] * spread[1])))


def _cylinder_coordinates(canvas: Canvas, ring: Ring, reach: float) -> tuple[Box, np.ndarray, np.ndarray, np.ndarray]:
    """Return the box ``reach`` mm around a ring and its cylinder coordinates: height, distance (mm) and angle (rad)."""
    lattice = canvas.lattice
    box = lattice.box(ring.centre - reach, ring.centre + reach)
    offset = lattice.crop(box).points() - ring.centre.astype(np.float32)
    height = offset @ ring.normal.astype(np.float32)
    first = perpendicular([0.3, 0.5, 0.8], ring.normal)
    second = np.cross(ring.normal, first)
    u, v = offset @ first.astype(np.float32), offset @ second.astype(np.float32)
    return box, height, np.hypot(u, v), np.arctan2(v, u)


def _paint_leaflets(canvas: Canvas, ring: Ring, blood: Tissue, shut: bool, rng: np.random.Generator) -> None:
    """Paint the leaflets: a sheet across the ring if ``shut``, else a funnel into the ventricle."""
    box, height, rho, angle = _cylinder_coordinates(canvas, ring, ring.radius + 26.0)
    thick = 0.5 * max(canvas.lattice.spacing, rng.uniform(0.9, 1.8))
    length = ring.radius * rng.uniform(0.6, 1.1)
    if shut:
        sheet = np.abs(height + 1.0 - 3.0 * (1.0 - np.square(rho / ring.radius))) < thick
        sheet &= rho < 1.05 * ring.radius
    else:
        uneven = 1.0 + 0.35 * np.cos(angle - rng.uniform(0, 6.3)) + 0.15 * np.cos(2 * angle)
        narrowing = 1.0 - rng.uniform(0.25, 0.6) * height / length
        sheet = (height > 0) & (height < length * uneven) & (np.abs(rho - 0.92 * ring.radius * narrowing) < thick)
    canvas.tissue[box][sheet & canvas.tissue_mask(box, (blood,))] = Tissue.VALVE


def _paint_cusps(canvas: Canvas, ring: Ring, blood: Tissue, rng: np.random.Generator) -> None:
    """Paint three shut cusps: their seams and bellies."""
    box, height, rho, angle = _cylinder_coordinates(canvas, ring, 1.3 * ring.radius + 4.0)
    thick = 0.5 * max(canvas.lattice.spacing, rng.uniform(0.7, 1.3))
    sector = np.mod(angle + rng.uniform(0, 2.1), 2.0944) - 1.0472  # about the middle of each cusp
    seam = (
        (rho * np.sin(1.0472 - np.abs(sector)) < thick) & (height > 0.35 * ring.radius) & (height < 0.8 * ring.radius)
    )
    belly = np.abs(height - 0.4 * ring.radius * (1 - rho / ring.radius)) < thick
    sheet = (seam | belly) & (rho < 1.05 * ring.radius) & (height > -1.0)
    canvas.tissue[box][sheet & canvas.tissue_mask(box, (blood,))] = Tissue.VALVE
