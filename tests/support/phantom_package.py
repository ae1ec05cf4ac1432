"""A model package that labels the phantom of :mod:`tests.support.phantom` well; its weights are set by hand.

The first convolution samples every second voxel. ReLUs with thresholds 35 HU apart form a triangle around the HU of
each structure. The transposed convolution interpolates linearly. Where no triangle is above a half, background wins.
It foretells the Dice of its labels at quality full alone.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import torch

from CardiacLDMLib import anatomy
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.expected_dice import DiceLine, DiceRecord
from CardiacLDMLib.packages.write import write_package
from tests.support.package import tiny_manifest
from tests.support.phantom import STRUCTURE_HU, WINDOW_HU

HALF_WIDTH_HU = 35.0
_SHARPNESS = 20.0
#: Above the promise, and far below it for the appendage.
LINE = DiceLine(slope=1.0, constants={**dict.fromkeys(anatomy.NAMES, 3.0), "LAA": -6.0}, low=-0.5, high=0.4)
RECORD = DiceRecord(qualities={"full": LINE}, fitted_on="Nothing", tested_on="Nothing", date=datetime.date(2026, 1, 2))


def write_phantom_package(folder: Path) -> Path:
    """Write the package to ``folder``, which gives its name; return ``folder``."""
    manifest = tiny_manifest(folder.name)
    changes = {"arguments": {"channels": [2 * len(STRUCTURE_HU) + 1, 4], "strides": [2], "norm": "batch"}}
    networks = {
        "locator": manifest.networks["locator"].model_copy(update={**changes, "window_hu": WINDOW_HU}),
        "segmenter": manifest.networks["segmenter"].model_copy(
            update={**changes, "window_hu": WINDOW_HU, "spacing_mm": 3.0}
        ),
    }
    manifest = manifest.model_copy(update={"networks": networks, "expected_dice": RECORD})
    weights = {spec.weights: _weights(dict(spec.arguments)) for spec in networks.values()}
    write_package(folder, manifest, weights, "# Phantom\n\nWeights set by hand, for tests.\n")
    return folder


def _weights(arguments: dict) -> dict[str, torch.Tensor]:
    low, high = WINDOW_HU
    network = build_network("unet", arguments)
    state = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    for name in state:
        if name.endswith(("running_var", "N.weight")):
            state[name] += 1.0
    state["model.0.conv.weight"][:, 0, 1, 1, 1] = 1.0
    lowest = min(STRUCTURE_HU.values()) - HALF_WIDTH_HU
    thresholds = lowest + HALF_WIDTH_HU * torch.arange(arguments["channels"][0])
    state["model.0.adn.N.bias"] -= (thresholds - low) / (high - low)
    line = torch.tensor([0.5, 1.0, 0.5])
    back = line[:, None, None] * line[:, None] * line
    per_triangle = _SHARPNESS * (high - low) / HALF_WIDTH_HU
    for index, value in enumerate(STRUCTURE_HU):
        for offset, weight in enumerate((1.0, -2.0, 1.0)):
            state["model.2.conv.weight"][2 * index + offset, value] = weight * per_triangle * back
    state["model.2.conv.bias"][anatomy.BACKGROUND] = _SHARPNESS / 2
    return state
