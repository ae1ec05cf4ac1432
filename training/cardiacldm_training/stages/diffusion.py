"""The diffusion stage: train the denoiser on the latents of an autoencoder.

Every case is encoded before training (see :mod:`latent_files`); from then on only validation pictures need the
autoencoder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from CardiacLDMLib.generation import sampler
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder
from CardiacLDMLib.packages.generator_spec import Restart, Sampling
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.postprocess.kinds import LatentStep
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ..cases import conditions, split, store
from ..errors import TrainingError
from ..results import pictures
from . import autoencoder, calibration, devices, latent_files, loop, prior, run_folder
from .calibration import LatentStatistics
from .config import DiffusionConfig, DiffusionData, RunConfig, check_same, stream
from .generator_start import spec_of, vocabulary_like
from .latent_files import Latents
from .package_part import PackagePart, network_part
from .segmenter import take_weights
from .state import Score, State

NAME = "diffusion"
ARCHITECTURE = "diffusion_unet"
#: Streams of noise beside that of the examples: of the validation and of the gains (1 is that of the latent files).
_VALIDATION, _GAINS = 2, 3
#: The times of examples are the multiples of this, modulo 1: those of any consecutive steps cover 0..1 evenly.
_GOLDEN = (5**0.5 - 1) / 2
#: Validation scores held-out latents at these times, the middles of equal parts.
VALIDATION_TIMES = tuple((n + 0.5) / 8 for n in range(8))
#: Gains of restarts are measured on at most so many cases.
_GAIN_CASES = 32


# --- the stage -----------------------------------------------------------------------------------------------------


def add_noise(schedule: str, data: np.ndarray, noise: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the noisy latents at the time ``t`` and the target that the network predicts (see :mod:`sampler`).

    ``data`` and ``noise`` are (C, I/4, J/4, K/4). The target is the velocity or, for ``ddpm``, the noise.
    """
    if schedule == "rectified_flow":
        return (1 - t) * data + t * noise, noise - data
    share = float(sampler.signal_shares()[round(t * sampler.DDPM_STEPS)])
    return share**0.5 * data + (1 - share) ** 0.5 * noise, noise


def drop_conditions(
    choices: np.ndarray, numbers: np.ndarray, rng: np.random.Generator, probability: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return choices (A,) int64 and numbers (B,) float32, each unset (-1, NaN) with the ``probability``.

    With the same probability all of them are unset at once.
    """
    every = rng.random() < probability
    unset = rng.random(len(choices) + len(numbers)) < probability
    unset |= every
    choices = np.where(unset[: len(choices)], -1, choices)
    numbers = np.where(unset[len(unset) - len(numbers) :], np.nan, numbers)
    return choices.astype(np.int64), numbers.astype(np.float32)


class DiffusionStage:
    """Predict the noise or velocity of noisy latents; the score is the error on held-out cases, at fixed times."""

    measure = "score"  # the negative loss: larger is better

    def __init__(
        self, run_config: RunConfig, statistics: LatentStatistics, autoencoder: JointAutoencoder, *,
        train: Sequence[Latents], held_out: Sequence[Latents],
    ) -> None:  # fmt: skip
        self.seed, self.config, self.autoencoder = run_config.seed, diffusion_of(run_config)[0], autoencoder
        self.train, self.held_out = train, held_out[: self.config.validation_cases]
        shift, scale = (np.array(v, dtype=np.float32) for v in (statistics.shift, statistics.scale))
        self._shift, self._scale = (v[:, None, None, None] for v in (shift, scale))

    def read(self, path: Path) -> np.ndarray:
        """Read a latent file and normalise it."""
        return (np.load(path) - self._shift) / self._scale

    def training_latents(self) -> Iterator[np.ndarray]:
        """Yield every normalised training latent, or an even selection of as many as the prior uses."""
        files = [path for case in self.train for path in case.files]
        yield from (self.read(path) for path in files[:: -(-len(files) // prior.MOST_LATENTS)])

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """Return noisy latents ``z`` at the time ``t``, the ``target``, and the conditions after dropout."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, stream(NAME), 0, n]))
        case = self.train[int(rng.integers(len(self.train)))]
        data = self.read(case.files[int(rng.integers(len(case.files)))])
        choices, numbers = drop_conditions(case.choices, case.numbers, rng, self.config.condition_dropout)
        t = self._time(sampler.shift_time((n + 0.5) * _GOLDEN % 1, self.config.training_shift))
        return {**self._example(data, t, rng), "choices": choices, "numbers": numbers}

    def _time(self, part: float) -> float:
        """Return ``part`` (0 to 1) as a time of the schedule."""
        if self.config.sampling.schedule == "rectified_flow":
            return part
        return (int(part * sampler.DDPM_STEPS) + 1) / sampler.DDPM_STEPS

    def _example(self, data: np.ndarray, t: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
        noise = rng.standard_normal(data.shape, np.float32)
        z, target = add_noise(self.config.sampling.schedule, data, noise, t)
        return {"z": z.astype(np.float32), "t": np.array(t, dtype=np.float32), "target": target.astype(np.float32)}

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean squared error of the prediction."""
        return self._errors(network, batch).mean()

    def _errors(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean squared errors (N,)."""
        prediction = network(batch["z"], batch["t"], batch["choices"], batch["numbers"])
        return (prediction.float() - batch["target"]).square().flatten(1).mean(1)

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> Score:
        """Return the negative mean squared error with all known conditions; its parts are the errors at each time."""
        table = np.full((len(self.held_out), len(VALIDATION_TIMES)), np.nan)
        for index in range(fabric.global_rank, len(self.held_out), fabric.world_size):
            for column, example in enumerate(self._validation_examples(index)):
                batch = {name: fabric.to_device(torch.from_numpy(v)[None]) for name, v in example.items()}
                with fabric.autocast():
                    table[index, column] = float(self._errors(network, batch))
        table = devices.merge_ranks(fabric, table)
        parts = {f"error_at_{t:.2f}": float(e) for t, e in zip(VALIDATION_TIMES, table.mean(0), strict=True)}
        return Score(-float(table.mean()), parts)

    def _validation_examples(self, index: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield a held-out case at all times; every validation sees the same noise."""
        case = self.held_out[index]
        data = self.read(case.files[0])
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, stream(NAME), _VALIDATION, index]))
        for part in VALIDATION_TIMES:
            example = self._example(data, self._time(part), rng)
            yield {**example, "choices": case.choices, "numbers": case.numbers}

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """Return the first held-out pair, decoded, in three planes; below, a sample of its conditions."""
        case = self.held_out[0]
        held_out = fabric.to_device(torch.from_numpy(self.read(case.files[0]))[None])
        noise = fabric.to_device(sampler.noise(self.seed, 0, 0, held_out.shape))
        choices, numbers = (fabric.to_device(torch.from_numpy(v)[None]) for v in (case.choices, case.numbers))
        with fabric.autocast():
            sample = sampler.integrate(
                sampler.guided(network, choices, numbers, 1.0), noise, self.config.sampling,
                generators=[sampler.step_generator(self.seed, 0, 0)],
            )  # fmt: skip
            for step in self.config.postprocess:
                sample = step.apply(sample) if isinstance(step, LatentStep) else sample
            image, labels = self._decode(held_out)
            sample_image, sample_labels = self._decode(sample)
        return pictures.panel(image, labels, sample_labels, predicted_image=sample_image)

    def _decode(self, z: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return image (I, J, K) in 0..1 and labels (I, J, K) uint8 of normalised latents (1, C, I/4, J/4, K/4)."""
        image, scores = self.autoencoder.decode(z * z.new_tensor(self._scale) + z.new_tensor(self._shift))
        return image[0, 0].float().clamp(0, 1).cpu().numpy(), scores[0].argmax(0).to(torch.uint8).cpu().numpy()


# --- the network ---------------------------------------------------------------------------------------------------


def diffusion_of(run_config: RunConfig) -> tuple[DiffusionConfig, DiffusionData]:
    """Return settings and data of a run's diffusion. Raises :class:`TrainingError` for a run that has none yet."""
    settings, data = run_config.generator.diffusion, run_config.data.diffusion
    if settings is None or data is None:
        raise TrainingError("The run has no diffusion yet: train it first.")
    return settings, data


def network_arguments(run_config: RunConfig) -> dict[str, Any]:
    """Return the arguments of the denoiser: the settings', and the sizes of its latents and conditions."""
    settings, data = diffusion_of(run_config)
    channels, *shape = run_config.generator.latent_shape
    with_prior = settings.arguments.get("prior_modes") is not None
    return {
        **settings.arguments, "latent_channels": channels, "latent_shape": tuple(shape) if with_prior else None,
        "choices": [len(values) for values in data.conditions.choices.values()],
        "numbers": len(data.conditions.numbers),
    }  # fmt: skip


def package_part(run: Path, run_config: RunConfig) -> PackagePart:
    """Return the denoiser's part of a package, with conditions, sampling and post-processing.

    Raises TrainingError for a diffusion that was trained with other autoencoder weights, and ValidationError.
    """
    settings, data = diffusion_of(run_config)
    model = run_config.generator
    if run_folder.weights_digest(autoencoder.best_weights(run)) != data.autoencoder:
        raise TrainingError(f"The autoencoder of {run} was trained further after its diffusion: train that again.")
    vocabulary = data.conditions
    generator = {
        "choices": {name: list(values) for name, values in vocabulary.choices.items()}, "numbers": vocabulary.numbers,
        "chances": {name: list(shares) for name, shares in vocabulary.chances.items()},
        "sampling": _with_gains(run, settings.sampling), "postprocess": settings.postprocess,
    }  # fmt: skip
    return network_part(
        run, NAME, run_folder.averaged_weights(run / NAME / run_folder.BEST), architecture=ARCHITECTURE,
        arguments=network_arguments(run_config), patch=model.grid, spacing_mm=model.spacing_mm,
        window_hu=model.window_hu, generator=generator,
    )  # fmt: skip


def _with_gains(run: Path, sampling: Sampling) -> Sampling:
    """Return the sampling with the gains measured after training, if there are any. Raises TrainingError."""
    times = restart_times(sampling)
    restarts = [Restart(time=t, gains=own) for t, own in zip(times, calibration.read_gains(run, times), strict=False)]
    return sampling.model_copy(update={"restarts": tuple(restarts)}) if restarts else sampling


def restart_times(sampling: Sampling) -> tuple[float, ...]:
    """Return the times of the restarts, which their gains belong to."""
    return tuple(restart.time for restart in sampling.restarts)


# --- the whole stage -----------------------------------------------------------------------------------------------


def train_diffusion(
    run: Path, settings: DiffusionConfig, prepared: store.Prepared, case_conditions: conditions.CaseConditions, *,
    resume: bool, workers: int, device: str = "auto", preset: str | None = None, start: ModelPackage | None = None,
    say: Say = print,
) -> State:  # fmt: skip
    """Train the denoiser into ``run``, which holds a trained autoencoder; return where training ended.

    ``case_conditions``: the known conditions of each case by its name. ``preset``: refuse a run of another one.
    ``start``: the package whose autoencoder the run keeps, whose conditions hold and whose denoiser is trained further.
    Raises TrainingError, ConfigError, DatasetError.
    """
    stored = _with_same_data(run, prepared, preset)
    train, held_out = split.sides(prepared, stored.validation_part)
    run_config = stored.with_diffusion(settings, _data(run, train, prepared, case_conditions, start))
    if run_folder.has_begun(run, NAME):  # before that, settings may change
        run_folder.check_run(run, run_config, [NAME], resume=resume)
    fabric = devices.launch(settings.devices, settings.nodes, run_config.precision, device, say)
    if fabric.is_global_zero:
        run_folder.write_config(run_config, run)
    fabric.barrier()
    stage = _stage(fabric, run, run_config, case_conditions, train, held_out, say, workers)
    torch.manual_seed(run_config.seed)
    network: Any = build_network(ARCHITECTURE, network_arguments(run_config))
    if start is not None:
        take_weights(network, NAME, start)
    modes = len(train) // prior.CASES_PER_MODE
    if network.prior is not None and (start is None or modes >= len(network.prior.modes)):  # few cases keep the start's
        prior.fit_prior(network.prior, stage.training_latents(), modes=modes)
    if fabric.is_global_zero:
        _introduce(network, stage, run_config, say)
    end = loop.train_network(
        fabric, settings, network, stage, run / NAME, title=NAME, resume=resume, workers=workers, say=say
    )
    restarts = settings.sampling.restarts
    if fabric.is_global_zero and restarts and (start is None or any(restart.gains for restart in restarts)):
        _calibrate(fabric, run, run_config, stage, say)
    fabric.barrier()
    return end


def _with_same_data(run: Path, prepared: store.Prepared, preset: str | None) -> RunConfig:
    """Return the configuration of a run whose autoencoder is trained, if preset and cases are the same."""
    stored = run_folder.read_config(run)
    facts = stored.data.model_copy(update={"cases": len(prepared.cases), "digest": prepared.digest})
    check_same(stored, stored.model_copy(update={"preset": preset or stored.preset, "data": facts}))
    return stored


def _data(
    run: Path, train: split.Cases, prepared: store.Prepared, case_conditions: conditions.CaseConditions,
    start: ModelPackage | None,
) -> DiffusionData:  # fmt: skip
    """Return the facts about the training data of the denoiser. Raises TrainingError for an unfinished autoencoder."""
    statistics = calibration.read_latent_statistics(run)
    if run_folder.weights_digest(autoencoder.best_weights(run)) != statistics.autoencoder:
        raise TrainingError(f"The autoencoder of {run} is not trained to its end: resume its training first.")
    known = [case_conditions.get(case.name, {}) for case in train]
    return DiffusionData(
        conditions=vocabulary_like(spec_of(start), known) if start else conditions.vocabulary(known),
        conditions_digest=conditions.digest({case.name: case_conditions.get(case.name, {}) for case in prepared.cases}),
        autoencoder=statistics.autoencoder,
    )


def _stage(
    fabric: Fabric, run: Path, run_config: RunConfig, case_conditions: conditions.CaseConditions, train: split.Cases,
    held_out: split.Cases, say: Say, workers: int,
) -> DiffusionStage:  # fmt: skip
    """Encode all cases and return the stage on their latents."""
    settings, data = diffusion_of(run_config)
    network: Any = fabric.to_device(autoencoder.load_autoencoder(run, run_config.generator.autoencoder))
    counts = [(case, settings.variants) for case in train]
    counts += [(case, 1) for case in held_out[: settings.validation_cases]]
    files = latent_files.encode_all(fabric, run, run_config, network, counts, say, workers)
    latents = [
        Latents(paths, *data.conditions.encode(case_conditions.get(case.name, {})))
        for (case, _), paths in zip(counts, files, strict=True)
    ]
    return DiffusionStage(
        run_config, calibration.read_latent_statistics(run), network, train=latents[: len(train)],
        held_out=latents[len(train) :],
    )  # fmt: skip


def _calibrate(fabric: Fabric, run: Path, run_config: RunConfig, stage: DiffusionStage, say: Say) -> None:
    """Measure and write the gains of restarts, unless those of these weights are there."""
    times = restart_times(stage.config.sampling)
    with contextlib.suppress(TrainingError):
        if calibration.read_gains(run, times):
            return
    weights = run_folder.averaged_weights(run / NAME / run_folder.BEST)
    cases = plural(min(len(stage.train), _GAIN_CASES), "case")
    say(f"{NAME}: measuring the gains of restarts on the latents of {cases}.")
    network: Any = build_network(ARCHITECTURE, network_arguments(run_config))
    network.load_state_dict(weights)
    fabric.to_device(network.eval())
    record = calibration.RestartGains(
        restarts=times, gains=measure_gains(fabric, network, stage),
        diffusion=run_folder.weights_digest(weights),
    )  # fmt: skip
    calibration.write(record, run / calibration.GAINS_FILE)


@torch.inference_mode()
def measure_gains(fabric: Fabric, network: torch.nn.Module, stage: DiffusionStage) -> tuple[tuple[float, ...], ...]:
    """Measure the gains (C,) of each restart on an even selection of training cases, with all conditions unset."""
    cases = stage.train[:: max(len(stage.train) // _GAIN_CASES, 1)][:_GAIN_CASES]
    latents = [fabric.to_device(torch.from_numpy(stage.read(case.files[0]))[None]) for case in cases]
    seeds = np.random.SeedSequence([stage.seed, stream(NAME), _GAINS]).spawn(len(cases))
    choices, numbers = (fabric.to_device(torch.from_numpy(v)[None]) for v in (cases[0].choices, cases[0].numbers))
    predict = sampler.guided(network, choices, numbers, 0.0)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    return calibration.restart_gains(predict, latents, rngs, restart_times(stage.config.sampling))


def _introduce(network: torch.nn.Module, stage: DiffusionStage, run_config: RunConfig, say: Say) -> None:
    settings, data = diffusion_of(run_config)
    shape = " x ".join(map(str, run_config.generator.latent_shape[1:]))
    items = f"latents of {shape} voxels, {settings.variants} latents of a training case, {settings.sampling.schedule}"
    say(loop.describe(NAME, network, settings, len(stage.train), len(stage.held_out), items))
    words = [f"{name} ({', '.join(values)})" for name, values in data.conditions.choices.items()]
    words += [f"{name} ({low:g} to {high:g})" for name, (low, high) in data.conditions.numbers.items()]
    say(f"{NAME}: conditions: {'; '.join(words) or 'none'}.")
