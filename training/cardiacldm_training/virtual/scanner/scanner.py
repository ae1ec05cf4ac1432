"""The virtual scanner: a CT of a body with enhancement, foreign bodies, artefacts, slice profile, kernel and noise."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import fft

from CardiacLDMLib.anatomy import HEART, VALUE

from ..body.foreign import ForeignBody, paint_foreign_bodies
from ..body.frame import BodyFrame
from ..body.implants import draw_calcium
from ..heart.anatomy import Heart
from ..protocol import RANGES, SITES, ScanProtocol
from ..shapes import Lattice
from ..tissue import Body, Tissue, tissue_mask
from . import artefacts
from .contrast import paint_hu

#: Lowest and highest stored HU, as on most scanners (12 bit).
STORED_HU = (-1024, 3071)
#: Tissues that move with the heartbeat.
BEATING = tuple(Tissue[name] for name in HEART) + (
    Tissue.PAPILLARY, Tissue.VALVE, Tissue.CORONARY_ARTERY, Tissue.CORONARY_VEIN,
)  # fmt: skip


def scan(
    body: Body, lattice: Lattice, protocol: ScanProtocol, rng: np.random.Generator, foreign: Iterable[ForeignBody] = ()
) -> np.ndarray:
    """Return the CT (int16 HU, (I, J, K)) of a body, with ``foreign`` implants and catheters, on its own lattice.

    Steps follow the order of a real scan: HU, motion, projection errors, slice profile, kernel, noise; last the errors
    of finished slices.
    """
    image = paint_hu(body.tissue, lattice, protocol, rng)
    paint_foreign_bodies(image, [*draw_calcium(body, lattice, protocol, rng), *foreign])
    if protocol.motion_mm > 0:
        artefacts.blend_heartbeat(image, tissue_mask(body.tissue, BEATING), lattice, protocol.motion_mm, rng)
    error_hu, noise_factor = artefacts.projection_errors(image, lattice, protocol, rng)
    shape = image.shape
    size = (fft.next_fast_len(shape[0] + 12, True), fft.next_fast_len(shape[1] + 12, True))
    response, grain = artefacts.kernel_spectra(size, lattice.spacing, protocol)
    along = artefacts.slice_matrix(shape[2], lattice.spacing, protocol.slice_mm, rng.random())
    image = artefacts.apply_kernel((image + error_hu) @ along.T, response, size)
    image += noise_factor * protocol.noise_hu * artefacts.draw_noise(shape, grain, size, along, rng)
    image += artefacts.draw_bias(shape, lattice.spacing, protocol, rng)
    if protocol.step_mm > 0:
        artefacts.shift_slabs(image, lattice, protocol, rng)
    outside = artefacts.outside_circle(lattice, protocol)
    if outside is not None:
        image[outside] = STORED_HU[0]
    return np.clip(np.rint(image), *STORED_HU).astype(np.int16)


def draw_view(
    heart: Heart, frame: BodyFrame, protocol: ScanProtocol, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, str]:
    """Draw the field of view: its lower and upper corner (mm, RAS) and its kind.

    ``heart`` and ``wide`` are centred on the heart, 180 to 330 mm; ``chest`` covers both lungs; ``trunk`` also the
    upper abdomen. A few scans cut the heart's lower or upper end; their kind ends with ``cut``.
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
