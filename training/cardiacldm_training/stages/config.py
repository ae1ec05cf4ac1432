"""Typed configuration of a training run and its presets.

A :class:`RunConfig` holds every number that shapes the weights and nothing else: what only changes speed (worker
processes, cache folder) stays out, so that a run may be resumed elsewhere. It is stored as ``RUN/config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError

from CardiacLDMLib.files import write_text

from ..cases.settings import AugmentConfig, Frozen, Positive, Probability, SamplingConfig
from ..errors import ConfigError

CONFIG_FILE = "config.json"
#: The two networks of a segmenter package, in the order in which they are trained.
NETWORKS = ("locator", "segmenter")
PRESETS = ("demo", "gpu", "paper")

Precision = Literal["32-true", "bf16-mixed"]


class TrainingConfig(Frozen):
    """How any one network is trained."""

    batch: Annotated[int, Field(ge=1)] = 2
    steps: Annotated[int, Field(ge=1)]
    validate_every: Annotated[int, Field(ge=1)]  # steps
    patience: Annotated[int, Field(ge=1)]  # validations without a better score before the run stops
    validation_cases: Annotated[int, Field(ge=1)] = 1000  # at most that many of the held-out cases
    save_every: Annotated[int, Field(ge=1)] = 200  # steps
    learning_rate: Positive = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    ema_decay: Probability = 0.998
    clip_norm: Positive = 5.0


class NetworkConfig(TrainingConfig):
    """A network that labels: its shape, its patches and its training. Patches in voxels (R, A, S) of ``spacing_mm``."""

    architecture: str
    arguments: dict[str, Any]
    spacing_mm: Positive
    patch: tuple[int, int, int]
    window_hu: tuple[float, float] = (-300.0, 700.0)
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()


class RunConfig(Frozen):
    """A whole run: both networks, the data's fingerprint and what else the weights depend on."""

    preset: str
    seed: int = 0
    precision: Precision = "32-true"
    devices: Annotated[int, Field(ge=1)] = 1
    nodes: Annotated[int, Field(ge=1)] = 1
    validation_part: Probability = 0.1
    cases: int
    cases_digest: str  # over the content of every prepared case: other data make another run
    start: str | None = None  # the package whose weights it starts from, with its hash; None: random weights
    locator: NetworkConfig
    segmenter: NetworkConfig

    def network(self, name: str) -> NetworkConfig:
        return {"locator": self.locator, "segmenter": self.segmenter}[name]


def parse_precision(text: str | None) -> Precision | None:
    """``text`` as a known precision, None for the preset's own. Raises :class:`ConfigError`."""
    for known in get_args(Precision):
        if text == known:
            return known
    if text is None:
        return None
    raise ConfigError(f"There is no precision {text!r}: choose {' or '.join(get_args(Precision))}.")


AnyConfig = TypeVar("AnyConfig", bound=Frozen)
AnyTraining = TypeVar("AnyTraining", bound=TrainingConfig)


def write_config(config: Frozen, run: Path) -> None:
    """Store the configuration of a run in its folder, whole or not at all."""
    write_text(run / CONFIG_FILE, config.model_dump_json(indent=2) + "\n")


def read_config(run: Path) -> RunConfig:
    """The configuration stored in a segmenter's run. Raises :class:`ConfigError`."""
    return read_as(RunConfig, run)


def read_as(kind: type[AnyConfig], run: Path) -> AnyConfig:
    """The configuration of that kind stored in a run. Raises :class:`ConfigError`."""
    try:
        return kind.model_validate_json((run / CONFIG_FILE).read_text())
    except OSError as error:
        raise ConfigError(f"{run} is not a training run: it has no readable {CONFIG_FILE}.") from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(f"{run / CONFIG_FILE} was written by another version: see its field {where!r}.") from error


def check_same(stored: AnyConfig, wanted: AnyConfig) -> None:
    """Raises :class:`ConfigError` naming the first field in which a run to resume differs from what was asked for."""
    difference = _first_difference(json.loads(stored.model_dump_json()), json.loads(wanted.model_dump_json()))
    if difference:
        field, old, new = difference
        raise ConfigError(f"The run cannot be resumed: its {field} is {old!r}, not {new!r}.")


def _first_difference(old: Any, new: Any, field: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            found = _first_difference(old.get(key), new.get(key), f"{field}.{key}" if field else key)
            if found:
                return found
        return None
    return None if old == new else (field, old, new)


# --- presets -------------------------------------------------------------------------------------------------------

_LOCATOR_SAMPLING = SamplingConfig(anywhere=0.3, jitter=0.3)
_LOCATOR_AUGMENT = AugmentConfig(warp_mm=6.0, warp_spacing_mm=80.0, view=0.35, view_smallest=0.25)
_UNET: dict[str, Any] = {"channels": (32, 64, 128, 256), "strides": (2, 2, 2), "norm": "instance"}


def _locator(steps: int, batch: int) -> NetworkConfig:
    return NetworkConfig(
        architecture="unet", arguments={**_UNET, "num_res_units": 1, "light_top": True}, spacing_mm=6.0,
        patch=(48, 48, 48), batch=batch, steps=steps, validate_every=max(steps // 20, 1), patience=20,
        validation_cases=16, sampling=_LOCATOR_SAMPLING, augment=_LOCATOR_AUGMENT,
    )  # fmt: skip


def _demo(train_cases: int, batch: int | None) -> dict[str, NetworkConfig]:
    """Two CPU cores, an hour or two: the whole heart fits in a patch or two, and full resolution stays out."""
    segmenter = NetworkConfig(
        architecture="unet", arguments={**_UNET, "num_res_units": 1, "light_top": True}, spacing_mm=2.5,
        patch=(64, 64, 64), batch=batch or 2, steps=6000, validate_every=300, patience=20, validation_cases=12,
    )  # fmt: skip
    return {"locator": _locator(3000, batch or 2), "segmenter": segmenter}


def _gpu(train_cases: int, batch: int | None) -> dict[str, NetworkConfig]:
    """One GPU with 24 GB or more, a day."""
    arguments = {"filters": (32, 64, 128, 256, 320, 320), "strides": (1, 2, 2, 2, 2, 2), "res_block": True}
    segmenter = NetworkConfig(
        architecture="dynunet", arguments=arguments, spacing_mm=1.5, patch=(128, 128, 128), batch=batch or 2,
        steps=60_000, validate_every=1000, patience=20, validation_cases=40, warmup_steps=1000, ema_decay=0.999,
        learning_rate=5e-4,
    )  # fmt: skip
    return {"locator": _locator(10_000, batch or 8), "segmenter": segmenter}


def _paper(train_cases: int, batch: int | None) -> dict[str, NetworkConfig]:
    """Fine-tuning as in Hu et al. 2024: AdamW, 1e-3, at most 300 epochs, patience 10 epochs, 10 % for validation.

    The paper states neither batch nor patch nor augmentation of this stage: those are ours.
    """
    epoch = ceil(train_cases / (batch or 2))
    segmenter = NetworkConfig(
        architecture="unet", arguments={**_UNET, "channels": (32, 64, 128, 256, 320), "strides": (2, 2, 2, 2),
                                        "num_res_units": 2},
        spacing_mm=1.5, patch=(128, 128, 128), batch=batch or 2, steps=300 * epoch, validate_every=epoch, patience=10,
        learning_rate=1e-3,
    )  # fmt: skip
    return {"locator": _locator(10_000, batch or 8), "segmenter": segmenter}


_BUILDERS: dict[str, Callable[[int, int | None], dict[str, NetworkConfig]]] = {
    "demo": _demo, "gpu": _gpu, "paper": _paper,
}  # fmt: skip


def spacings(preset: str) -> dict[str, float]:
    """The working spacing in mm of each network of a preset: what the prepared cases depend on."""
    return {name: network.spacing_mm for name, network in _networks(preset, 1, None).items()}


def preset_config(
    preset: str, *, cases: int, cases_digest: str, seed: int = 0, steps: int | None = None, batch: int | None = None,
    precision: Precision | None = None, devices: int = 1, nodes: int = 1, start: str | None = None,
    learning_rate: float | None = None, augmentation: float = 1.0,
) -> RunConfig:  # fmt: skip
    """The configuration of ``preset`` for ``cases`` cases.

    ``steps`` sets the steps of the segmenter; the locator's, the validations and the warm-up shrink or grow with it.
    ``augmentation`` (0 to 1) multiplies the chance of every variation of a patch.
    Raises :class:`ConfigError` for an unknown preset.
    """
    networks = _networks(preset, max(round(cases * 0.9), 1), batch)
    if steps is not None:
        ratio = steps / networks["segmenter"].steps
        networks = {name: scaled(network, ratio) for name, network in networks.items()}
    if learning_rate is not None:
        networks = {n: network.model_copy(update={"learning_rate": learning_rate}) for n, network in networks.items()}
    networks = {
        n: network.model_copy(update={"augment": network.augment.gentler(augmentation)})
        for n, network in networks.items()
    }
    return RunConfig(
        preset=preset, seed=seed, devices=devices, nodes=nodes, cases=cases, cases_digest=cases_digest, start=start,
        precision=precision or ("32-true" if preset == "demo" else "bf16-mixed"), **networks,
    )  # fmt: skip


def _networks(preset: str, train_cases: int, batch: int | None) -> dict[str, NetworkConfig]:
    if preset not in _BUILDERS:
        raise ConfigError(f"There is no preset {preset!r}: choose {', '.join(PRESETS)}.")
    return _BUILDERS[preset](train_cases, batch)


def scaled(network: AnyTraining, ratio: float) -> AnyTraining:
    """The same training with ``ratio`` times the steps; validations and warm-up go along."""

    def scale(value: int) -> int:
        return max(round(value * ratio), 1)

    return network.model_copy(update={
        "steps": scale(network.steps), "validate_every": scale(network.validate_every),
        "warmup_steps": min(network.warmup_steps, scale(network.steps) // 10),
    })  # fmt: skip
