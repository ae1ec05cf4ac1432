"""Typed configuration of a generator's run, and its presets: the joint autoencoder, then the diffusion on its latents.

Stored as ``RUN/config.json`` like a segmenter's (see :mod:`config`); ``diffusion`` is empty until that stage begins.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from CardiacLDMLib.packages.generator_spec import SOLVERS, Schedule
from CardiacLDMLib.postprocess.smooth_latents import Widths

from ..cases.settings import PAPER_AUGMENT, Frozen, PairAugmentConfig, Positive, Probability
from ..errors import ConfigError
from . import config
from .config import Precision, TrainingConfig

PRESETS = config.PRESETS
#: The two networks of a generator package, in the order in which they are trained.
NETWORKS = ("autoencoder", "diffusion")


class AutoencoderConfig(TrainingConfig):
    """The joint autoencoder: ``arguments`` of the architecture ``joint_autoencoder``, the weights of its loss.

    Loss: L1 of the image (0..1) + ``label_weight`` (cross-entropy + Dice) + ``kl_weight`` KL (nats per number of the
    latent) + ``adversarial_weight`` of a patch discriminator's opinion of the image. Labels decoded as colours have
    their L1 in place of cross-entropy and Dice.
    """

    arguments: dict[str, Any]
    label_weight: Positive = 0.5
    kl_weight: Annotated[float, Field(ge=0)] = 1e-4
    colour_weight: Positive = 0.3  # of the labels' colours beside the image in the principal components it begins as
    adversarial_weight: Annotated[float, Field(ge=0)] = 0.0
    augment: PairAugmentConfig = PairAugmentConfig()


# --- diffusion -----------------------------------------------------------------------------------------------------


class DiffusionConfig(TrainingConfig):
    """The denoiser: ``arguments`` of the architecture ``diffusion_unet``, and how it is trained.

    Each case is encoded ``variants`` times, once as it is and else varied by ``augment``. Each condition is dropped
    with the chance ``condition_dropout``, and with the same chance all of them at once. The rest says what the weights
    depend on: the autoencoder's weights, and the conditions of all cases.
    """

    arguments: dict[str, Any]
    schedule: Schedule = "rectified_flow"
    learnt_shift: Annotated[float, Field(ge=1, le=100)] = 1.0  # moves the times of training, see sampler.shift_time
    time_shift: Annotated[float, Field(ge=1, le=100)] = 1.0  # when pairs are drawn, see sampler.times
    restarts: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()  # the same, see sampler.integrate
    smoothing: Widths | None = None  # the same, see postprocess.smooth_latents
    deblocking_hu: Annotated[float, Field(ge=1, le=1000)] | None = None  # of the decoded image, see postprocess.deblock
    guidance: Annotated[float, Field(ge=0, le=20)] = 1.5  # the same, see sampler.guided
    variants: Annotated[int, Field(ge=1)] = 6
    augment: PairAugmentConfig = PairAugmentConfig()
    condition_dropout: Probability = 0.1
    devices: Annotated[int, Field(ge=1)] = 1
    nodes: Annotated[int, Field(ge=1)] = 1
    choices: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # the values of each, in the network's order
    numbers: dict[str, tuple[float, float]] = Field(default_factory=dict)  # the range of each
    chances: dict[str, tuple[float, ...]] = Field(default_factory=dict)  # the share of cases with each value
    autoencoder: str = ""  # SHA-256
    conditions_digest: str = ""

    @property
    def network_arguments(self) -> dict[str, Any]:
        """``arguments`` with the sizes of the conditions."""
        sizes = [len(values) for values in self.choices.values()]
        return {**self.arguments, "choices": sizes, "numbers": len(self.numbers)}


# --- the run -------------------------------------------------------------------------------------------------------


class GeneratorRunConfig(Frozen):
    """A whole run: the grid of its pairs, both networks, the data's fingerprint and what else the weights depend on.

    ``grid`` is voxels along R, A, S at ``spacing_mm``, around the centre of the heart.
    """

    preset: str
    seed: int = 0
    precision: Precision = "32-true"
    devices: Annotated[int, Field(ge=1)] = 1
    nodes: Annotated[int, Field(ge=1)] = 1
    validation_part: Probability = 0.1
    cases: int
    cases_digest: str  # over the content of every prepared case: other data make another run
    start: str | None = None  # the package whose autoencoder it starts from, with its hash
    grid: tuple[int, int, int]
    spacing_mm: Positive
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    autoencoder: AutoencoderConfig
    diffusion: DiffusionConfig | None = None


def read_config(run: Path) -> GeneratorRunConfig:
    """The configuration stored in a generator's run. Raises :class:`ConfigError`."""
    return config.read_as(GeneratorRunConfig, run)


def check_autoencoder(stored: GeneratorRunConfig, wanted: GeneratorRunConfig) -> None:
    """Raises :class:`ConfigError` naming the first field in which an autoencoder to resume differs from what was asked.

    The diffusion may have begun already: it is left out.
    """
    config.check_same(*(each.model_copy(update={"diffusion": None}) for each in (stored, wanted)))


# --- presets -------------------------------------------------------------------------------------------------------

_GRIDS: dict[str, tuple[tuple[int, int, int], float]] = {
    "demo": ((64, 64, 48), 3.0), "gpu": ((128, 128, 96), 1.5), "paper": ((256, 256, 160), 1.0),
}  # fmt: skip


def grid_of(preset: str) -> tuple[tuple[int, int, int], float]:
    """Voxels of the grid (R, A, S) and their size in mm. Raises :class:`ConfigError` for an unknown preset."""
    if preset not in _GRIDS:
        raise ConfigError(f"There is no preset {preset!r}: choose {', '.join(PRESETS)}.")
    return _GRIDS[preset]


_TWO_LEVELS = {"channels": (32, 64), "norm_num_groups": 8, "stem_channels": 16}


def _demo(batch: int | None) -> AutoencoderConfig:
    """Two CPU cores, a night."""
    # Two levels, for a convolution over the whole grid costs a CPU most. A batch of one would be slower than two: torch
    # takes another way for small convolutions.
    return AutoencoderConfig(
        arguments={**_TWO_LEVELS, "latent_channels": 48}, colour_weight=1.5,
        batch=batch or 2, steps=1000, validate_every=100, patience=20, validation_cases=16, learning_rate=2e-3,
        warmup_steps=50, ema_decay=0.99, label_weight=1.0, kl_weight=1e-4,
    )  # fmt: skip


def _gpu(batch: int | None) -> AutoencoderConfig:
    """One GPU with 24 GB or more, a day; of half the size, blocks of voxels need fewer numbers."""
    return AutoencoderConfig(
        arguments={**_TWO_LEVELS, "latent_channels": 12},
        batch=batch or 2, steps=10_000, validate_every=2000, patience=20, validation_cases=40, learning_rate=2e-3,
        warmup_steps=500, ema_decay=0.99, label_weight=1.0, kl_weight=1e-4,
    )  # fmt: skip


def _paper(batch: int | None) -> AutoencoderConfig:
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


_AUTOENCODERS: dict[str, Callable[[int | None], AutoencoderConfig]] = {"demo": _demo, "gpu": _gpu, "paper": _paper}


def _denoiser(preset: str, batch: int | None) -> DiffusionConfig:
    """The conditions are ours in every preset; the paper states neither widths nor schedule nor steps."""
    if preset == "demo":  # two CPU cores, a night
        return DiffusionConfig(
            arguments={"channels": (32, 64, 64), "attention_levels": (False, False, True), "num_head_channels": 32,
                       "norm_num_groups": 16, "context_dim": 64, "prior_modes": 32},
            batch=batch or 4, steps=8000, validate_every=400, patience=20, validation_cases=24, learning_rate=2e-3,
            warmup_steps=200, ema_decay=0.998, learnt_shift=2.0, time_shift=60.0,
            restarts=(0.7, 0.6, 0.5, 0.4),  # earlier ones draw nearer to single training cases
            smoothing=(2.4, 1.4), deblocking_hu=60.0, guidance=1.0,
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
    if preset == "gpu":  # one GPU with 24 GB or more, a day
        return DiffusionConfig(batch=batch or 16, variants=8, **common)
    return DiffusionConfig(batch=batch or 4, variants=16, augment=PAPER_AUGMENT, schedule="ddpm", **common)


def diffusion_config(
    preset: str, *, steps: int | None = None, batch: int | None = None, schedule: str | None = None, devices: int = 1,
    nodes: int = 1,
) -> DiffusionConfig:  # fmt: skip
    """The diffusion of ``preset``, conditions and autoencoder left open; validations go along with ``steps``.

    Raises :class:`ConfigError` for an unknown preset or schedule.
    """
    grid_of(preset)
    settings = _denoiser(preset, batch)
    if steps is not None:
        settings = config.scaled(settings, steps / settings.steps)
    if schedule not in (None, *SOLVERS):
        raise ConfigError(f"There is no schedule {schedule!r}: choose {' or '.join(SOLVERS)}.")
    changes: dict[str, Any] = {"devices": devices, "nodes": nodes, "schedule": schedule or settings.schedule}
    if changes["schedule"] == "ddpm":  # it has times of its own, and asks for noise, not for velocities
        changes |= {"learnt_shift": 1.0, "time_shift": 1.0, "restarts": (), "smoothing": None, "deblocking_hu": None}
        changes["arguments"] = {**settings.arguments, "prior_modes": None}
    return settings.model_copy(update=changes)


def preset_config(
    preset: str, *, cases: int, cases_digest: str, seed: int = 0, steps: int | None = None, batch: int | None = None,
    precision: Precision | None = None, devices: int = 1, nodes: int = 1, start: str | None = None,
    learning_rate: float | None = None,
) -> GeneratorRunConfig:  # fmt: skip
    """The configuration of ``preset`` for ``cases`` cases, the diffusion left open.

    ``steps`` sets the steps of the autoencoder; validations and warm-up shrink or grow with them. ``start`` names the
    package that it begins from. Raises :class:`ConfigError` for an unknown preset.
    """
    grid, spacing_mm = grid_of(preset)
    autoencoder = _AUTOENCODERS[preset](batch)
    if steps is not None:
        autoencoder = config.scaled(autoencoder, steps / autoencoder.steps)
    if learning_rate is not None:
        autoencoder = autoencoder.model_copy(update={"learning_rate": learning_rate})
    return GeneratorRunConfig(
        preset=preset, seed=seed, devices=devices, nodes=nodes, cases=cases, cases_digest=cases_digest, start=start,
        precision=precision or ("32-true" if preset == "demo" else "bf16-mixed"), grid=grid, spacing_mm=spacing_mm,
        autoencoder=autoencoder,
    )  # fmt: skip
