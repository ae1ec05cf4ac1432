"""The folder of a training run: its configuration, and for each network a folder with checkpoints.

``config.json``, and for each network ``NETWORK/best.ckpt`` (the best validation), ``NETWORK/last.ckpt`` (to resume) and
``NETWORK/tensorboard``. ``NETWORK/start.ckpt`` holds the weights of the package that a run started from, for a network
that it does not train itself. Calibration results lie beside the checkpoints they belong to (see :mod:`calibration`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.files import replace_file, write_text
from CardiacLDMLib.plain_paths import is_unicode

from ..errors import ConfigError, TrainingError
from .config import FORMAT, NETWORKS, SEGMENTER_NETWORKS, RunConfig, check_resumable
from .state import State

CONFIG_FILE = "config.json"
LAST, BEST, START = "last.ckpt", "best.ckpt", "start.ckpt"
#: What every checkpoint holds.
_PARTS = ("network", "average", "optimizer", "state")

Weights = dict[str, torch.Tensor]


# --- the configuration ---------------------------------------------------------------------------------------------


def write_config(config: RunConfig, run: Path) -> None:
    """Write the configuration of a run; a process killed meanwhile leaves the old one."""
    write_text(run / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")


def read_config(run: Path) -> RunConfig:
    """Return the configuration of a run. Raises :class:`ConfigError`, also for a run of another format."""
    path = run / CONFIG_FILE
    try:
        content: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run} is not a training run: it has no readable {CONFIG_FILE}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{run} was trained with another version of CardiacLDM: train it again in another folder.")
    try:
        return RunConfig.model_validate_json(json.dumps(content))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(f"{path} cannot be used: its field {where!r} is missing or wrong.") from error


def check_run(run: Path, config: RunConfig, networks: Sequence[str], *, resume: bool) -> None:
    """Refuse to replace a network in training, and to resume a run with another configuration or fewer steps.

    A folder whose name is no valid Unicode is refused too. Raises TrainingError, ConfigError.
    """
    if not is_unicode(str(run)):  # TensorBoard cannot write there
        raise TrainingError(f"{run} has a name that is no valid Unicode: choose another folder.")
    if not (run / CONFIG_FILE).exists():
        return
    existing = [name for name in networks if has_begun(run, name)]
    if existing and not resume:
        raise TrainingError(f"{run} already holds the {existing[0]} of a run: add --resume, or choose another folder.")
    check_resumable(read_config(run), config, begun=any(has_begun(run, name) for name in NETWORKS))


def is_fixed(run: Path, network: str) -> bool:
    """Return whether the settings of a network can no longer change: it, or the other of a segmenter, has begun."""
    names = SEGMENTER_NETWORKS if network in SEGMENTER_NETWORKS else (network,)
    return any(has_begun(run, name) for name in names)


def has_begun(run: Path, network: str) -> bool:
    """Return whether the training of a network has written its first checkpoint."""
    return (run / network / LAST).exists()


# --- checkpoints ---------------------------------------------------------------------------------------------------


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Replace a checkpoint as a whole. Raises ``OutputError``."""
    with replace_file(path) as part:
        try:
            torch.save(content, part)
        except RuntimeError as error:  # torch does not say why the system took no more
            raise OutputError(f"{path.name} could not be written: is the disk full?") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint's tensors and numbers to the CPU without running code of the file. Raises TrainingError."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"There is no checkpoint {path}.") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise _damaged(path) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in _PARTS):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> TrainingError:
    return TrainingError(f"The checkpoint {path} is damaged: delete it to train this network again.")


def load_state(path: Path) -> State:
    """Return where a checkpoint's training was. Raises :class:`TrainingError`."""
    return to_state(load_checkpoint(path), path)


def to_state(checkpoint: dict[str, Any], path: Path) -> State:
    """Return the state in the content of the checkpoint ``path``. Raises :class:`TrainingError`."""
    try:
        state = State(**checkpoint["state"])
        return TypeAdapter(State).validate_python(asdict(state))
    except (TypeError, ValidationError) as error:
        raise TrainingError(f"{path} is of another version of CardiacLDM: train again in another folder.") from error


def averaged_weights(path: Path) -> Weights:
    """Return the averaged weights (EMA) of a checkpoint, which validation scored. Raises :class:`TrainingError`."""
    average = load_checkpoint(path)["average"]
    return {name.removeprefix("module."): value for name, value in average.items() if name.startswith("module.")}


def keep_start(weights: Weights, run: Path, network: str) -> None:
    """Store a network that the run takes from a package and does not train. Raises ``OutputError``."""
    average = {f"module.{name}": value for name, value in weights.items()}
    save_checkpoint(
        {"network": {}, "average": average, "optimizer": {}, "state": asdict(State())}, run / network / START
    )


def final_checkpoint(run: Path, network: str) -> Path:
    """Return the checkpoint of a network that a package takes: its best one, or the start if it was not trained."""
    best, start = run / network / BEST, run / network / START
    return start if start.exists() and not best.exists() else best


def weights_digest(weights: Weights) -> str:
    """Return the SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
