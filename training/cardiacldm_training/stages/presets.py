"""The presets of segmenters: demo (two CPU cores), gpu (one GPU of 24 GB, a day), paper (Hu et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, TypeVar, get_args

from ..cases.settings import AugmentConfig, SamplingConfig
from ..errors import ConfigError
from .config import (
    DataFacts,
    Model,
    NetworkConfig,
    Precision,
    PretrainConfig,
    PretrainingModel,
    RunConfig,
    SegmenterModel,
    TrainingConfig,
)
from .masking import BlockMask, BoxMask

PRESETS = ("demo", "gpu", "paper")

AnyTraining = TypeVar("AnyTraining", bound=TrainingConfig)


def parse_precision(text: str | None) -> Precision | None:
    """Return ``text`` as a precision; None means the preset's own. Raises :class:`ConfigError`."""
    for precision in get_args(Precision):
        if text == precision:
            return precision
    if text is None:
        return None
    raise ConfigError(f"There is no precision {text!r}: choose {' or '.join(get_args(Precision))}.")


def run_config_of(preset: str, data: DataFacts, model: Model, precision: Precision | None, **fields: Any) -> RunConfig:
    """Return a configuration with the fields that every run has."""
    usual: Precision = "32-true" if preset == "demo" else "bf16-mixed"
    return RunConfig(preset=preset, data=data, model=model, precision=precision or usual, **fields)


def check_preset(preset: str) -> None:
    """Raise :class:`ConfigError` for an unknown preset."""
    if preset not in PRESETS:
        raise ConfigError(f"There is no preset {preset!r}: choose {', '.join(PRESETS)}.")


def scale_steps(training: AnyTraining, ratio: float) -> AnyTraining:
    """Return the training with steps and validation interval times ``ratio``; the warm-up shrinks to fit."""
    if ratio == 1.0:
        return training

    def scale(value: int) -> int:
        return max(round(value * ratio), 1)

    return training.model_copy(update={
        "steps": scale(training.steps), "validate_every": scale(training.validate_every),
        "warmup_steps": min(training.warmup_steps, scale(training.steps) // 10),
    })  # fmt: skip


# --- segmenter -----------------------------------------------------------------------------------------------------

_LOCATOR_SAMPLING = SamplingConfig(anywhere=0.3, jitter=0.3)
_LOCATOR_AUGMENT = AugmentConfig(warp_mm=6.0, warp_spacing_mm=80.0, view=0.35, view_smallest=0.25)
_DYNUNET: dict[str, Any] = {
    "filters": (32, 64, 128, 256, 320, 320), "strides": (1, 2, 2, 2, 2, 2), "res_block": True,
}  # fmt: skip
_UNET: dict[str, Any] = {"channels": (32, 64, 128, 256), "strides": (2, 2, 2), "norm": "instance"}


def _locator(steps: int, batch: int) -> NetworkConfig:
    return NetworkConfig(
        architecture="unet", arguments={**_UNET, "num_res_units": 1, "light_top": True}, spacing_mm=6.0,
        patch=(48, 48, 48), batch=batch, steps=steps, validate_every=max(steps // 20, 1), patience=20,
        validation_cases=16, sampling=_LOCATOR_SAMPLING, augment=_LOCATOR_AUGMENT,
    )  # fmt: skip


def _demo_segmenter(train_cases: int, batch: int | None) -> SegmenterModel:
    """Two CPU cores, an hour or two: one or two patches cover the heart, and no layer works at full resolution."""
    segmenter = NetworkConfig(
        architecture="unet", arguments={**_UNET, "num_res_units": 1, "light_top": True}, spacing_mm=2.5,
        patch=(64, 64, 64), batch=batch or 2, steps=6000, validate_every=300, patience=20, validation_cases=12,
    )  # fmt: skip
    return SegmenterModel(locator=_locator(3000, batch or 2), segmenter=segmenter)


def _gpu_segmenter(train_cases: int, batch: int | None) -> SegmenterModel:
    segmenter = NetworkConfig(
        architecture="dynunet", arguments=_DYNUNET, spacing_mm=1.5, patch=(128, 128, 128), batch=batch or 2,
        steps=60_000, validate_every=1000, patience=20, validation_cases=40, warmup_steps=1000, ema_decay=0.999,
        learning_rate=5e-4,
    )  # fmt: skip
    return SegmenterModel(locator=_locator(10_000, batch or 8), segmenter=segmenter)


def _paper_segmenter(train_cases: int, batch: int | None) -> SegmenterModel:
    """Fine-tuning in Hu et al. 2024: AdamW, 1e-3, at most 300 epochs, patience 10 epochs, 10 % for validation.

    The paper states neither batch nor patch nor augmentation of this stage: those are ours.
    """
    epoch = ceil(train_cases / (batch or 2))
    segmenter = NetworkConfig(
        architecture="unet", arguments={**_UNET, "channels": (32, 64, 128, 256, 320), "strides": (2, 2, 2, 2),
                                        "num_res_units": 2},
        spacing_mm=1.5, patch=(128, 128, 128), batch=batch or 2, steps=300 * epoch, validate_every=epoch, patience=10,
        learning_rate=1e-3,
    )  # fmt: skip
    return SegmenterModel(locator=_locator(10_000, batch or 8), segmenter=segmenter)


_SEGMENTERS: dict[str, Callable[[int, int | None], SegmenterModel]] = {
    "demo": _demo_segmenter, "gpu": _gpu_segmenter, "paper": _paper_segmenter,
}  # fmt: skip


def _segmenter(preset: str, train_cases: int, batch: int | None) -> SegmenterModel:
    check_preset(preset)
    return _SEGMENTERS[preset](train_cases, batch)


def spacings(preset: str) -> dict[str, float]:
    """Return the working spacing in mm of each network of a segmenter. Raises :class:`ConfigError`."""
    model = _segmenter(preset, 1, None)
    return {"locator": model.locator.spacing_mm, "segmenter": model.segmenter.spacing_mm}


def segmenter_config(
    preset: str, data: DataFacts, *, seed: int = 0, steps: int | None = None, batch: int | None = None,
    precision: Precision | None = None, devices: int = 1, nodes: int = 1, start: str | None = None,
    learning_rate: float | None = None, augmentation: float = 1.0, architecture: str | None = None,
    encoder: str | None = None, encoder_rate: float = 1.0, frozen_steps: int = 0,
) -> RunConfig:  # fmt: skip
    """Return the configuration of a segmenter's run.

    ``steps`` sets the steps of the segmenter; the locator's, the validations and the warm-up change in proportion.
    ``architecture`` replaces that of the segmenter. ``encoder`` names a pre-training, for whose encoder
    ``encoder_rate`` and ``frozen_steps`` hold.
    ``augmentation`` (0 to 1) multiplies the probability of every augmentation.
    Raises :class:`ConfigError` for an unknown preset.
    """
    model = _segmenter(preset, max(round(data.cases * 0.9), 1), batch)
    ratio = 1.0 if steps is None else steps / model.segmenter.steps

    def change(network: NetworkConfig) -> NetworkConfig:
        network = network if steps is None else scale_steps(network, ratio)
        if learning_rate is not None:
            network = network.model_copy(update={"learning_rate": learning_rate})
        return network.model_copy(update={"augment": network.augment.with_probability(augmentation)})

    segmenter = with_architecture(change(model.segmenter), preset, architecture)
    segmenter = segmenter.model_copy(update={"encoder_rate": encoder_rate, "frozen_steps": frozen_steps})
    return run_config_of(
        preset, data, SegmenterModel(locator=change(model.locator), segmenter=segmenter), precision, seed=seed,
        devices=devices, nodes=nodes, start=start, encoder=encoder,
    )  # fmt: skip


# --- pre-training --------------------------------------------------------------------------------------------------

#: Sizes of the networks beside each preset's own, by preset and architecture.
_OTHER_NETWORKS: dict[str, dict[str, dict[str, Any]]] = {
    "demo": {
        "dynunet": {"filters": (8, 16, 32, 64, 128), "strides": (1, 2, 2, 2, 2)},
        "segresnet": {"init_filters": 8, "blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1)},
        "swinunetr": {"feature_size": 12},
    },
    "gpu": {
        "unet": {"channels": (32, 64, 128, 256, 320), "strides": (2, 2, 2, 2), "num_res_units": 2},
        "segresnet": {"init_filters": 32, "blocks_down": (1, 2, 2, 4, 4), "blocks_up": (1, 1, 1, 1)},
        "swinunetr": {"feature_size": 48, "checkpointed": True},
    },
}
_OTHER_NETWORKS["paper"] = {**_OTHER_NETWORKS["gpu"], "dynunet": _DYNUNET}


def with_architecture(network: NetworkConfig, preset: str, architecture: str | None) -> NetworkConfig:
    """Return the settings with another architecture of the preset's size; None: its own.

    Raises :class:`ConfigError` for an architecture that does not segment.
    """
    if architecture is None or architecture == network.architecture:
        return network
    others = _OTHER_NETWORKS[preset]
    if architecture not in others:
        names = ", ".join(sorted({network.architecture, *others}))
        raise ConfigError(f"There is no network {architecture!r}: choose {names}.")
    return network.model_copy(update={"architecture": architecture, "arguments": others[architecture]})


def pretraining_config(
    preset: str, data: DataFacts, mask: BoxMask | BlockMask, *, architecture: str | None = None, seed: int = 0,
    steps: int | None = None, batch: int | None = None, precision: Precision | None = None, devices: int = 1,
    nodes: int = 1, learning_rate: float | None = None,
) -> RunConfig:  # fmt: skip
    """Return the configuration of a pre-training, for the segmenter of ``preset``: its grid, patch and window.

    Hu et al. 2024: AdamW, 1e-3, 10 % for validation, patience of 50 epochs. Raises :class:`ConfigError`.
    """
    segmenter = with_architecture(_segmenter(preset, max(round(data.cases * 0.9), 1), batch).segmenter, preset,
                                  architecture)  # fmt: skip
    epoch = max(ceil(data.cases * 0.9 / segmenter.batch), 1)
    network = PretrainConfig(
        architecture=segmenter.architecture, arguments=segmenter.arguments, spacing_mm=segmenter.spacing_mm,
        patch=segmenter.patch, window_hu=segmenter.window_hu, mask=mask, augment=segmenter.augment,
        sampling=SamplingConfig(anywhere=0.5), batch=segmenter.batch, steps=300 * epoch, validate_every=epoch,
        patience=50, validation_cases=segmenter.validation_cases, learning_rate=1e-3,
        warmup_steps=segmenter.warmup_steps, ema_decay=segmenter.ema_decay,
    )  # fmt: skip
    if preset == "demo":  # 300 epochs of pairs would take two cores days
        network = network.model_copy(update={"steps": 3000, "validate_every": 150})
    if steps is not None:
        network = scale_steps(network, steps / network.steps)
    if learning_rate is not None:
        network = network.model_copy(update={"learning_rate": learning_rate})
    return run_config_of(
        preset, data, PretrainingModel(network=network), precision, seed=seed, devices=devices, nodes=nodes
    )
