"""The body around a virtual heart, painted from the outside in.

:mod:`frame` fits the body to the heart; :mod:`chest`, :mod:`abdomen`, :mod:`lungs` and :mod:`vessels` paint it;
:mod:`surface` and :mod:`coronaries` paint what lies on the heart, :mod:`valves` and :mod:`cavities` what lies in it.
No organ replaces a labelled voxel.
"""

from __future__ import annotations

import numpy as np

from CardiacLDMLib.anatomy import VALUE

from ..heart.anatomy import Heart
from ..shapes import Lattice, tube_mask
from ..tissue import Body, Tissue
from .abdomen import draw_diaphragm, paint_abdomen
from .aorta import paint_aortic_disease
from .canvas import Canvas, LabelBoxes
from .cavities import paint_cavities
from .chest import measure_trunk, paint_cage, paint_shoulders, paint_spine, paint_table, paint_wall
from .coronaries import paint_coronaries
from .courses import Obstacles, paint_courses
from .frame import BodyFrame, Landmarks
from .lungs import paint_lungs
from .real_trunk import RealTrunk
from .surface import draw_sac, paint_surface
from .trunk_fit import fit_trunk
from .valves import paint_valves
from .vessels import Mediastinum, plan_mediastinum


def paint_body(
    heart: Heart, lattice: Lattice, frame: BodyFrame, rng: np.random.Generator, surroundings: bool = True,
    trunk: RealTrunk | None = None,
) -> Body:  # fmt: skip
    """Return tissues and labels of heart and body on ``lattice``, whose voxels coincide with those of the heart.

    Lungs, abdominal organs, airways and sternum are those of a real ``trunk`` if there is one, fitted to the heart; all
    else is drawn. Without ``surroundings`` the heart lies in a plain oval body with two oval lungs.
    """
    canvas, marks = Canvas(lattice), Landmarks(heart)
    obstacles = Obstacles(marks)
    labels = place_labels(heart, lattice, frame)
    plan = None
    if surroundings:
        plan = _paint_around(canvas, heart, marks, obstacles, frame, labels, trunk, rng)
    else:
        _paint_plain(canvas, frame)
    boxes, sac = LabelBoxes(labels), draw_sac(marks, frame, rng)
    paint_surface(canvas, boxes, sac, frame, rng, plan.veins if plan else None)
    paint_coronaries(canvas, marks, obstacles, sac, rng)
    inside = labels > 0
    canvas.tissue[inside] = labels[inside]
    paint_valves(canvas, marks, boxes, rng)
    paint_cavities(canvas, marks, boxes, rng)
    paint_aortic_disease(canvas, marks, boxes, frame, rng)
    return Body(canvas.tissue, labels)


def _paint_around(
    canvas: Canvas,
    heart: Heart,
    marks: Landmarks,
    obstacles: Obstacles,
    frame: BodyFrame,
    labels: np.ndarray,
    real: RealTrunk | None,
    rng: np.random.Generator,
) -> Mediastinum:
    """Paint chest, abdomen, lungs, bones, vessels and table; return the plan of the mediastinum."""
    fitted = fit_trunk(real, canvas, marks, frame, rng) if real else None
    trunk = measure_trunk(canvas, frame, rng)
    paint_wall(canvas, frame, trunk, rng)
    level, bed = draw_diaphragm(canvas, heart, frame, fitted, rng)
    paint_abdomen(canvas, frame, trunk, level, fitted, rng)
    plan = plan_mediastinum(marks, obstacles, frame, fitted, rng)
    paint_lungs(canvas, frame, trunk, level, bed, plan, labels, fitted, rng)
    paint_spine(canvas, frame, rng)
    paint_cage(canvas, frame, rng, fitted.levels["sternum"] if fitted else None)
    paint_shoulders(canvas, frame, trunk, rng)
    paint_courses(canvas, plan.courses)
    paint_table(canvas, frame, trunk, rng)
    return plan


def _paint_plain(canvas: Canvas, frame: BodyFrame) -> None:
    """Paint an oval body of soft tissue and two oval lungs."""
    x, y, z = canvas.x - frame.middle[0], canvas.y - frame.middle[1], canvas.z
    body = 1.0 - np.square(x / (frame.half_width + 30)) - np.square(y / (frame.half_depth + 30)) + 0.0 * z
    canvas.fill(body.astype(np.float32), Tissue.MUSCLE)
    for side in (0.55, -0.55):
        lung = 1.0 - np.square((x - side * frame.half_width) / (0.42 * frame.half_width))
        lung = lung - np.square(y / (0.85 * frame.half_depth)) - np.square((z - frame.seat - 70.0) / 140.0)
        canvas.fill(lung.astype(np.float32), Tissue.LUNG)


def place_labels(heart: Heart, lattice: Lattice, frame: BodyFrame) -> np.ndarray:
    """Return the heart's labels (uint8) on the body's lattice, with the aorta continued below the heart's lattice."""
    out = np.zeros(lattice.shape, dtype=np.uint8)
    shift = np.rint((heart.lattice.origin - lattice.origin) / lattice.spacing).astype(int)
    start, stop = np.maximum(shift, 0), np.minimum(shift + heart.labels.shape, lattice.shape)
    if (stop > start).all():
        target = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        source = tuple(slice(a, b) for a, b in zip(start - shift, stop - shift, strict=True))
        out[target] = heart.labels[source]
    box, mask = tube_mask(lattice, frame.aorta)
    bottom = heart.lattice.origin[2] - heart.lattice.spacing / 2
    mask &= lattice.axis(2)[..., box[2]] < bottom
    out[box][mask] = VALUE["AO"]
    return out
