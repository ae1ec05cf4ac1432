"""The presets of training: demo (two CPU cores), gpu (one GPU with 24 GB or more, a day), paper (Hu et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, TypeVar, get_args

from CardiacLDMLib.packages.generator_spec import SOLVERS, Restart, Sampling, Schedule
from CardiacLDMLib.postprocess.deblock import Deblock
from CardiacLDMLib.postprocess.smooth_latents import SmoothLatents

from ..cases.settings import PAPER_AUGMENT, AugmentConfig, SamplingConfig
from ..errors import ConfigError
from .config import (
    AutoencoderConfig,
    DataFacts,
    DiffusionConfig,
    GeneratorModel,
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


def _run_config(preset: str, data: DataFacts, model: Model, precision: Precision | None, **fields: Any) -> RunConfig:
    """Return a configuration with the fields that every run has."""
    usual: Precision = "32-true" if preset == "demo" else "bf16-mixed"
    return RunConfig(preset=preset, data=data, model=model, precision=precision or usual, **fields)


def _check_preset(preset: str) -> None:
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
    _check_preset(preset)
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
    return _run_config(
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
    return _run_config(
        preset, data, PretrainingModel(network=network), precision, seed=seed, devices=devices, nodes=nodes
    )


# --- generator -----------------------------------------------------------------------------------------------------

_GRIDS: dict[str, tuple[tuple[int, int, int], float]] = {
    "demo": ((64, 64, 48), 3.0), "gpu": ((128, 128, 96), 1.5), "paper": ((256, 256, 160), 1.0),
}  # fmt: skip


def grid_of(preset: str) -> tuple[tuple[int, int, int], float]:
    """Return the grid of a generator in voxels (R, A, S), and its spacing in mm. Raises :class:`ConfigError`."""
    _check_preset(preset)
    return _GRIDS[preset]


_TWO_LEVELS = {"channels": (32, 64), "norm_num_groups": 8, "stem_channels": 16}


def _demo_autoencoder(batch: int | None) -> AutoencoderConfig:
    """Two CPU cores, a night."""
    # Two levels, because convolutions over the whole grid cost most on a CPU. A batch of one would be slower than two:
    # torch then takes another algorithm for small convolutions.
    return AutoencoderConfig(
        arguments={**_TWO_LEVELS, "latent_channels": 48}, colour_weight=1.5,
        batch=batch or 2, steps=1000, validate_every=100, patience=20, validation_cases=16, learning_rate=2e-3,
        warmup_steps=50, ema_decay=0.99, label_weight=1.0, kl_weight=1e-4,
    )  # fmt: skip


def _gpu_autoencoder(batch: int | None) -> AutoencoderConfig:
    """Voxels of half the size need fewer latent channels."""
    return AutoencoderConfig(
        arguments={**_TWO_LEVELS, "latent_channels": 12},
        batch=batch or 2, steps=10_000, validate_every=2000, patience=20, validation_cases=40, learning_rate=2e-3,
        warmup_steps=500, ema_decay=0.99, label_weight=1.0, kl_weight=1e-4,
    )  # fmt: skip


def _paper_autoencoder(batch: int | None) -> AutoencoderConfig:
    """As far as Hu et al. 2024 state it: stems of three channels, summed, palette in and out, their augmentation.

    Widths, loss, batch and steps are ours.
    """
    arguments = {
        "channels": (32, 64, 128), "num_res_blocks": 2, "norm_num_groups": 16, "stem_channels": 3,
        "labels_out": "palette", "checkpointed": True,
    }  # fmt: skip
    return AutoencoderConfig(
        arguments=arguments, batch=batch or 1, steps=60_000, validate_every=1000, patience=20, validation_cases=40,
        learning_rate=3e-4, warmup_steps=1000, ema_decay=0.999, augment=PAPER_AUGMENT,
    )  # fmt: skip


_AUTOENCODERS: dict[str, Callable[[int | None], AutoencoderConfig]] = {
    "demo": _demo_autoencoder, "gpu": _gpu_autoencoder, "paper": _paper_autoencoder,
}  # fmt: skip


def _denoiser(preset: str, batch: int | None) -> DiffusionConfig:
    """The conditions are ours in every preset; the paper states neither widths nor schedule nor steps."""
    if preset == "demo":  # two CPU cores, a night
        return DiffusionConfig(
            arguments={"channels": (32, 64, 64), "attention_levels": (False, False, True), "num_head_channels": 32,
                       "norm_num_groups": 16, "context_dim": 64, "prior_modes": 32},
            batch=batch or 4, steps=8000, validate_every=400, patience=20, validation_cases=24, learning_rate=2e-3,
            warmup_steps=200, ema_decay=0.998, training_shift=2.0,
            # Restarts from stronger noise sample nearer to single training cases.
            sampling=_sampling("rectified_flow", time_shift=60.0, guidance=1.0, restarts=(0.7, 0.6, 0.5, 0.4)),
            postprocess=(SmoothLatents(widths=(2.4, 1.4)), Deblock(width_hu=60.0)),
        )  # fmt: skip
    arguments = {
        "channels": (64, 128, 256, 256) if preset == "gpu" else (128, 256, 384, 512), "num_res_blocks": 2,
        "attention_levels": (False, False, True, True), "num_head_channels": 64, "norm_num_groups": 32,
        "context_dim": 256,
    }  # fmt: skip
    common: dict[str, Any] = {
        "arguments": arguments, "steps": 100_000, "validate_every": 2000, "patience": 25, "validation_cases": 40,
        "learning_rate": 2e-4, "warmup_steps": 2000, "ema_decay": 0.9995, "save_every": 500,
    }  # fmt: skip
    if preset == "gpu":
        return DiffusionConfig(batch=batch or 16, variants=8, **common)
    return DiffusionConfig(batch=batch or 4, variants=16, augment=PAPER_AUGMENT, sampling=_sampling("ddpm"), **common)


def _sampling(schedule: Schedule, restarts: Sequence[float] = (), **fields: float) -> Sampling:
    """Return the usual sampling of a schedule, without gains: they are measured after training."""
    values = {"solver": SOLVERS[schedule][0], "restarts": tuple(Restart(time=time) for time in restarts)}
    return Sampling.model_validate({"schedule": schedule, **values, **fields})


def _with_schedule(settings: DiffusionConfig, schedule: Schedule) -> DiffusionConfig:
    """Return the settings with another schedule.

    Time shifts, restarts, post-processing and prior of the presets are tuned for rectified flow, so they go.
    """
    if schedule == settings.sampling.schedule:
        return settings
    sampling = _sampling(schedule, guidance=settings.sampling.guidance)
    arguments = {**settings.arguments, "prior_modes": None}
    return settings.model_copy(
        update={"sampling": sampling, "postprocess": (), "training_shift": 1.0, "arguments": arguments}
    )


def diffusion_config(
    preset: str, *, steps: int | None = None, batch: int | None = None, schedule: str | None = None, devices: int = 1,
    nodes: int = 1,
) -> DiffusionConfig:  # fmt: skip
    """Return the diffusion settings of ``preset``; the interval of validations changes in proportion to ``steps``.

    Raises :class:`ConfigError` for an unknown preset or schedule.
    """
    _check_preset(preset)
    settings = _denoiser(preset, batch)
    if steps is not None:
        settings = scale_steps(settings, steps / settings.steps)
    if schedule is not None:
        settings = _with_schedule(settings, _parse_schedule(schedule))
    return settings.model_copy(update={"devices": devices, "nodes": nodes})


def _parse_schedule(text: str) -> Schedule:
    for schedule in SOLVERS:
        if text == schedule:
            return schedule
    raise ConfigError(f"There is no schedule {text!r}: choose {' or '.join(SOLVERS)}.")


def generator_config(
    preset: str, data: DataFacts, *, seed: int = 0, steps: int | None = None, batch: int | None = None,
    precision: Precision | None = None, devices: int = 1, nodes: int = 1, start: str | None = None,
    learning_rate: float | None = None,
) -> RunConfig:  # fmt: skip
    """Return the configuration of a generator's run whose diffusion has not begun.

    ``steps`` sets the steps of the autoencoder; validations and warm-up change in proportion.
    Raises :class:`ConfigError` for an unknown preset.
    """
    grid, spacing_mm = grid_of(preset)
    autoencoder = _AUTOENCODERS[preset](batch)
    if steps is not None:
        autoencoder = scale_steps(autoencoder, steps / autoencoder.steps)
    if learning_rate is not None:
        autoencoder = autoencoder.model_copy(update={"learning_rate": learning_rate})
    return _run_config(
        preset, data, GeneratorModel(grid=grid, spacing_mm=spacing_mm, autoencoder=autoencoder), precision, seed=seed,
        devices=devices, nodes=nodes, start=start,
    )  # fmt: skip
