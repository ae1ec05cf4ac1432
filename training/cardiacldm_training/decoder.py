"""The last stage: the autoencoder's decoder, trained on for latents as the diffusion draws them.

A restart (see :func:`sampler.restart`) leaves the mean of what a latent may have been: fine and bright parts such as
bone are paler in it. Latents of true pairs go through the diffusion's last restarts here, and the decoder learns to
make of them the image and the labels that they came from. The encoder, and so the diffusion, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric

from CardiacLDMLib import sampler
from CardiacLDMLib.joint_autoencoder import JointAutoencoder
from CardiacLDMLib.networks import build_network

from . import autoencoder, conditions, config, diffusion, finetune, loop, pairs, store
from .autoencoder import LatentStatistics
from .generator_config import STAGES, DecoderConfig, DiffusionConfig, GeneratorRunConfig, read_config

NAME = "decoder"
#: So that the streams of all stages differ for one seed.
_STREAM = len(config.NETWORKS) + STAGES.index(NAME)
_VALIDATION, _GAINS = 1, 2
#: Gains are measured on so many cases, and no channel is enlarged by more than this.
_GAIN_CASES, _LARGEST_GAIN = 16, 3.0


class Decoder(torch.nn.Module):
    """The part of a joint autoencoder that is trained here: its encoder is left as it is."""

    def __init__(self, network: JointAutoencoder) -> None:
        super().__init__()
        self.autoencoder = network.requires_grad_(False)
        for part in (network.decoder, network.post_quant_conv, network.block_decoder):
            part.requires_grad_(True)

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (N, 1, I, J, K) and raw labels of latents as the autoencoder knows them."""
        return self.autoencoder.decode_raw(z)


class Worn:
    """Latents as they are after restarts: the denoiser, and what the package does beside it."""

    def __init__(
        self, denoiser: torch.nn.Module, network: JointAutoencoder, settings: DiffusionConfig,
        statistics: LatentStatistics,
    ) -> None:  # fmt: skip
        self.denoiser, self.autoencoder, self.settings = denoiser, network, settings
        self._shift, self._scale = statistics.shift, statistics.scale

    def latents(self, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Normalised latents (N, C, I/4, J/4, K/4) of pairs."""
        mu, _ = self.autoencoder.encode(image, labels)
        return (mu - _channels(mu, self._shift)) / _channels(mu, self._scale)

    def decodable(self, z: torch.Tensor) -> torch.Tensor:
        """Latents as the autoencoder knows them, smoothed as the package smooths, of normalised ones."""
        z = sampler.smoothed(z, self.settings.smoothing)
        return z * _channels(z, self._scale) + _channels(z, self._shift)

    def restarted(
        self, z: torch.Tensor, given: tuple[torch.Tensor, torch.Tensor], noise: torch.Tensor,
        restarts: Sequence[tuple[float, Sequence[float]]],
    ) -> torch.Tensor:  # fmt: skip
        """``z`` after restarts, each a time and its gains, with ``noise`` (N, restarts, C, I/4, J/4, K/4).

        ``given``: choices and numbers, as :func:`sampler.guided` takes them.
        """
        predict = sampler.guided(self.denoiser, *given, 1.0)
        for number, (t, gains) in enumerate(restarts):
            z = sampler.restart(predict, z, t, noise[:, number], gains)
        return z


def _channels(like: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    return like.new_tensor(values).view(-1, 1, 1, 1)


# --- the stage -----------------------------------------------------------------------------------------------------


class DecoderStage:
    """Pairs around the heart, decoded from worn latents; scored by the mean Dice of held-out cases' labels."""

    measure = "Dice"

    def __init__(
        self, run_config: GeneratorRunConfig, settings: DecoderConfig, worn: Worn, *,
        train: Sequence[store.PreparedCase], held_out: Sequence[store.PreparedCase],
        known: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ) -> None:  # fmt: skip
        """``known``: the conditions of each case by its name, as networks take them."""
        self.run_config, self.config, self.worn, self.known = run_config, settings, worn, known
        self.train, self.held_out = train, held_out[: settings.validation_cases]
        every = zip(worn.settings.restarts, settings.gains, strict=True)
        self.restarts = [(t, gains) for t, gains in every if t <= settings.from_time]
        self._loss = autoencoder.PairLoss(run_config.autoencoder, settings.label_weight)

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """Training pair ``n``: ``image``, ``labels`` (see :func:`pairs.pair`), conditions, and ``noise`` by restart."""
        rng = np.random.default_rng(np.random.SeedSequence([self.run_config.seed, _STREAM, 0, n]))
        case = self.train[int(rng.integers(len(self.train)))]
        return self._example(case, rng, pairs.pair(case, *self._view, rng=rng, settings=self.config.augment))

    @property
    def _view(self) -> tuple[pairs.Shape, tuple[float, float]]:
        return self.run_config.grid, self.run_config.window_hu

    def _example(
        self, case: store.PreparedCase, rng: np.random.Generator, pair: tuple[np.ndarray, np.ndarray]
    ) -> dict[str, np.ndarray]:
        choices, numbers = self.known[case.name]
        shape = (len(self.restarts), *diffusion.latent_shape(self.run_config))
        noise = rng.standard_normal(shape, np.float32)
        return {"image": pair[0], "labels": pair[1], "choices": choices, "numbers": numbers, "noise": noise}

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """L1 of the image, cross-entropy and Dice of the labels."""
        with torch.no_grad():
            z = self._drawn(batch)
        image, raw = network(z)
        return self._loss(image.float(), raw.float(), batch["image"], batch["labels"])

    def _drawn(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Latents to decode, from the batch's pairs."""
        z = self.worn.latents(batch["image"], batch["labels"])
        z = self.worn.restarted(z, (batch["choices"], batch["numbers"]), batch["noise"], self.restarts)
        return self.worn.decodable(z)

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> loop.Score:
        """Dice per structure, PSNR (dB), SSIM, and third-class voxels (%): means over the held-out cases."""
        return autoencoder.mean_figures(fabric, len(self.held_out), lambda index: self._figures(fabric, network, index))

    def _figures(self, fabric: Fabric, network: torch.nn.Module, index: int) -> np.ndarray:
        image, labels, *out = self._decoded(fabric, network, index)
        return autoencoder.figures(image, labels, *out)

    def _decoded(self, fabric: Fabric, network: torch.nn.Module, index: int) -> tuple[torch.Tensor, ...]:
        """Image and labels of a held-out case, and both as decoded with the noise of its number; (1, 1, I, J, K)."""
        case = self.held_out[index]
        rng = np.random.default_rng(np.random.SeedSequence([self.run_config.seed, _STREAM, _VALIDATION, index]))
        example = self._example(case, rng, pairs.pair(case, *self._view))
        batch = {name: fabric.to_device(torch.from_numpy(value)[None]) for name, value in example.items()}
        with fabric.autocast():
            image, raw = network(self._drawn(batch))
            scores = decoder_of(network).scores(raw)
        labels = scores.argmax(1, keepdim=True).to(torch.uint8)
        return batch["image"], batch["labels"], image.float().clamp(0, 1), labels

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """The first held-out pair in three planes: as it is above, decoded below."""
        arrays = [tensor[0, 0].cpu().numpy() for tensor in self._decoded(fabric, network, 0)]
        return finetune.panel(arrays[0], arrays[1], arrays[3], predicted_image=arrays[2])


def decoder_of(network: torch.nn.Module) -> JointAutoencoder:
    """The autoencoder inside what the training loop passes around."""
    inner: Any = network
    while not isinstance(inner, JointAutoencoder):
        inner = inner.autoencoder if isinstance(inner, Decoder) else inner.module
    return inner


# --- gains ---------------------------------------------------------------------------------------------------------


def measure_gains(
    fabric: Fabric, worn: Worn, run_config: GeneratorRunConfig, settings: DecoderConfig,
    cases: Sequence[store.PreparedCase],
) -> tuple[tuple[float, ...], ...]:  # fmt: skip
    """For each of the diffusion's restarts and each channel: how much less the latents of ``cases`` vary after it, as
    the inverse, drawn towards 1 as ``gain_power`` says. Conditions are left unknown."""
    chosen = cases[:: max(len(cases) // _GAIN_CASES, 1)][:_GAIN_CASES]
    rngs = [
        np.random.default_rng(np.random.SeedSequence([run_config.seed, _STREAM, _GAINS, n])) for n in range(len(chosen))
    ]
    found: list[tuple[float, ...]] = []
    with torch.inference_mode():
        data = torch.cat([_latent(fabric, worn, run_config, case) for case in chosen])
        before = _deviation(data)
        choices, numbers = (fabric.to_device(torch.from_numpy(v)) for v in _unknown(worn.settings, len(data)))
        for t in worn.settings.restarts:
            drawn = np.stack([rng.standard_normal(data.shape[1:], np.float32) for rng in rngs])
            noise = fabric.to_device(torch.from_numpy(drawn))[:, None]
            data = worn.restarted(data, (choices, numbers), noise, [(t, [1.0] * data.shape[1])])
            ratio = (before / _deviation(data).clamp(min=1e-6)).clamp(max=_LARGEST_GAIN)
            gains = 1.0 + settings.gain_power * (ratio - 1.0)
            found.append(tuple(round(float(gain), 3) for gain in gains))
            data = data * _channels(data, found[-1])
    return tuple(found)


def _latent(fabric: Fabric, worn: Worn, run_config: GeneratorRunConfig, case: store.PreparedCase) -> torch.Tensor:
    arrays = pairs.pair(case, run_config.grid, run_config.window_hu)
    return worn.latents(*(fabric.to_device(torch.from_numpy(array)[None]) for array in arrays))


def _deviation(z: torch.Tensor) -> torch.Tensor:
    """(C,) over samples and voxels."""
    return z.movedim(1, 0).flatten(1).std(1)


def _unknown(settings: DiffusionConfig, count: int) -> tuple[np.ndarray, np.ndarray]:
    choices = np.full((count, len(settings.choices)), -1, dtype=np.int64)
    return choices, np.full((count, len(settings.numbers)), np.nan, dtype=np.float32)


# --- the whole stage -----------------------------------------------------------------------------------------------


def train_decoder(
    run: Path, settings: DecoderConfig, prepared: store.Prepared, known: Mapping[str, conditions.Conditions], *,
    resume: bool, workers: int, say: finetune.Say = print,
) -> loop.State:  # fmt: skip
    """Train the decoder into ``run``, beside the autoencoder and the diffusion that were trained there; returns where
    it ended.

    ``known``: the conditions of each case by its name. Raises TrainingError, ConfigError, DatasetError.
    """
    stored = diffusion.run_of(run, prepared, None)
    trained = diffusion.finished(run, stored)
    if not trained.restarts:
        raise loop.TrainingError(f"The diffusion of {run} draws without restarts: its latents need no other decoder.")
    train, held_out = finetune.split(prepared.cases, stored.validation_part)
    fabric = Fabric(accelerator="auto", devices=settings.devices, num_nodes=settings.nodes, precision=stored.precision)
    fabric.launch()
    worn = _worn(fabric, run, stored, trained)
    run_config = _run_config(fabric, run, stored, settings, worn, train, resume)
    fabric.barrier()
    if fabric.is_global_zero:
        config.write_config(run_config, run)
    words = conditions.Vocabulary(choices=trained.choices, numbers=trained.numbers, chances=trained.chances)
    encoded = {case.name: words.encoded(known.get(case.name, {})) for case in prepared.cases}
    stage = DecoderStage(
        run_config, cast(DecoderConfig, run_config.decoder), worn, train=train, held_out=held_out, known=encoded
    )
    torch.manual_seed(run_config.seed)
    network = Decoder(autoencoder.load_autoencoder(run, run_config.autoencoder))
    if fabric.is_global_zero:
        _introduce(network, stage, say)
    fabric.barrier()
    return loop.train_network(
        fabric, stage.config, network, stage, run / NAME, title=NAME, resume=resume, workers=workers, say=say
    )


def _worn(fabric: Fabric, run: Path, stored: GeneratorRunConfig, trained: DiffusionConfig) -> Worn:
    denoiser: Any = build_network(diffusion.ARCHITECTURE, trained.network_arguments)
    denoiser.load_state_dict(loop.averaged_weights(run / diffusion.NAME / loop.BEST))
    denoiser.eval().requires_grad_(False)
    network = autoencoder.load_autoencoder(run, stored.autoencoder)
    fabric.to_device(denoiser)
    fabric.to_device(network)
    return Worn(denoiser, network, trained, autoencoder.read_latents(run))


def _run_config(
    fabric: Fabric, run: Path, stored: GeneratorRunConfig, settings: DecoderConfig, worn: Worn,
    cases: Sequence[store.PreparedCase], resume: bool,
) -> GeneratorRunConfig:  # fmt: skip
    """The run's configuration with this stage, its gains measured or, to resume, those that it began with."""
    digest = denoiser_digest(run)
    begun = stored.decoder if (run / NAME / loop.LAST).exists() else None
    if begun is not None and not resume:
        raise loop.TrainingError(f"{run} already holds a decoder: go on with --resume, or choose another folder.")
    if begun is not None and begun.diffusion == digest:
        gains = begun.gains
    else:
        gains = measure_gains(fabric, worn, stored, settings, cases)
    wanted = settings.model_copy(update={"gains": gains, "diffusion": digest})
    run_config = stored.model_copy(update={"decoder": wanted})
    if begun is not None:
        config.check_same(stored, run_config)
    return run_config


def denoiser_digest(run: Path) -> str:
    """SHA-256 of the weights of the run's diffusion. Raises :class:`loop.TrainingError` when there are none."""
    return autoencoder.weights_digest(loop.averaged_weights(run / diffusion.NAME / loop.BEST))


def exported(run: Path) -> tuple[DecoderConfig, dict[str, torch.Tensor]] | None:
    """The settings of the run's decoder and the autoencoder's weights with it; None if it was never trained.

    Raises :class:`loop.TrainingError` when the diffusion has changed since.
    """
    settings = read_config(run).decoder
    if settings is None or not (run / NAME / loop.BEST).exists():
        return None
    if settings.diffusion != denoiser_digest(run):
        raise loop.TrainingError(f"The diffusion of {run} was trained on after its decoder: train that anew.")
    weights = loop.averaged_weights(run / NAME / loop.BEST)
    return settings, {name.removeprefix("autoencoder."): value for name, value in weights.items()}


def _introduce(network: Decoder, stage: DecoderStage, say: finetune.Say) -> None:
    millions = sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6
    times = ", ".join(f"{t:g}" for t, _ in stage.restarts)
    say(
        f"{NAME}: {millions:.1f} M weights, {len(stage.train)} cases to learn from, {len(stage.held_out)} to validate "
        f"on, {stage.config.steps} steps of {stage.config.batch} pairs, after restarts at {times}."
    )
