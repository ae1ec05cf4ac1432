"""The autoencoder stage: its loss, the scores of its reconstructions, and its principal components as a start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.labels import dice_per_structure
from CardiacLDMLib.networks.architectures import LATENT_STRIDE
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder, palette_coded
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ..cases import pairs, split, store
from ..errors import TrainingError
from ..results import pictures
from . import calibration, devices, loop, run_folder, segmenter
from .config import AutoencoderConfig, GeneratorModel, RunConfig, stream
from .package_part import PackagePart, network_part
from .state import Score, State

NAME = "autoencoder"
ARCHITECTURE = "joint_autoencoder"
#: Arguments of the architecture that matter in training only.
_TRAINING_ONLY = {"checkpointed"}
#: Principal components are computed from the blocks of about this many cases.
_BLOCK_CASES = 64
_SCORES = (*anatomy.NAMES, "PSNR", "SSIM", "third_percent")


class AutoencoderStage:
    """Reconstruct pairs around the heart; the score is the mean Dice of the decoded labels of held-out cases."""

    measure = "Dice"

    def __init__(
        self, run_config: RunConfig, *, train: Sequence[store.PreparedCase], held_out: Sequence[store.PreparedCase]
    ) -> None:
        from monai.losses import DiceCELoss

        self.seed, self.model, self.config = run_config.seed, run_config.generator, run_config.generator.autoencoder
        self.train, self.held_out = train, held_out[: self.config.validation_cases]
        self._label_loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """Return ``image`` and ``labels`` of training pair ``n`` as :func:`pairs.pair` does, and its ``noise``."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, stream(NAME), n]))
        case = self.train[int(rng.integers(len(self.train)))]
        model = self.model
        image, labels = pairs.pair(case, model.grid, model.window_hu, rng=rng, settings=self.config.augment)
        noise = rng.standard_normal(model.latent_shape, dtype=np.float32)
        return {"image": image, "labels": labels, "noise": noise}

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum of L1 of the image, cross-entropy and Dice of the labels, and KL."""
        outputs = network(batch["image"], batch["labels"], batch["noise"])
        image, raw, mu, sigma = (tensor.float() for tensor in outputs)
        label_loss = self._loss_of_labels(raw, batch["labels"])
        loss = (image - batch["image"]).abs().mean() + self.config.label_weight * label_loss
        return loss + self.config.kl_weight * divergence(mu, sigma)

    def _loss_of_labels(self, raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.arguments.get("labels_out") == "palette":
            return (raw - palette_coded(labels)).abs().mean()
        return self._label_loss(raw, labels)

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> Score:
        """Return the means over held-out cases: Dice per structure, PSNR (dB), SSIM, third-class voxels (%)."""
        table = np.full((len(self.held_out), len(_SCORES)), np.nan)
        for index in range(fabric.global_rank, len(self.held_out), fabric.world_size):
            image, labels = self._pair(fabric, self.held_out[index])
            table[index] = scores_of_pair(image, labels, *reconstruct(fabric, autoencoder_of(network), image, labels))
        table = devices.merge_ranks(fabric, table)
        present = ~np.isnan(table)
        means = np.where(present, table, 0).sum(0) / np.maximum(present.sum(0), 1)
        parts = {name: float(means[i]) for i, name in enumerate(_SCORES) if present[:, i].any()}
        return Score(float(np.mean([parts[name] for name in anatomy.NAMES if name in parts])), parts)

    def _pair(self, fabric: Fabric, case: store.PreparedCase) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = pairs.pair(case, self.model.grid, self.model.window_hu)
        return fabric.to_device(torch.from_numpy(image)[None]), fabric.to_device(torch.from_numpy(labels)[None])

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """Return the first held-out pair in three planes: the original above, its reconstruction below."""
        image, labels = self._pair(fabric, self.held_out[0])
        out = reconstruct(fabric, autoencoder_of(network), image, labels)
        arrays = [tensor[0, 0].cpu().numpy() for tensor in (image, labels, *out)]
        return pictures.panel(arrays[0], arrays[1], arrays[3], predicted_image=arrays[2])


def divergence(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence of the posterior from the standard normal distribution, in nats per latent number."""
    variance = sigma.square().clamp(min=1e-12)
    return 0.5 * (mu.square() + variance - variance.log() - 1).mean()


def autoencoder_of(network: torch.nn.Module) -> JointAutoencoder:
    """Return the autoencoder inside the averaging and parallel modules of the training loop."""
    inner: Any = network
    while not isinstance(inner, JointAutoencoder):
        inner = inner.module
    return inner


def reconstruct(
    fabric: Fabric, network: JointAutoencoder, image: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return image (N, 1, ...) in 0..1 and labels (N, 1, ...) uint8 decoded from the posterior mean."""
    with fabric.autocast():
        out, scores = network.decode(network.encode(image, labels)[0])
    return out.float().clamp(0, 1), scores.argmax(1, keepdim=True).to(torch.uint8)


# --- scores of a reconstruction ------------------------------------------------------------------------------------


def scores_of_pair(
    image: torch.Tensor, labels: torch.Tensor, out_image: torch.Tensor, out_labels: torch.Tensor
) -> np.ndarray:
    """Return Dice of the eight structures, PSNR in dB, SSIM, and third-class voxels in % of a pair (1, 1, I, J, K).

    Images are 0..1. NaN for a structure that neither label map has.
    """
    from monai.metrics.regression import compute_ssim_and_cs

    truth, decoded = (tensor[0, 0].cpu().numpy() for tensor in (labels, out_labels))
    error = float((image - out_image).square().mean())
    ssim, _ = compute_ssim_and_cs(out_image, image, 3, kernel_size=(11,) * 3, kernel_sigma=(1.5,) * 3)
    third = 100 * third_class_share(truth, decoded)
    psnr = -10 * np.log10(max(error, 1e-10))
    return np.array([*dice_per_structure(decoded, truth), psnr, float(ssim.mean()), third])


def third_class_share(labels: np.ndarray, decoded: np.ndarray) -> float:
    """Return the share of boundary voxels that are decoded as a class absent from their neighbourhood.

    A boundary voxel of ``labels`` has a neighbour across a face of another class; its neighbourhood is the voxel itself
    and those neighbours. 0 for labels without boundaries.
    """
    own = np.left_shift(np.uint16(1), labels.astype(np.uint16))
    classes = own.copy()  # a bit for each class of the neighbourhood
    for axis in range(3):
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        classes[behind] |= own[ahead]
        classes[ahead] |= own[behind]
    boundary = classes != own
    third = boundary & ((classes >> decoded.astype(np.uint16)) & 1 == 0)
    return float(third.sum() / max(boundary.sum(), 1))


# --- weights of a run ----------------------------------------------------------------------------------------------


def best_weights(run: Path) -> run_folder.Weights:
    """Return the averaged weights of the best autoencoder, or those that the run took from a package.

    Raises TrainingError.
    """
    return run_folder.averaged_weights(run_folder.final_checkpoint(run, NAME))


def load_autoencoder(run: Path, settings: AutoencoderConfig) -> JointAutoencoder:
    """Load the run's best autoencoder on the CPU, in evaluation mode, without gradients. Raises TrainingError."""
    network: Any = build_network(ARCHITECTURE, settings.arguments)
    network.load_state_dict(best_weights(run))
    return network.eval().requires_grad_(False)


def package_part(run: Path, run_config: RunConfig) -> PackagePart:
    """Return the autoencoder's part of a package. Raises TrainingError, ValidationError."""
    model, statistics = run_config.generator, calibration.read_latent_statistics(run)
    arguments = {name: v for name, v in model.autoencoder.arguments.items() if name not in _TRAINING_ONLY}
    return network_part(
        run, NAME, best_weights(run), architecture=ARCHITECTURE, arguments=arguments, patch=model.grid,
        spacing_mm=model.spacing_mm, window_hu=model.window_hu,
        generator={"latent_shift": statistics.shift, "latent_scale": statistics.scale},
    )  # fmt: skip


# --- the whole stage -----------------------------------------------------------------------------------------------


def train_autoencoder(
    run: Path, run_config: RunConfig, prepared: store.Prepared, *, resume: bool, workers: int, device: str = "auto",
    start: ModelPackage | None = None, say: Say = print,
) -> State:  # fmt: skip
    """Train the joint autoencoder into ``run`` and measure its latent statistics; return where training ended.

    It starts from the weights of the package ``start``; otherwise its linear maps, if it has them, from principal
    components, and all else from random weights.
    Raises TrainingError, ConfigError, PackageError.
    """
    settings = run_config.generator.autoencoder
    if (run / run_folder.CONFIG_FILE).exists():  # its diffusion may have begun already
        stored = run_folder.read_config(run)
        _refuse_new_autoencoder(run, stored, settings)
        run_config = run_config.with_diffusion(stored.generator.diffusion, stored.data.diffusion)
    run_folder.check_run(run, run_config, [NAME], resume=resume)
    train, held_out = split.sides(prepared, run_config.validation_part)
    fabric = devices.launch(run_config.devices, run_config.nodes, run_config.precision, device, say)
    torch.manual_seed(run_config.seed)
    network: Any = build_network(ARCHITECTURE, settings.arguments)
    if start is not None:
        segmenter.take_weights(network, NAME, start)
        network.freeze_linear()
    elif network.linear_maps:
        initialise_linear(network, run_config.generator, train)
    stage = AutoencoderStage(run_config, train=train, held_out=held_out)
    if fabric.is_global_zero:
        run_folder.write_config(run_config, run)
        _introduce(network, stage, say)
    fabric.barrier()
    end = loop.train_network(
        fabric, settings, network, stage, run / NAME, title=NAME, resume=resume, workers=workers, say=say
    )
    if fabric.is_global_zero:
        _calibrate(fabric, run, run_config, train, say)
    fabric.barrier()
    return end


def _refuse_new_autoencoder(run: Path, stored: RunConfig, settings: AutoencoderConfig) -> None:
    """Refuse more steps once the diffusion has begun: it is trained on the latents of this very autoencoder."""
    longer = stored.model.kind == "generator" and settings.steps > stored.generator.autoencoder.steps
    if longer and run_folder.has_begun(run, "diffusion"):
        raise TrainingError(
            f"The diffusion of {run} needs its autoencoder as it is: train a longer one in another folder."
        )


def initialise_linear(network: JointAutoencoder, model: GeneratorModel, cases: Sequence[store.PreparedCase]) -> None:
    """Set the linear maps of blocks to the principal components of the training pairs' blocks."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for case in cases[:: max(len(cases) // _BLOCK_CASES, 1)]:
        image, labels = pairs.pair(case, model.grid, model.window_hu)
        blocks = network.blocks(torch.from_numpy(image)[None], torch.from_numpy(labels)[None])
        values = blocks[0].flatten(1).double()
        count, total, products = count + values.shape[1], total + values.sum(1), products + values @ values.T
    mean = total / count
    weights = torch.full_like(mean, model.autoencoder.colour_weight)
    weights[: LATENT_STRIDE**3] = 1.0  # the image comes first
    variances, components = torch.linalg.eigh(weights.outer(weights) * (products / count - mean.outer(mean)))
    components = components.flip(1)[:, : network.latent_channels]
    spread = variances.flip(0)[: network.latent_channels].clamp(min=calibration.LEAST_SCALE**2).sqrt()
    analysis, synthesis = (components / spread).T * weights, components * spread / weights[:, None]
    network.initialise_linear(mean.float(), analysis.float(), synthesis.float())


def _calibrate(fabric: Fabric, run: Path, run_config: RunConfig, cases: Sequence[store.PreparedCase], say: Say) -> None:
    """Measure and write the latent statistics, unless those of these weights are there."""
    path = run / calibration.LATENTS_FILE
    digest = run_folder.weights_digest(best_weights(run))
    if path.is_file() and calibration.read_latent_statistics(run).autoencoder == digest:
        return
    say(f"{NAME}: measuring the latents of {plural(len(cases), 'case')}.")
    model = run_config.generator
    network: Any = fabric.to_device(load_autoencoder(run, model.autoencoder))
    calibration.write(calibration.latent_statistics(fabric, network, model, cases, digest), path)


def _introduce(network: torch.nn.Module, stage: AutoencoderStage, say: Say) -> None:
    items = f"pairs of {' x '.join(map(str, stage.model.grid))} voxels of {stage.model.spacing_mm:g} mm"
    say(loop.describe(NAME, network, stage.config, len(stage.train), len(stage.held_out), items))
    missing = pairs.missing_structures(stage.train)
    if missing:
        say(f"Warning: no training case has {', '.join(missing)}: the model cannot learn them.")
