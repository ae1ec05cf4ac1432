"""The joint autoencoder's stage: its loss, how its reconstructions are judged, and the statistics of its latents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from pydantic import ValidationError

from CardiacLDMLib import anatomy
from CardiacLDMLib.files import write_text
from CardiacLDMLib.image.overlap import dice_per_structure
from CardiacLDMLib.networks.architectures import LATENT_STRIDE
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder, palette_coded
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.progress import Say

from ..cases import pairs, split, store
from ..cases.settings import Frozen
from ..errors import TrainingError
from ..results import pictures
from . import config, loop, segmenter
from .generator_config import NETWORKS, AutoencoderConfig, GeneratorRunConfig, check_autoencoder, read_config

NAME = "autoencoder"
ARCHITECTURE = "joint_autoencoder"
LATENTS_FILE = "latents.json"
#: So that the streams of the four networks differ for one seed.
_STREAM = len(config.NETWORKS) + NETWORKS.index(NAME)
#: A latent channel that hardly varies is not blown up by more than this.
_LEAST_SCALE = 1e-3
#: An error in one channel spoils a pair more than in another: so many cases show how much. The diffusion sees channels
#: as large as a power of that, within bounds: as it is, the fine ones would drown in the noise.
_GAIN_CASES, _GAIN_POWER, _SPREADS = 6, 0.5, (0.3, 3.0)
#: Blocks of so many cases are enough to find their principal components.
_BLOCK_CASES = 64
_FIGURES = (*anatomy.NAMES, "PSNR", "SSIM", "third_percent")


class Adversaries(torch.nn.Module):
    """The autoencoder with a critic of its images: one module, so that one optimiser and one checkpoint hold both."""

    def __init__(self, autoencoder: JointAutoencoder) -> None:
        from monai.networks.nets import PatchDiscriminator

        super().__init__()
        self.autoencoder = autoencoder
        # Instance norm: batch norm's running statistics would differ between the three looks of each step.
        self.critic = PatchDiscriminator(3, channels=32, in_channels=1, num_layers_d=2, norm="INSTANCE")

    def forward(self, image: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the autoencoder gives, then the critic's opinion of: the image for the autoencoder's gradient alone, the
        true image and the detached image for the critic's alone."""
        out, raw, mu, sigma = self.autoencoder(image, labels, noise)
        fixed = {name: value.detach() for name, value in self.critic.named_parameters()}
        judged = torch.func.functional_call(self.critic, fixed, (out,))[-1]
        return out, raw, mu, sigma, judged, self.critic(image)[-1], self.critic(out.detach())[-1]


class AutoencoderStage:
    """Pairs around the heart, reconstructed; scored by the mean Dice of the decoded labels of held-out cases."""

    measure = "Dice"

    def __init__(
        self, run_config: GeneratorRunConfig, *, train: Sequence[store.PreparedCase],
        held_out: Sequence[store.PreparedCase],
    ) -> None:  # fmt: skip
        from monai.losses import DiceCELoss

        self.run_config, self.config = run_config, run_config.autoencoder
        self.train, self.held_out = train, held_out[: self.config.validation_cases]
        self._label_loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """``image`` and ``labels`` of training pair ``n`` (see :func:`pairs.pair`), and the ``noise`` of its latent."""
        rng = np.random.default_rng(np.random.SeedSequence([self.run_config.seed, _STREAM, n]))
        case = self.train[int(rng.integers(len(self.train)))]
        grid = self.run_config.grid
        image, labels = pairs.pair(case, grid, self.run_config.window_hu, rng=rng, settings=self.config.augment)
        latent = [self.config.arguments.get("latent_channels", 4), *(side // LATENT_STRIDE for side in grid)]
        return {"image": image, "labels": labels, "noise": rng.standard_normal(latent, dtype=np.float32)}

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """L1 of the image, cross-entropy and Dice of the labels, KL; and the adversaries' if there is a critic."""
        outputs = network(batch["image"], batch["labels"], batch["noise"])
        image, raw, mu, sigma, *opinions = (tensor.float() for tensor in outputs)
        loss = (image - batch["image"]).abs().mean() + self.config.label_weight * self._of_labels(raw, batch["labels"])
        loss = loss + self.config.kl_weight * divergence(mu, sigma)
        if opinions:
            judged, real, fake = opinions
            critic = 0.5 * ((real - 1).square().mean() + fake.square().mean())  # least squares, as in LSGAN
            loss = loss + self.config.adversarial_weight * (judged - 1).square().mean() + critic
        return loss

    def _of_labels(self, raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.arguments.get("labels_out") == "palette":
            return (raw - palette_coded(labels)).abs().mean()
        return self._label_loss(raw, labels)

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> loop.Score:
        """Dice per structure, PSNR (dB), SSIM, and third-class voxels (%): means over the held-out cases."""
        table = np.full((len(self.held_out), len(_FIGURES)), np.nan)
        for index in range(fabric.global_rank, len(self.held_out), fabric.world_size):
            image, labels = self._pair(fabric, self.held_out[index])
            table[index] = figures(image, labels, *reconstruct(fabric, autoencoder_of(network), image, labels))
        if fabric.world_size > 1:
            gathered: Any = fabric.all_gather(torch.from_numpy(np.nan_to_num(table, nan=-np.inf, posinf=np.inf)))
            table = gathered.amax(0).cpu().numpy()  # each case was judged by one rank only
            table[np.isneginf(table)] = np.nan
        there = ~np.isnan(table)
        means = np.where(there, table, 0).sum(0) / np.maximum(there.sum(0), 1)
        parts = {name: float(means[i]) for i, name in enumerate(_FIGURES) if there[:, i].any()}
        return loop.Score(float(np.mean([parts[name] for name in anatomy.NAMES if name in parts])), parts)

    def _pair(self, fabric: Fabric, case: store.PreparedCase) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = pairs.pair(case, self.run_config.grid, self.run_config.window_hu)
        return fabric.to_device(torch.from_numpy(image)[None]), fabric.to_device(torch.from_numpy(labels)[None])

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """The first held-out pair in three planes: as it is above, reconstructed below."""
        image, labels = self._pair(fabric, self.held_out[0])
        out = reconstruct(fabric, autoencoder_of(network), image, labels)
        arrays = [tensor[0, 0].cpu().numpy() for tensor in (image, labels, *out)]
        return pictures.panel(arrays[0], arrays[1], arrays[3], predicted_image=arrays[2])


def divergence(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """KL from the latent's normal distribution to the standard one, in nats per number of the latent."""
    variance = sigma.square().clamp(min=1e-12)
    return 0.5 * (mu.square() + variance - variance.log() - 1).mean()


def autoencoder_of(network: torch.nn.Module) -> JointAutoencoder:
    """The autoencoder inside what the training loop passes around (averages, adversaries)."""
    inner: Any = network
    while not isinstance(inner, JointAutoencoder):
        inner = inner.autoencoder if isinstance(inner, Adversaries) else inner.module
    return inner


def reconstruct(
    fabric: Fabric, network: JointAutoencoder, image: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (N, 1, ...) in 0..1 and labels (N, 1, ...) uint8 decoded from the latent's mean."""
    with fabric.autocast():
        out, scores = network.decode(network.encode(image, labels)[0])
    return out.float().clamp(0, 1), scores.argmax(1, keepdim=True).to(torch.uint8)


# --- figures of a reconstruction -----------------------------------------------------------------------------------


def figures(image: torch.Tensor, labels: torch.Tensor, out_image: torch.Tensor, out_labels: torch.Tensor) -> np.ndarray:
    """Of one pair (1, 1, I, J, K): Dice of the eight structures, PSNR in dB, SSIM, third-class voxels in percent.

    NaN for a structure that neither has. Images are 0..1.
    """
    from monai.metrics.regression import compute_ssim_and_cs

    names, out_names = (tensor[0, 0].cpu().numpy() for tensor in (labels, out_labels))
    error = float((image - out_image).square().mean())
    ssim, _ = compute_ssim_and_cs(out_image, image, 3, kernel_size=(11,) * 3, kernel_sigma=(1.5,) * 3)
    third = 100 * third_class_share(names, out_names)
    psnr = -10 * np.log10(max(error, 1e-10))
    return np.array([*dice_per_structure(out_names, names), psnr, float(ssim.mean()), third])


def third_class_share(labels: np.ndarray, decoded: np.ndarray) -> float:
    """The share of boundary voxels that are decoded as a class which does not meet there; 0 without boundaries.

    A boundary voxel of ``labels`` has a neighbour (across a face) of another class; the classes that meet there are its
    own and those of its neighbours.
    """
    own = np.left_shift(np.uint16(1), labels.astype(np.uint16))
    meeting = own.copy()
    for axis in range(3):
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        meeting[behind] |= own[ahead]
        meeting[ahead] |= own[behind]
    boundary = meeting != own
    third = boundary & ((meeting >> decoded.astype(np.uint16)) & 1 == 0)
    return float(third.sum() / max(boundary.sum(), 1))


# --- latents -------------------------------------------------------------------------------------------------------


class LatentStatistics(Frozen):
    """What makes latents fit for a diffusion: less ``shift``, through ``scale``, their channels vary as much as they
    matter (see :func:`spreads`). ``autoencoder`` names the weights."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    cases: int
    autoencoder: str  # SHA-256, see weights_digest


def averaged_autoencoder(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of the run's best autoencoder, by the names of :class:`JointAutoencoder`.

    Raises :class:`loop.TrainingError` when there is none.
    """
    weights = loop.averaged_weights(run / NAME / loop.BEST)
    return {name.removeprefix("autoencoder."): w for name, w in weights.items() if not name.startswith("critic.")}


def load_autoencoder(run: Path, settings: AutoencoderConfig) -> JointAutoencoder:
    """The run's best autoencoder on the CPU, in evaluation mode, without gradients. Raises as above."""
    network: Any = build_network(ARCHITECTURE, settings.arguments)
    network.load_state_dict(averaged_autoencoder(run))
    return network.eval().requires_grad_(False)


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def read_latents(run: Path) -> LatentStatistics:
    """The statistics that training the autoencoder left. Raises :class:`loop.TrainingError`."""
    path = run / NAME / LATENTS_FILE
    try:
        return LatentStatistics.model_validate_json(path.read_text())
    except OSError as error:
        raise TrainingError(f"{run} has no finished autoencoder: train it first.") from error
    except ValidationError as error:
        raise TrainingError(f"{path} is damaged: delete it, and resume training the autoencoder.") from error


def measure_latents(
    fabric: Fabric, network: JointAutoencoder, run_config: GeneratorRunConfig, cases: Sequence[store.PreparedCase]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (C,) of the latents' means over all voxels of all ``cases``, in double precision."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for case in cases:
        image, labels = pairs.pair(case, run_config.grid, run_config.window_hu)
        with torch.inference_mode(), fabric.autocast():
            mu, _ = network.encode(*(fabric.to_device(torch.from_numpy(array)[None]) for array in (image, labels)))
        values = mu[0].flatten(1).double().cpu()
        count += values.shape[1]
        total, squares = total + values.sum(1), squares + values.square().sum(1)
    mean = total / count
    return mean.numpy(), (squares / count - mean.square()).clamp(min=0).sqrt().numpy()


def channel_gains(
    fabric: Fabric, network: JointAutoencoder, run_config: GeneratorRunConfig, cases: Sequence[store.PreparedCase],
    spread: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """(C,) how much noise in one channel, as strong as the channel varies (``spread``), changes what is decoded.

    Root mean square over the image (0..1) and the nine probabilities of labels. Small noise stands for the strong one.
    """
    part = 0.25
    squares = np.zeros(len(spread))
    for case in cases[:: max(len(cases) // _GAIN_CASES, 1)]:
        image, labels = pairs.pair(case, run_config.grid, run_config.window_hu)
        with torch.inference_mode(), fabric.autocast():
            mu, _ = network.encode(*(fabric.to_device(torch.from_numpy(array)[None]) for array in (image, labels)))
            noise = mu.new_tensor(np.random.default_rng(0).standard_normal(mu.shape[2:], np.float32))
            before = _decoded(network, mu)
            for channel, sd in enumerate(spread):
                changed = mu.clone()
                changed[:, channel] += part * float(sd) * noise
                squares[channel] += float((_decoded(network, changed) - before).square().mean()) / part**2
    return np.sqrt(squares)


def _decoded(network: JointAutoencoder, z: torch.Tensor) -> torch.Tensor:
    """(N, 1 + 9, I, J, K): image and probabilities of labels."""
    image, scores = network.decode(z)
    return torch.cat([image, scores.softmax(dim=1)], dim=1).float()


def spreads(gains: np.ndarray) -> np.ndarray:
    """(C,) how large the diffusion sees channels with the ``gains``; their mean square is about 1."""
    wanted = np.maximum(gains, 1e-12) ** _GAIN_POWER
    return np.clip(wanted / np.sqrt(np.mean(wanted**2)), *_SPREADS)


def _store_latents(
    fabric: Fabric, run: Path, run_config: GeneratorRunConfig, cases: Sequence[store.PreparedCase], say: Say
) -> None:
    """Measure and write the statistics, unless those of these weights are there."""
    digest = weights_digest(averaged_autoencoder(run))
    path = run / NAME / LATENTS_FILE
    if path.is_file() and read_latents(run).autoencoder == digest:
        return
    say(f"{NAME}: measuring the latents of {len(cases)} cases.")
    network: Any = fabric.to_device(load_autoencoder(run, run_config.autoencoder))
    mean, deviation = measure_latents(fabric, network, run_config, cases)
    spread = spreads(channel_gains(fabric, network, run_config, cases, deviation))
    scale = deviation.clip(min=_LEAST_SCALE) / spread
    content = LatentStatistics(
        shift=tuple(mean.tolist()), scale=tuple(scale.tolist()), cases=len(cases), autoencoder=digest,
    )  # fmt: skip
    write_text(path, content.model_dump_json(indent=2) + "\n")


# --- the whole stage -----------------------------------------------------------------------------------------------


def train_autoencoder(
    run: Path, run_config: GeneratorRunConfig, prepared: store.Prepared, *, resume: bool, workers: int,
    start: ModelPackage | None = None, say: Say = print,
) -> loop.State:  # fmt: skip
    """Train the joint autoencoder into ``run``, from principal components or the weights of ``start``, and measure its
    latents; returns where the training ended.

    Raises TrainingError, ConfigError, PackageError.
    """
    settings = run_config.autoencoder
    _check_run(run, run_config, resume)
    train, held_out = split.split(prepared.cases, run_config.validation_part)
    fabric = Fabric(
        accelerator="auto", devices=run_config.devices, num_nodes=run_config.nodes, precision=run_config.precision
    )
    fabric.launch()
    torch.manual_seed(run_config.seed)
    network = _new_network(settings)
    if start is None:
        begin_linear(autoencoder_of(network), run_config, train)
    else:
        segmenter.take_weights(autoencoder_of(network), NAME, start)
        autoencoder_of(network).keep_linear()
    stage = AutoencoderStage(run_config, train=train, held_out=held_out)
    if fabric.is_global_zero:
        if not (run / config.CONFIG_FILE).exists():  # there may be one that knows the diffusion too
            config.write_config(run_config, run)
        _introduce(network, stage, say)
    fabric.barrier()
    end = loop.train_network(
        fabric, settings, network, stage, run / NAME, title=NAME, resume=resume, workers=workers, say=say
    )
    if fabric.is_global_zero:
        _store_latents(fabric, run, run_config, train, say)
    fabric.barrier()
    return end


def _new_network(settings: AutoencoderConfig) -> torch.nn.Module:
    network: Any = build_network(ARCHITECTURE, settings.arguments)
    return Adversaries(network) if settings.adversarial_weight > 0 else network


def begin_linear(
    network: JointAutoencoder, run_config: GeneratorRunConfig, cases: Sequence[store.PreparedCase]
) -> None:
    """Let the network's maps of blocks begin as the principal components of the training pairs' blocks."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for case in cases[:: max(len(cases) // _BLOCK_CASES, 1)]:
        image, labels = pairs.pair(case, run_config.grid, run_config.window_hu)
        blocks = network.blocks(torch.from_numpy(image)[None], torch.from_numpy(labels)[None])
        values = blocks[0].flatten(1).double()
        count, total, products = count + values.shape[1], total + values.sum(1), products + values @ values.T
    mean = total / count
    weights = torch.full_like(mean, run_config.autoencoder.colour_weight)
    weights[: LATENT_STRIDE**3] = 1.0  # the image comes first
    variances, components = torch.linalg.eigh(weights.outer(weights) * (products / count - mean.outer(mean)))
    components = components.flip(1)[:, : network.latent_channels]
    spread = variances.flip(0)[: network.latent_channels].clamp(min=_LEAST_SCALE**2).sqrt()
    analysis, synthesis = (components / spread).T * weights, components * spread / weights[:, None]
    network.begin_linear(mean.float(), analysis.float(), synthesis.float())


def _introduce(network: torch.nn.Module, stage: AutoencoderStage, say: Say) -> None:
    millions = sum(p.numel() for p in autoencoder_of(network).parameters()) / 1e6
    say(
        f"{NAME}: {millions:.1f} M weights, {len(stage.train)} cases to learn from, {len(stage.held_out)} to validate "
        f"on, {stage.config.steps} steps of {stage.config.batch} pairs of {' x '.join(map(str, stage.run_config.grid))}"
        f" voxels of {stage.run_config.spacing_mm:g} mm."
    )
    missing = pairs.missing_structures(stage.train)
    if missing:
        say(f"Warning: no case to learn from has {', '.join(missing)}: the model will not know them.")


def _check_run(run: Path, wanted: GeneratorRunConfig, resume: bool) -> None:
    """Refuse to mix a run with another one: a stored configuration must be the one asked for."""
    if not (run / config.CONFIG_FILE).exists():
        return
    check_autoencoder(read_config(run), wanted)
    if (run / NAME / loop.LAST).exists() and not resume:
        raise TrainingError(f"{run} already holds an autoencoder: go on with --resume, or choose another folder.")
