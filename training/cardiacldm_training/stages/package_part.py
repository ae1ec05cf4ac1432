"""The part of a model package that one trained network contributes; each stage returns its parts to the exporter."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from CardiacLDMLib.packages.manifest import NetworkSpec

from . import run_folder


@dataclass(frozen=True)
class PackagePart:
    """One network of a package: how it is built, its weights, and where they come from.

    ``generator``: the entries that this network contributes to the manifest's record of the generator.
    """

    spec: NetworkSpec
    weights: run_folder.Weights
    steps: int
    date: datetime.date
    generator: Mapping[str, Any] = field(default_factory=dict)


def network_part(
    run: Path, network: str, weights: run_folder.Weights, *, generator: Mapping[str, Any] | None = None, **spec: Any
) -> PackagePart:
    """Return the part of a network whose final checkpoint is in ``run``; ``spec``: fields of its NetworkSpec.

    Raises TrainingError, and ValidationError for arguments that a package may not have.
    """
    checkpoint = run_folder.final_checkpoint(run, network)
    trained = checkpoint.stat().st_mtime
    return PackagePart(
        spec=NetworkSpec(weights=f"{network}.safetensors", **spec), weights=weights,
        steps=run_folder.load_state(checkpoint).step,
        date=datetime.datetime.fromtimestamp(trained, datetime.UTC).date(), generator=generator or {},
    )  # fmt: skip
