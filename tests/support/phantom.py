"""A chest-like phantom whose eight structures differ in HU, and networks that recognise them by it, untrained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Grid, Volume

WINDOW_HU = (-300.0, 700.0)
TISSUE_HU = 0.0
#: HU of every structure, so far apart that linear interpolation leaves only thin seams of other values.
STRUCTURE_HU = {s.value: 70.0 * s.value for s in anatomy.STRUCTURES}
#: Centres in RAS mm from the heart's centre: a 2 x 2 x 2 arrangement without any symmetry of its labels.
CENTRES = {
    value: 22.0 * (2.0 * np.array(place) - 1.0) for value, place in zip(STRUCTURE_HU, np.ndindex(2, 2, 2), strict=True)
}
RADIUS_MM = 21.0


def phantom(grid: Grid, heart: tuple[float, float, float] = (5.0, -8.0, 11.0)) -> tuple[Volume, Volume]:
    """Return CT (int16) and true labels (uint8) on ``grid``: eight balls around ``heart`` (RAS mm), tissue, lung."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    place = index @ grid.affine[:3, :3].T + grid.affine[:3, 3] - np.array(heart)
    hu = np.where((np.abs(place) < 47.0).all(-1), TISSUE_HU, -900.0)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    for value, centre in CENTRES.items():
        inside = np.linalg.norm(place - centre, axis=-1) <= RADIUS_MM
        hu[inside] = STRUCTURE_HU[value]
        labels[inside] = value
    return Volume(hu.astype(np.int16), grid.affine), Volume(labels, grid.affine)


class ByIntensity(torch.nn.Module):
    """A network that labels voxels within 20 HU of a structure's value, and the others as background."""

    def __init__(self) -> None:
        super().__init__()
        low, high = WINDOW_HU
        hu = torch.tensor(list(STRUCTURE_HU.values()))
        self.register_buffer("values", ((hu - low) / (high - low)).reshape(1, -1, 1, 1, 1))
        self.calls = 0

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        logits = 10.0 * (1.0 - ((windows - self.values) * (WINDOW_HU[1] - WINDOW_HU[0]) / 20.0) ** 2)
        return torch.cat([torch.zeros_like(windows), logits.clamp(min=-10.0)], dim=1)


def spec(spacing_mm: float, patch: int) -> SimpleNamespace:
    return SimpleNamespace(spacing_mm=spacing_mm, patch=(patch,) * 3, window_hu=WINDOW_HU)


def phantom_package() -> Any:
    """Return the parts of a package that a Segmenter reads; its networks are to be :class:`ByIntensity`."""
    networks = {"locator": spec(5.0, 32), "segmenter": spec(2.0, 48)}
    manifest = SimpleNamespace(name="phantom", kind="segmenter", networks=networks, borders=None, expected_dice=None)
    return SimpleNamespace(manifest=manifest)
