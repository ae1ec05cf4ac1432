"""The body around a virtual heart, painted from the outside in; the heart's labels always win.

The parts: :mod:`frame` fits a body to the heart, :mod:`chest`, :mod:`abdomen`, :mod:`lungs` and :mod:`vessels` paint
it, :mod:`inner` adds what lies in and on the heart.
"""

from __future__ import annotations

import numpy as np

from CardiacLDMLib.anatomy import VALUE

from ..heart.anatomy import Heart
from ..shapes import Lattice, inside_tube
from ..tissue import Body, Tissue
from .abdomen import diaphragm, paint_abdomen
from .canvas import Canvas
from .chest import measure, paint_cage, paint_shoulders, paint_spine, paint_table, paint_wall
from .frame import Frame, Marks, draw_frame, with_aorta
from .inner import Pools, paint_on_heart, paint_within
from .lungs import paint_lungs
from .vessels import paint_courses, plan

__all__ = ["Frame", "draw_frame", "paint_body", "with_aorta"]


def paint_body(
    heart: Heart, lattice: Lattice, frame: Frame, rng: np.random.Generator, surroundings: bool = True
) -> Body:
    """Heart and body on ``lattice``, whose voxels fall on those of the heart's.

    Without ``surroundings`` the heart lies in a plain oval body with two oval lungs.
    """
    canvas, marks = Canvas(lattice), Marks(heart)
    labels = placed(heart, lattice, frame)
    if surroundings:
        _paint_around(canvas, heart, marks, frame, labels, rng)
    else:
        _paint_plain(canvas, frame)
    pools = Pools(labels)
    paint_on_heart(canvas, marks, pools, frame, rng, veins=surroundings)
    inside = labels > 0
    canvas.tissue[inside] = labels[inside]
    paint_within(canvas, marks, pools, rng)
    return Body(canvas.tissue, labels)


def _paint_around(
    canvas: Canvas, heart: Heart, marks: Marks, frame: Frame, labels: np.ndarray, rng: np.random.Generator
) -> None:
    trunk = measure(canvas, frame, rng)
    paint_wall(canvas, frame, trunk, rng)
    level, bed = diaphragm(canvas, heart, frame, rng)
    paint_abdomen(canvas, frame, trunk, level, rng)
    tubes = plan(marks, frame, rng)
    paint_lungs(canvas, marks, frame, trunk, level, bed, tubes, labels, rng)
    paint_spine(canvas, frame, rng)
    paint_cage(canvas, frame, rng)
    paint_shoulders(canvas, frame, trunk, rng)
    paint_courses(canvas, tubes.courses)
    paint_table(canvas, frame, trunk, rng)


def _paint_plain(canvas: Canvas, frame: Frame) -> None:
    """An oval body of soft tissue and two oval lungs."""
    x, y, z = canvas.x - frame.middle[0], canvas.y - frame.middle[1], canvas.z
    body = 1.0 - np.square(x / (frame.half_width + 30)) - np.square(y / (frame.half_depth + 30)) + 0.0 * z
    canvas.fill(body.astype(np.float32), Tissue.MUSCLE)
    for side in (0.55, -0.55):
        lung = 1.0 - np.square((x - side * frame.half_width) / (0.42 * frame.half_width))
        lung = lung - np.square(y / (0.85 * frame.half_depth)) - np.square((z - frame.seat - 70.0) / 140.0)
        canvas.fill(lung.astype(np.float32), Tissue.LUNG)


def placed(heart: Heart, lattice: Lattice, frame: Frame) -> np.ndarray:
    """The heart's labels (uint8) on the body's lattice, the aorta led on below."""
    out = np.zeros(lattice.shape, dtype=np.uint8)
    shift = np.rint((heart.lattice.origin - lattice.origin) / lattice.spacing).astype(int)
    start, stop = np.maximum(shift, 0), np.minimum(shift + heart.labels.shape, lattice.shape)
    if (stop > start).all():
        target = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        source = tuple(slice(a, b) for a, b in zip(start - shift, stop - shift, strict=True))
        out[target] = heart.labels[source]
    box, mask = inside_tube(lattice, frame.aorta)
    bottom = heart.lattice.origin[2] - heart.lattice.spacing / 2
    mask &= lattice.axis(2)[..., box[2]] < bottom
    out[box][mask] = VALUE["AO"]
    return out
