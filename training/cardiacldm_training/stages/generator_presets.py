"""The presets of a generator's training: autoencoder, diffusion and fine decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from CardiacLDMLib.packages.generator_spec import SOLVERS, Restart, Sampling, Schedule
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.postprocess.deblock import Deblock
from CardiacLDMLib.postprocess.smooth_latents import SmoothLatents

from ..cases.settings import PAPER_AUGMENT
from ..errors import ConfigError
from .config import (
    AutoencoderConfig,
    DataFacts,
    DecoderConfig,
    DecoderModel,
    DiffusionConfig,
    GeneratorModel,
    Precision,
    RunConfig,
)
from .presets import check_preset, run_config_of, scale_steps

_GRIDS: dict[str, tuple[tuple[int, int, int], float]] = {
    "demo": ((64, 64, 48), 3.0), "gpu": ((128, 128, 96), 1.5), "paper": ((256, 256, 160), 1.0),
}  # fmt: skip


def grid_of(preset: str) -> tuple[tuple[int, int, int], float]:
    """Return the grid of a generator in voxels (R, A, S), and its spacing in mm. Raises :class:`ConfigError`."""
    check_preset(preset)
    return _GRIDS[preset]


#: How hard an autoencoder's adversary pulls at the image beside L1.
_ADVERSARY_WEIGHT = 0.8
#: In a shortened training, the adversary begins after this part of the steps at the latest.
_WARM_UP = 1 / 3
_TWO_LEVELS = {"channels": (32, 64), "norm_num_groups": 8, "stem_channels": 16}


def _demo_autoencoder(batch: int | None) -> AutoencoderConfig:
    """Two CPU cores, a part of a night."""
    # Two levels, because convolutions over the whole grid cost most on a CPU. A batch of one would be slower than two:
    # torch then takes another algorithm for small convolutions. A patch is as wide in mm as that of `gpu`; six cost as
    # much as a whole pair.
    return AutoencoderConfig(
        arguments={**_TWO_LEVELS, "latent_channels": 48}, colour_weight=1.5, patch=32, train_linear=True,
        batch=batch or 4, steps=4000, validate_every=400, patience=20, validation_cases=16, learning_rate=5e-4,
        warmup_steps=200, ema_decay=0.998, label_weight=1.0, kl_weight=1e-6,
        adversary_weight=_ADVERSARY_WEIGHT, adversary_from=1000, adversary_channels=16,
    )  # fmt: skip


def _gpu_autoencoder(batch: int | None) -> AutoencoderConfig:
    """Voxels of half the size need fewer latent channels."""
    return AutoencoderConfig(
        arguments={**_TWO_LEVELS, "latent_channels": 12}, patch=64, train_linear=True,
        batch=batch or 8, steps=30_000, validate_every=2000, patience=20, validation_cases=40, learning_rate=5e-4,
        warmup_steps=500, ema_decay=0.998, label_weight=1.0, kl_weight=1e-6,
        adversary_weight=_ADVERSARY_WEIGHT, adversary_from=5000, adversary_channels=32,
    )  # fmt: skip


def _paper_autoencoder(batch: int | None) -> AutoencoderConfig:
    """As far as Hu et al. 2024 state it: stems of three channels, summed, palette in and out, their augmentation.

    Widths, loss, patches, batch and steps are ours.
    """
    arguments = {
        "channels": (32, 64, 128), "num_res_blocks": 2, "norm_num_groups": 16, "stem_channels": 3,
        "labels_out": "palette", "linear_maps": False, "checkpointed": True,
    }  # fmt: skip
    return AutoencoderConfig(
        arguments=arguments, batch=batch or 1, steps=60_000, validate_every=1000, patience=20, validation_cases=40,
        learning_rate=3e-4, warmup_steps=1000, ema_decay=0.999, augment=PAPER_AUGMENT, patch=128, kl_weight=1e-6,
        adversary_weight=_ADVERSARY_WEIGHT, adversary_from=10_000, adversary_channels=32,
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
    nodes: int = 1, learning_rate: float | None = None, variants: int | None = None,
) -> DiffusionConfig:  # fmt: skip
    """Return the diffusion settings of ``preset``; the interval of validations changes in proportion to ``steps``.

    Raises :class:`ConfigError` for an unknown preset or schedule.
    """
    check_preset(preset)
    settings = _denoiser(preset, batch)
    if steps is not None:
        settings = scale_steps(settings, steps / settings.steps)
    if schedule is not None:
        settings = _with_schedule(settings, _parse_schedule(schedule))
    own = {"learning_rate": learning_rate, "variants": variants}
    settings = settings.model_copy(update={name: value for name, value in own.items() if value is not None})
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

    ``steps`` sets the steps of the autoencoder; validations and warm-up change in proportion, and an adversary begins
    after a third of them at the latest.
    Raises :class:`ConfigError` for an unknown preset.
    """
    grid, spacing_mm = grid_of(preset)
    autoencoder = _AUTOENCODERS[preset](batch)
    if steps is not None:
        begin = min(autoencoder.adversary_from, round(steps * _WARM_UP))
        autoencoder = scale_steps(autoencoder, steps / autoencoder.steps).model_copy(update={"adversary_from": begin})
    if learning_rate is not None:
        autoencoder = autoencoder.model_copy(update={"learning_rate": learning_rate})
    return run_config_of(
        preset, data, GeneratorModel(grid=grid, spacing_mm=spacing_mm, autoencoder=autoencoder), precision, seed=seed,
        devices=devices, nodes=nodes, start=start,
    )  # fmt: skip


# --- fine decoder --------------------------------------------------------------------------------------------------

#: Channels at 8, 4, 2 and 1 voxels of the output; steps; patches of a step.
_DECODERS: dict[str, tuple[tuple[int, int, int, int], int, int]] = {
    "demo": ((96, 48, 32, 16), 6000, 1), "gpu": ((256, 128, 64, 32), 60_000, 4),
}  # fmt: skip


def check_decoder_preset(preset: str) -> None:
    """Raise :class:`ConfigError` for an unknown preset, and for one without a fine decoder."""
    check_preset(preset)
    if preset not in _DECODERS:
        raise ConfigError(f"The preset {preset} has no fine decoder: choose {' or '.join(_DECODERS)}.")


def decoder_config(
    preset: str, data: DataFacts, package: ModelPackage, *, seed: int = 0, steps: int | None = None,
    batch: int | None = None, precision: Precision | None = None, devices: int = 1, nodes: int = 1,
    learning_rate: float | None = None,
) -> RunConfig:  # fmt: skip
    """Return the configuration of a fine decoder's run for the generator ``package``.

    ``steps``: validations and warm-up change in proportion. Raises :class:`ConfigError` for a preset without decoder.
    """
    check_decoder_preset(preset)
    channels, usual_steps, usual_batch = _DECODERS[preset]
    network, spec = package.manifest.networks["autoencoder"], package.manifest.generator
    assert spec is not None  # the manifest of a generator has it
    flow = spec.sampling.schedule == "rectified_flow"
    decoder = DecoderConfig(
        arguments={"latent_channels": len(spec.latent_scale), "channels": channels}, batch=batch or usual_batch,
        steps=usual_steps, validate_every=max(usual_steps // 10, 1), patience=20, validation_cases=4,
        learning_rate=6e-4,
        sampling=_sampling("rectified_flow", (0.7, 0.6, 0.5, 0.4), time_shift=10.0, guidance=1.0) if flow else None,
    )  # fmt: skip
    decoder = decoder if steps is None else scale_steps(decoder, steps / decoder.steps)
    if learning_rate is not None:
        decoder = decoder.model_copy(update={"learning_rate": learning_rate})
    model = DecoderModel(
        generator=f"{package.manifest.name} {package.sha256}", grid=network.patch, spacing_mm=network.spacing_mm,
        window_hu=network.window_hu, decoder=decoder,
    )  # fmt: skip
    return run_config_of(preset, data, model, precision, seed=seed, devices=devices, nodes=nodes)
