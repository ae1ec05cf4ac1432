"""A tiny, valid generator package with random weights, for tests that need pairs but not good ones."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import torch

from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.generator_spec import GeneratorSpec
from CardiacLDMLib.packages.manifest import Manifest, NetworkSpec, Provenance
from CardiacLDMLib.packages.write import write_package

_DATE = datetime.date(2026, 1, 2)
_CARD = "# Tiny generator\n\nRandom weights, for tests.\n"
GRID, SPACING_MM = (16, 16, 16), 8.0
#: As a manifest lists them; ``weight_kg`` has a range of one value.
CHOICES = {"sex": ["female", "male"], "implant": ["none", "leads"]}
NUMBERS = {"spacing_mm": (1.0, 3.0), "weight_kg": (70.0, 70.0)}


def tiny_generator_spec(sampling: dict[str, Any] | None = None, **changes: object) -> GeneratorSpec:
    """Return the record of a tiny generator; ``sampling`` and ``changes`` replace single fields."""
    values = {
        "latent_shift": (0.1, -0.2, 0.0, 0.3), "latent_scale": (1.5, 0.5, 1.0, 2.0),
        "choices": CHOICES, "numbers": NUMBERS,
        "sampling": {"schedule": "rectified_flow", "solver": "euler", "steps": 3, **(sampling or {})},
    }  # fmt: skip
    return GeneratorSpec.model_validate({**values, **changes})


def tiny_generator_manifest(
    name: str = "tiny-generator", autoencoder_arguments: dict[str, Any] | None = None, *, fine: bool = False,
    **changes: Any,
) -> Manifest:  # fmt: skip
    """Return the manifest of :func:`write_tiny_generator`, without hashes; ``changes`` are of its GeneratorSpec."""
    autoencoder = NetworkSpec(
        architecture="joint_autoencoder", weights="autoencoder.safetensors", spacing_mm=SPACING_MM, patch=GRID,
        arguments={"channels": [8, 8, 16], "num_res_blocks": 1, "norm_num_groups": 4, "stem_channels": 4,
                   **(autoencoder_arguments or {})},
        window_hu=(-1000.0, 1000.0),
    )  # fmt: skip
    arguments = {
        "channels": [8, 16], "num_res_blocks": 1, "attention_levels": [False, True], "num_head_channels": 8,
        "norm_num_groups": 4, "choices": [2, 2], "numbers": 2, "context_dim": 8,
    }  # fmt: skip
    diffusion = autoencoder.model_copy(
        update={"architecture": "diffusion_unet", "arguments": arguments, "weights": "diffusion.safetensors"}
    )
    networks = {"autoencoder": autoencoder, "diffusion": diffusion}
    if fine:
        networks["decoder"] = NetworkSpec(
            architecture="fine_decoder", weights="decoder.safetensors", spacing_mm=SPACING_MM / 2,
            patch=(2 * GRID[0], 2 * GRID[1], 2 * GRID[2]), window_hu=(-1000.0, 1000.0),
            arguments={"latent_channels": 4, "channels": [8, 8, 8, 8], "blocks": 1},
        )  # fmt: skip
    return Manifest(
        name=name, version="1.0", kind="generator", title="Tiny generator", summary="Draws noise: random weights.",
        networks=networks, generator=tiny_generator_spec(**changes),
        training=Provenance(data="Nothing", cases=0, seed=0, steps={"autoencoder": 0, "diffusion": 0},
                            code_version="0", date=_DATE),
        figures=[], licence="CC0-1.0", intended_use="Tests.",
    )  # fmt: skip


def write_tiny_generator(
    folder: Path, autoencoder: dict[str, Any] | None = None, *, fine: bool = False, **changes: Any
) -> Path:
    """Write a generator package with random weights to ``folder``, which gives its name; return ``folder``.

    ``autoencoder`` replaces arguments of the autoencoder, ``changes`` fields of the GeneratorSpec. ``fine``: with a
    fine decoder, so that pairs have twice as many voxels along each axis as :data:`GRID`. All weights are
    random, since the last layer of a new denoiser is zero and conditions would not matter.
    """
    manifest = tiny_generator_manifest(folder.name, autoencoder, fine=fine, **changes)
    weights = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for spec in manifest.networks.values():
            network = build_network(spec.architecture, spec.arguments)
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
            weights[spec.weights] = network.state_dict()
    write_package(folder, manifest, weights, _CARD)
    return folder
