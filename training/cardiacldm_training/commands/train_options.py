"""Options and first steps that the commands under ``cardiacldm train`` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.text import plural

from .common import let_threads_sleep, say

if TYPE_CHECKING:
    from CardiacLDMLib.packages.store import ModelPackage

DataOption = Annotated[list[Path], typer.Option(help="Folder of cases; may be given several times.")]
RunOption = Annotated[Path, typer.Option(help="Folder of the run.")]
PresetOption = Annotated[str, typer.Option(help="demo (2 CPU cores), gpu, or paper.")]
StepsOption = Annotated[
    int | None, typer.Option(min=1, help="Steps; the preset's if not given, or those of the run to resume.")
]
NetworkOption = Annotated[
    str | None, typer.Option(help="unet, dynunet, segresnet or swinunetr, in the preset's size; its own if not given.")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1)]
LearningRateOption = Annotated[
    float | None, typer.Option(min=1e-7, max=1.0, help="Highest learning rate; the preset's if not given.")
]
PrecisionOption = Annotated[str | None, typer.Option(help="32-true, bf16-mixed or 16-mixed.")]
DevicesOption = Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) per machine.")]
NodesOption = Annotated[int, typer.Option(min=1, help="Machines.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Processes that prepare cases and make examples, for each device; if not given, as cores allow."
    ),
]
CacheOption = Annotated[Path | None, typer.Option(help="Where prepared cases go; DATA/.prepared if not given.")]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Continue the run from its last checkpoint, also a finished one with more --steps."),
]


def start_training(device: str, devices: int, workers: int | None) -> int:
    """Check the devices, before cases are prepared at length; return the number of worker processes."""
    let_threads_sleep()
    from ..cases.workers import usual_workers
    from ..stages.devices import select

    select(device, devices)
    return usual_workers(devices) if workers is None else workers


def steps_to_resume(run: Path, network: str, resume: bool) -> int | None:
    """Return the steps that a run to resume keeps unless others are asked for; None for a new run."""
    from ..stages.run_folder import CONFIG_FILE, read_config

    if not resume or not (run / CONFIG_FILE).exists():
        return None
    training = getattr(read_config(run).model, network, None)
    return training.steps if training else None


def report_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    """Name the first cases that could not be used."""
    if skipped:
        say(f"Skipped {plural(len(skipped), 'case')}: {', '.join(name for name, _ in skipped[:5])}.")


def origin(package: ModelPackage | None) -> str | None:
    """Return how a run's configuration records the package whose weights it starts from."""
    return f"{package.manifest.name} {package.sha256}" if package else None
