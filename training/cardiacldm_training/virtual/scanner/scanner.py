"""The virtual scanner: a body becomes a CT, with contrast, foreign bodies, artefacts, kernel, slices and noise."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import fft

from CardiacLDMLib.anatomy import HEART, VALUE

from ..body.body import Frame
from ..body.implants import Foreign, draw_calcium, paint
from ..heart.anatomy import Heart
from ..protocol import RANGES, SITES, Scan
from ..shapes import Lattice
from ..tissue import Body, Tissue
from . import artefacts
from .contrast import holds, painted

#: Lowest and highest HU that are stored, as by most scanners (12 bit).
STORED_HU = (-1024, 3071)
#: What the heart's beat moves.
BEATING = tuple(Tissue[name] for name in HEART) + (
    Tissue.PAPILLARY, Tissue.VALVE, Tissue.CORONARY_ARTERY, Tissue.CORONARY_VEIN,
)  # fmt: skip


def scan(
    body: Body, lattice: Lattice, protocol: Scan, rng: np.random.Generator, implant: Iterable[Foreign] = ()
) -> np.ndarray:
    """Hounsfield units (int16, (I, J, K) as the body) of a body with an implant on its own lattice.

    The order is that of a real scan: matter, movement while it is measured, errors of the projections, slice profile,
    kernel, noise; last what happens to finished slices.
    """
    image = painted(body.tissue, lattice, protocol, rng)
    paint(image, [*draw_calcium(body, lattice, protocol, rng), *implant])
    if protocol.motion_mm > 0:
        artefacts.beaten(image, holds(body.tissue, BEATING), lattice, protocol.motion_mm, rng)
    wrong, spread = artefacts.of_projections(image, lattice, protocol, rng)
    shape = image.shape
    size = (fft.next_fast_len(shape[0] + 12, True), fft.next_fast_len(shape[1] + 12, True))
    response, grain = artefacts.transfer(size, lattice.spacing, protocol)
    along = artefacts.across(shape[2], lattice.spacing, protocol.slice_mm, rng.random())
    image = artefacts.filtered((image + wrong) @ along.T, response, size)
    image += spread * protocol.noise_hu * artefacts.noise(shape, grain, size, along, rng)
    image += artefacts.drift(shape, lattice.spacing, protocol, rng)
    if protocol.step_mm > 0:
        artefacts.stepped(image, lattice, protocol, rng)
    outside = artefacts.circle(lattice, protocol)
    if outside is not None:
        image[outside] = STORED_HU[0]
    return np.clip(np.rint(image), *STORED_HU).astype(np.int16)


def draw_view(
    heart: Heart, frame: Frame, protocol: Scan, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, str]:
    """Lower and upper corner of the scan (mm, RAS) and its kind.

    ``heart`` and ``wide``: about the heart, 180 to 320 mm; ``chest``: lungs from side to side; ``trunk``: with the
    upper abdomen. Few scans cut the heart's lower or upper end (``cut`` is then part of the kind).
    """
    chambers = np.isin(heart.labels, [VALUE[name] for name in HEART])
    points = heart.lattice.origin + heart.lattice.spacing * np.argwhere(chambers)
    low, high = points.min(0), points.max(0)
    views = SITES[protocol.site].views
    kind = str(rng.choice(list(views), p=list(views.values())))
    if kind in ("chest", "trunk"):
        side = min(2 * (frame.half_width + rng.uniform(25, 60)), 500.0)
        centre = np.array([frame.middle[0], frame.middle[1] - 8.0]) + rng.normal(0, 6, 2)
        half = np.array([side / 2, side / 2 * 0.78])
        bottom = low[2] - (rng.uniform(20, 110) if kind == "chest" else rng.uniform(100, 200))
        top = high[2] + rng.uniform(70, 140)
    else:
        span = (180.0, 235.0) if kind == "heart" else (235.0, 330.0)
        side = max(rng.uniform(*span), float((high - low)[:2].max()) + 12.0)
        room = np.maximum((side - (high - low)[:2]) / 2 - 5.0, 0.0)
        centre = (low + high)[:2] / 2 + np.clip(rng.normal(0, 9, 2), -room, room)
        half = np.array([side / 2] * 2)
        bottom, top = low[2] - rng.uniform(4, 40), high[2] + rng.uniform(8, 60)
    if rng.random() < RANGES[protocol.appearance].cut:
        kind += " cut"
        if rng.random() < 0.6:
            bottom = low[2] + rng.uniform(3, 22)
        else:
            top = high[2] - rng.uniform(3, 18)
    return np.append(centre - half, bottom), np.append(centre + half, top), kind
