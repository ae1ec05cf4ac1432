"""The diffusion stage: latents of all cases, kept on disk, and the network that learns to draw such latents.

Every case is encoded once as it is and several times varied; training then never needs the autoencoder again, except
to show how it goes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from pydantic import ValidationError

from CardiacLDMLib.files import replace_file, write_text
from CardiacLDMLib.generation import sampler
from CardiacLDMLib.networks.architectures import LATENT_STRIDE
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.denoiser import GaussianPrior
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder
from CardiacLDMLib.packages.generator_spec import SOLVERS, Restart, Sampling
from CardiacLDMLib.postprocess.smooth_latents import smooth_latents
from CardiacLDMLib.progress import Say

from ..cases import conditions, pairs, split, store
from ..cases.settings import Frozen
from ..errors import TrainingError
from ..results import pictures
from . import config, loop
from .autoencoder import LatentStatistics, averaged_autoencoder, load_autoencoder, read_latents, weights_digest
from .generator_config import NETWORKS, DiffusionConfig, GeneratorRunConfig, read_config

NAME = "diffusion"
ARCHITECTURE = "diffusion_unet"
LATENTS_FOLDER, GAINS_FILE = "latents", "gains.json"
#: So that the streams of the four networks differ for one seed.
_STREAM = len(config.NETWORKS) + NETWORKS.index(NAME)
#: Streams beside that of the examples: variants of each case, and the noise of the validation and of the gains.
_VARIANTS, _VALIDATION, _GAINS = 1, 2, 3
#: Raise when latents that are kept must be made anew.
_FORMAT = 1
#: Times go round by the golden section: the examples of any step, and of any run of steps, cover them evenly.
_GOLDEN = (5**0.5 - 1) / 2
#: The times at which held-out latents are judged: the middles of equal parts.
VALIDATION_TIMES = tuple((n + 0.5) / 8 for n in range(8))
#: The prior is measured on at most so many latents; of each number in them it leaves at least this deviation.
_PRIOR_LATENTS, _LEAST_REST = 4096, 0.05
#: It has a mode for so many cases at most: modes of few cases would show those very cases, in every package.
_CASES_A_MODE = 4
#: Gains of restarts are measured on so many cases. Of what makes up for all that a channel lost half is taken, since
#: errors grow with it; and none is enlarged by more than this.
_GAIN_CASES, _GAIN_SHARE, _LARGEST_GAIN = 32, 0.5, 3.0
#: Steps of the pair that shows how training goes.
_PANEL_STEPS = 20


@dataclass(frozen=True)
class Latents:
    """The latents of one case on disk, the first as it is, the others varied; and its conditions as networks take them.

    Each file holds (C, I/4, J/4, K/4) float32, not normalised.
    """

    name: str
    files: list[Path]
    choices: np.ndarray
    numbers: np.ndarray


# --- the latents ---------------------------------------------------------------------------------------------------


def encode_all(
    fabric: Fabric, run: Path, run_config: GeneratorRunConfig, settings: DiffusionConfig, network: JointAutoencoder,
    cases: Sequence[tuple[store.PreparedCase, int]], say: Say,
) -> list[list[Path]]:  # fmt: skip
    """The files with the latents of each case, as many as asked for; those that are missing or damaged are made.

    The ranks share the work. ``network`` is on the fabric's device.
    """
    folder = run / LATENTS_FOLDER
    wanted = [[folder / _file(run_config, settings, case, n) for n in range(count)] for case, count in cases]
    shape = latent_shape(run_config)
    missing = [
        (case, n, path)
        for (case, _), paths in zip(cases, wanted, strict=True) for n, path in enumerate(paths)
        if not _is_whole(path, shape)
    ]  # fmt: skip
    fabric.barrier()  # before any rank writes: all must find the same ones missing
    if missing and fabric.is_global_zero:
        say(f"{NAME}: encoding {len(missing)} pairs of {len(cases)} cases.")
    folder.mkdir(exist_ok=True)
    progress = store.tenths(lambda line: say(line.replace("cases prepared", "pairs encoded")))
    for done, (case, n, path) in enumerate(missing):
        if done % fabric.world_size == fabric.global_rank:
            _encode(fabric, run_config, settings, network, case, n, path)
        if fabric.is_global_zero:
            progress(done + 1, len(missing))
    fabric.barrier()
    return wanted


def latent_shape(run_config: GeneratorRunConfig) -> tuple[int, ...]:
    """(C, I/4, J/4, K/4)."""
    channels = run_config.autoencoder.arguments.get("latent_channels", 4)
    return channels, *(side // LATENT_STRIDE for side in run_config.grid)


def _file(run_config: GeneratorRunConfig, settings: DiffusionConfig, case: store.PreparedCase, n: int) -> str:
    """Named after all that its content depends on."""
    parts = [_FORMAT, case.key, settings.autoencoder, run_config.grid, run_config.window_hu, run_config.precision, n]
    if n > 0:
        parts += [run_config.seed, settings.augment.model_dump_json()]
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32] + ".npy"


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):  # ValueError: cut short, or something else
        return False


def _encode(
    fabric: Fabric, run_config: GeneratorRunConfig, settings: DiffusionConfig, network: JointAutoencoder,
    case: store.PreparedCase, n: int, path: Path,
) -> None:  # fmt: skip
    rng = None
    if n > 0:
        of_case = int(case.key[:8], 16)
        rng = np.random.default_rng(np.random.SeedSequence([run_config.seed, _STREAM, _VARIANTS, of_case, n]))
    arrays = pairs.pair(case, run_config.grid, run_config.window_hu, rng=rng, settings=settings.augment)
    with torch.inference_mode(), fabric.autocast():
        mu, _ = network.encode(*(fabric.to_device(torch.from_numpy(array)[None]) for array in arrays))
    with replace_file(path) as part, part.open("wb") as file:
        np.save(file, mu[0].float().cpu().numpy())


# --- the stage -----------------------------------------------------------------------------------------------------


def noised(schedule: str, data: np.ndarray, noise: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """What the network is shown at the time ``t``, and what it is to predict then (see :mod:`sampler`)."""
    if schedule == "rectified_flow":
        return (1 - t) * data + t * noise, noise - data
    share = float(sampler.signal_shares()[round(t * sampler.DDPM_STEPS)])
    return share**0.5 * data + (1 - share) ** 0.5 * noise, noise


class DiffusionStage:
    """Noisy latents and what is to be seen in them; scored on held-out cases at fixed times with fixed noise."""

    measure = "score"  # the negative loss: larger is better

    def __init__(
        self, run_config: GeneratorRunConfig, settings: DiffusionConfig, statistics: LatentStatistics,
        autoencoder: JointAutoencoder, *, train: Sequence[Latents], held_out: Sequence[Latents],
    ) -> None:  # fmt: skip
        self.run_config, self.config, self.autoencoder = run_config, settings, autoencoder
        self.train, self.held_out = train, held_out[: settings.validation_cases]
        shift, scale = (np.array(v, dtype=np.float32) for v in (statistics.shift, statistics.scale))
        self._shift, self._scale = (v[:, None, None, None] for v in (shift, scale))

    def normalised(self, path: Path) -> np.ndarray:
        """What the network sees of a file of latents."""
        return (np.load(path) - self._shift) / self._scale

    def all_latents(self) -> Iterator[np.ndarray]:
        """Every latent to learn from, normalised; of very many cases as many as :func:`learn_prior` needs."""
        files = [path for case in self.train for path in case.files]
        yield from (self.normalised(path) for path in files[:: -(-len(files) // _PRIOR_LATENTS)])

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """Noisy latents ``z`` at the time ``t``, the ``target``, and the conditions that were not dropped."""
        rng = np.random.default_rng(np.random.SeedSequence([self.run_config.seed, _STREAM, 0, n]))
        case = self.train[int(rng.integers(len(self.train)))]
        data = self.normalised(case.files[int(rng.integers(len(case.files)))])
        choices, numbers = dropped(case.choices, case.numbers, rng, self.config.condition_dropout)
        t = self._time(sampler.shift_time((n + 0.5) * _GOLDEN % 1, self.config.learnt_shift))
        return {**self._question(data, t, rng), "choices": choices, "numbers": numbers}

    def _time(self, part: float) -> float:
        """``part`` (0 to 1) as a time of the schedule."""
        if self.config.schedule == "rectified_flow":
            return part
        return (int(part * sampler.DDPM_STEPS) + 1) / sampler.DDPM_STEPS

    def _question(self, data: np.ndarray, t: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
        noise = rng.standard_normal(data.shape, np.float32)
        z, target = noised(self.config.schedule, data, noise, t)
        return {"z": z.astype(np.float32), "t": np.array(t, dtype=np.float32), "target": target.astype(np.float32)}

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared error of the prediction."""
        return self._errors(network, batch).mean()

    def _errors(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(N,) mean squared errors."""
        predicted = network(batch["z"], batch["t"], batch["choices"], batch["numbers"])
        return (predicted.float() - batch["target"]).square().flatten(1).mean(1)

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> loop.Score:
        """The negative mean squared error with all conditions given; its parts are the errors at each time."""
        table = np.zeros((len(self.held_out), len(VALIDATION_TIMES)))
        for index in range(fabric.global_rank, len(self.held_out), fabric.world_size):
            for column, question in enumerate(self._questions(index)):
                batch = {name: fabric.to_device(torch.from_numpy(v)[None]) for name, v in question.items()}
                with fabric.autocast():
                    table[index, column] = float(self._errors(network, batch))
        if fabric.world_size > 1:
            gathered: Any = fabric.all_gather(torch.from_numpy(table))
            table = gathered.sum(0).cpu().numpy()  # each case was judged by one rank only
        parts = {f"error_at_{t:.2f}": float(e) for t, e in zip(VALIDATION_TIMES, table.mean(0), strict=True)}
        return loop.Score(-float(table.mean()), parts)

    def _questions(self, index: int) -> Iterator[dict[str, np.ndarray]]:
        """The same for every validation: a held-out case at all times, with the noise of its number."""
        case = self.held_out[index]
        data = self.normalised(case.files[0])
        rng = np.random.default_rng(np.random.SeedSequence([self.run_config.seed, _STREAM, _VALIDATION, index]))
        for part in VALIDATION_TIMES:
            question = self._question(data, self._time(part), rng)
            yield {**question, "choices": case.choices, "numbers": case.numbers}

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """In three planes: the first held-out pair as its latent is decoded, and below one drawn for its conditions."""
        case = self.held_out[0]
        held_out = fabric.to_device(torch.from_numpy(self.normalised(case.files[0]))[None])
        noise = fabric.to_device(sampler.noise(self.run_config.seed, 0, 0, held_out.shape))
        choices, numbers = (fabric.to_device(torch.from_numpy(v)[None]) for v in (case.choices, case.numbers))
        schedule = self.config.schedule
        sampling = Sampling(
            schedule=schedule, solver=SOLVERS[schedule][0], steps=_PANEL_STEPS, time_shift=self.config.time_shift,
            restarts=tuple(Restart(time=time) for time in self.config.restarts),
        )  # fmt: skip
        with fabric.autocast():
            drawn = sampler.integrate(
                sampler.guided(network, choices, numbers, 1.0), noise, sampling,
                generators=[sampler.step_generator(self.run_config.seed, 0, 0)],
            )  # fmt: skip
            if self.config.smoothing is not None:
                drawn = smooth_latents(drawn, self.config.smoothing)
            image, labels = self._decoded(held_out)
            drawn_image, drawn_labels = self._decoded(drawn)
        return pictures.panel(image, labels, drawn_labels, predicted_image=drawn_image)

    def _decoded(self, z: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Image (I, J, K) in 0..1 and labels (I, J, K) uint8 of normalised latents (1, C, I/4, J/4, K/4)."""
        image, scores = self.autoencoder.decode(z * z.new_tensor(self._scale) + z.new_tensor(self._shift))
        return image[0, 0].float().clamp(0, 1).cpu().numpy(), scores[0].argmax(0).to(torch.uint8).cpu().numpy()


def dropped(
    choices: np.ndarray, numbers: np.ndarray, rng: np.random.Generator, chance: float
) -> tuple[np.ndarray, np.ndarray]:
    """The conditions, each made unknown with the ``chance``, and with the same chance all of them."""
    every = rng.random() < chance
    gone = rng.random(len(choices) + len(numbers)) < chance
    gone |= every
    unknown = np.where(gone[: len(choices)], -1, choices), np.where(gone[len(choices) :], np.nan, numbers)
    return unknown[0].astype(np.int64), unknown[1].astype(np.float32)


# --- the whole stage -----------------------------------------------------------------------------------------------


def run_of(run: Path, prepared: store.Prepared, preset: str | None) -> GeneratorRunConfig:
    """The configuration of a run whose autoencoder is trained, after a look whether preset and cases are the same.

    Raises ConfigError, TrainingError.
    """
    stored = read_config(run)
    wanted = {"preset": preset or stored.preset, "cases": len(prepared.cases), "cases_digest": prepared.digest}
    config.check_same(stored, stored.model_copy(update=wanted))
    read_latents(run)
    return stored


def train_diffusion(
    run: Path, settings: DiffusionConfig, prepared: store.Prepared, known: Mapping[str, conditions.Conditions], *,
    resume: bool, workers: int, preset: str | None = None, say: Say = print,
) -> loop.State:  # fmt: skip
    """Train the denoiser into ``run``, beside the autoencoder that was trained there; returns where it ended.

    ``known``: the conditions of each case by its name. Raises TrainingError, ConfigError, DatasetError.
    """
    stored = run_of(run, prepared, preset)
    statistics = read_latents(run)
    if weights_digest(averaged_autoencoder(run)) != statistics.autoencoder:
        raise TrainingError(f"The autoencoder of {run} was trained on: resume its training to its end first.")
    train, held_out = split.split(prepared.cases, stored.validation_part)
    words = conditions.learned([known.get(case.name, {}) for case in train])
    settings = settings.model_copy(update={
        "arguments": _fitted(settings.arguments, latent_shape(stored)),
        "choices": words.choices, "numbers": words.numbers, "chances": words.chances,
        "autoencoder": statistics.autoencoder,
        "conditions_digest": conditions.digest({case.name: known.get(case.name, {}) for case in prepared.cases}),
    })  # fmt: skip
    run_config = stored.model_copy(update={"diffusion": settings})
    _check_run(run, run_config, resume)
    fabric = Fabric(
        accelerator="auto", devices=settings.devices, num_nodes=settings.nodes, precision=run_config.precision
    )
    fabric.launch()
    if fabric.is_global_zero:
        config.write_config(run_config, run)
    fabric.barrier()
    autoencoder: Any = fabric.to_device(load_autoencoder(run, run_config.autoencoder))
    held_out = held_out[: settings.validation_cases]
    wanted = [(case, settings.variants) for case in train] + [(case, 1) for case in held_out]
    files = encode_all(fabric, run, run_config, settings, autoencoder, wanted, say)
    latents = [
        Latents(case.name, paths, *words.encoded(known.get(case.name, {})))
        for (case, _), paths in zip(wanted, files, strict=True)
    ]
    stage = DiffusionStage(
        run_config, settings, statistics, autoencoder, train=latents[: len(train)], held_out=latents[len(train) :]
    )
    torch.manual_seed(run_config.seed)
    network: Any = build_network(ARCHITECTURE, settings.network_arguments)
    if network.prior is not None:
        learn_prior(network.prior, stage.all_latents(), modes=len(train) // _CASES_A_MODE)
    if fabric.is_global_zero:
        _introduce(network, stage, words, say)
    end = loop.train_network(
        fabric, settings, network, stage, run / NAME, title=NAME, resume=resume, workers=workers, say=say
    )
    if fabric.is_global_zero and settings.restarts:
        _store_gains(fabric, run, stage, say)
    fabric.barrier()
    return end


def _fitted(arguments: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """The network's arguments for latents of the ``shape``."""
    with_prior = arguments.get("prior_modes") is not None
    return {**arguments, "latent_channels": shape[0], "latent_shape": shape[1:] if with_prior else None}


@torch.no_grad()
def learn_prior(prior: GaussianPrior, latents: Iterator[np.ndarray], modes: int) -> None:
    """Let the ``prior`` be the normal distribution of normalised ``latents``, each (C, I/4, J/4, K/4).

    Of its modes ``modes`` are used at most; the others stay at nothing.
    """
    values = torch.from_numpy(np.stack(list(latents))).flatten(1)
    mean = values.mean(0)
    values -= mean
    count = min(len(prior.modes), modes)
    directions = values.new_zeros(count, values.shape[1])
    if count > 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            directions = torch.pca_lowrank(values, q=count, center=False, niter=8)[2].T
    along = values @ directions.T
    prior.mean.copy_(mean.view_as(prior.mean))
    prior.modes[:count].copy_(directions.view_as(prior.modes[:count]))
    prior.variances[:count].copy_(along.square().mean(0))
    rest = (values - along @ directions).square().mean(0).sqrt().clamp(min=_LEAST_REST)
    prior.rest.copy_(rest.view_as(prior.rest))


# --- gains of restarts ---------------------------------------------------------------------------------------------


class RestartGains(Frozen):
    """What channels are multiplied by after each restart, which leaves them varying less than the data's.

    ``diffusion`` names the weights (see :func:`weights_digest`), ``restarts`` the times.
    """

    restarts: tuple[float, ...]
    gains: tuple[tuple[float, ...], ...]  # of each restart, by channel
    diffusion: str


def read_gains(run: Path, settings: DiffusionConfig) -> tuple[tuple[float, ...], ...]:
    """The gains that training the diffusion left; none if it was not trained to its end.

    Raises :class:`loop.TrainingError` for gains of other weights or restarts.
    """
    path = run / NAME / GAINS_FILE
    if not path.is_file():
        return ()
    try:
        stored = RestartGains.model_validate_json(path.read_text())
    except ValidationError as error:
        raise TrainingError(f"{path} is damaged: delete it, and resume training the diffusion.") from error
    digest = weights_digest(loop.averaged_weights(run / NAME / loop.BEST))
    if (stored.diffusion, stored.restarts) != (digest, settings.restarts):
        raise TrainingError(f"{path} is of other weights or restarts: resume training the diffusion to its end.")
    return stored.gains


def _store_gains(fabric: Fabric, run: Path, stage: DiffusionStage, say: Say) -> None:
    """Measure and write the gains, unless those of these weights are there."""
    with contextlib.suppress(TrainingError):
        if read_gains(run, stage.config):
            return
    weights = loop.averaged_weights(run / NAME / loop.BEST)
    say(f"{NAME}: measuring what restarts take from the latents of {min(len(stage.train), _GAIN_CASES)} cases.")
    network: Any = build_network(ARCHITECTURE, stage.config.network_arguments)
    network.load_state_dict(weights)
    fabric.to_device(network.eval())
    with torch.inference_mode():
        gains = measure_gains(fabric, network, stage)
    content = RestartGains(restarts=stage.config.restarts, gains=gains, diffusion=weights_digest(weights))
    write_text(run / NAME / GAINS_FILE, content.model_dump_json(indent=2) + "\n")


def measure_gains(fabric: Fabric, network: torch.nn.Module, stage: DiffusionStage) -> tuple[tuple[float, ...], ...]:
    """What each channel (C,) is to be multiplied by after each restart: half of what its standard deviation over the
    latents of training cases loses in it. The cases go through one restart after the other, conditions left unknown.
    """
    cases = stage.train[:: max(len(stage.train) // _GAIN_CASES, 1)][:_GAIN_CASES]
    latents = [fabric.to_device(torch.from_numpy(stage.normalised(case.files[0]))[None]) for case in cases]
    seeds = np.random.SeedSequence([stage.run_config.seed, _STREAM, _GAINS]).spawn(len(cases))
    rngs = [np.random.default_rng(seed) for seed in seeds]
    choices, numbers = (fabric.to_device(torch.from_numpy(v)[None]) for v in (cases[0].choices, cases[0].numbers))
    predict = sampler.guided(network, choices, numbers, 0.0)
    before, found = _deviations(latents), []
    for t in stage.config.restarts:
        for n, (z, rng) in enumerate(zip(latents, rngs, strict=True)):
            noise = fabric.to_device(torch.from_numpy(rng.standard_normal(z.shape, np.float32)))
            latents[n] = sampler.restart(predict, z, t, noise)
        lost = (before / _deviations(latents).clamp(min=1e-6)).clamp(max=_LARGEST_GAIN)
        gains = (1.0 + _GAIN_SHARE * (lost - 1.0)).tolist()
        found.append(tuple(round(gain, 3) for gain in gains))
        latents = [z * z.new_tensor(found[-1]).view(-1, 1, 1, 1) for z in latents]
    return tuple(found)


def _deviations(latents: Sequence[torch.Tensor]) -> torch.Tensor:
    """(C,) over all latents, each (1, C, I/4, J/4, K/4), and their voxels."""
    return torch.cat(list(latents)).movedim(1, 0).flatten(1).std(1)


def _check_run(run: Path, wanted: GeneratorRunConfig, resume: bool) -> None:
    """Refuse to mix a diffusion with another one: a stored configuration must be the one asked for."""
    stored = read_config(run)
    if not (run / NAME / loop.LAST).exists():
        return
    if not resume:
        raise TrainingError(f"{run} already holds a diffusion: go on with --resume, or choose another folder.")
    config.check_same(stored, wanted)


def _introduce(network: torch.nn.Module, stage: DiffusionStage, words: conditions.Vocabulary, say: Say) -> None:
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    settings = stage.config
    say(
        f"{NAME}: {millions:.1f} M weights, {len(stage.train)} cases of {settings.variants} latents to learn from, "
        f"{len(stage.held_out)} to validate on, {settings.steps} steps of {settings.batch} latents of "
        f"{' x '.join(map(str, latent_shape(stage.run_config)[1:]))} voxels, {settings.schedule}."
    )
    shown = [f"{name} ({', '.join(values)})" for name, values in words.choices.items()]
    shown += [f"{name} ({low:g} to {high:g})" for name, (low, high) in words.numbers.items()]
    say(f"{NAME}: conditions: {'; '.join(shown) or 'none are known'}.")
