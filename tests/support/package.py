"""A tiny, valid model package with random weights, for tests that need one but not its labels."""

from __future__ import annotations

import datetime
from pathlib import Path

import torch

from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.manifest import Figure, Manifest, NetworkSpec, Provenance
from CardiacLDMLib.packages.write import write_package

_DATE = datetime.date(2026, 1, 2)
_CARD = "# Tiny heart\n\nRandom weights, for tests.\n"


def tiny_manifest(name: str = "tiny") -> Manifest:
    """Return the manifest of :func:`write_tiny_package`, without the hashes that writing adds."""
    coarse = NetworkSpec(
        architecture="unet", arguments={"channels": [4, 8], "strides": [2], "norm": "batch"},
        weights="locator.safetensors", spacing_mm=6.0, patch=(32, 32, 32), window_hu=(-300.0, 700.0),
    )  # fmt: skip
    fine = coarse.model_copy(update={"weights": "segmenter.safetensors", "spacing_mm": 4.0})
    return Manifest(
        name=name, version="1.0", kind="segmenter", title="Tiny heart", summary="Labels nothing well: random weights.",
        networks={"locator": coarse, "segmenter": fine},
        training=Provenance(data="Nothing", cases=0, seed=0, steps={"locator": 0, "segmenter": 0},
                            code_version="0", date=_DATE),
        figures=[Figure(name="mean Dice", value=0.01, on="virtual cases", cases=2, date=_DATE)],
        licence="CC0-1.0", intended_use="Tests.", attribution=["The authors of the tests"],
    )  # fmt: skip


def write_tiny_package(folder: Path) -> Path:
    """Write a package of two small UNets with random weights to ``folder``, which gives its name; return ``folder``."""
    manifest = tiny_manifest(folder.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = {
            spec.weights: build_network(spec.architecture, spec.arguments).state_dict()
            for spec in manifest.networks.values()
        }
    write_package(folder, manifest, weights, _CARD)
    return folder
