"""The autoencoder stage: its loss and adversary, the scores of its reconstructions, principal components as a start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

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
from ..errors import ConfigError, TrainingError
from ..results import pictures
from . import adversary, calibration, devices, loop, run_folder, segmenter
from .config import LEAST_ADVERSARY_SIDE, AutoencoderConfig, GeneratorModel, RunConfig, stream
from .package_part import PackagePart, network_part
from .sharpness import DECIBEL, mean_gap
from .state import Score, State

NAME = "autoencoder"
ARCHITECTURE = "joint_autoencoder"
#: Arguments of the architecture that matter in training only.
_TRAINING_ONLY = {"checkpointed"}
#: Principal components are computed from the blocks of about this many cases.
_BLOCK_CASES = 64
_SCORES = (*anatomy.NAMES, "PSNR", "SSIM", "gap_dB", "third_percent")


class AutoencoderStage:
    """Reconstruct pairs around the heart; the score is the mean Dice of the decoded labels of held-out cases.

    With an adversary, it is the mean of that and of SSIM, less a hundredth of the mean gap in dB between the spectra of
    the decoded and of the true image: what the adversary brings would otherwise not count. The gap alone would prefer
    the blocks of the linear maps, whose edges are as strong as true detail.
    """

    def __init__(
        self, run_config: RunConfig, *, train: Sequence[store.PreparedCase], held_out: Sequence[store.PreparedCase]
    ) -> None:
        from monai.losses import DiceCELoss

        self.seed, self.model, self.config = run_config.seed, run_config.generator, run_config.generator.autoencoder
        self.measure = score_name(self.config)
        self.examples_per_step = self.config.batch * run_config.devices * run_config.nodes
        self.train, self.held_out = train, held_out[: self.config.validation_cases]
        self._label_loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """Return ``image`` and ``labels`` of training pair ``n`` as :func:`pairs.pair` does, and its ``noise``.

        All three of a random box, if patches are trained. ``adversary_share`` (0..1): how much the adversary counts;
        ``shift`` (3,) of what is judged.
        """
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, stream(NAME), n]))
        case = self.train[int(rng.integers(len(self.train)))]
        model = self.model
        image, labels = pairs.pair(case, model.grid, model.window_hu, rng=rng, settings=self.config.augment)
        if self.config.patch:
            box = _random_box(rng, model.grid, model.training_box)
            image, labels = image[box], labels[box]
        latent = (model.latent_shape[0], *(side // LATENT_STRIDE for side in model.training_box))
        example: dict[str, Any] = {
            "image": image, "labels": labels, "noise": rng.standard_normal(latent, dtype=np.float32),
        }  # fmt: skip
        if self.config.adversary_weight:
            example["adversary_share"] = adversary.share(n / self.examples_per_step, self.config)
            example["shift"] = adversary.random_shift(rng)
        return example

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum of the losses of :class:`AutoencoderConfig`, and that of the adversary, if there is one."""
        true, labels, config = batch["image"], batch["labels"], self.config
        inputs = (true, labels, batch["noise"])
        with_adversary = config.adversary_weight > 0
        if with_adversary:
            outputs = network(inputs, adversary.view(true, palette_coded(labels)), batch["shift"][0])
        else:
            outputs = network(*inputs)
        image, raw, mu, sigma, *judged = (tensor.float() for tensor in outputs)
        image_loss = (image - true).abs().mean()
        loss = image_loss + config.label_weight * self._loss_of_labels(raw, labels)
        loss = loss + config.kl_weight * divergence(mu, sigma)
        if not with_adversary:
            return loss
        maker_loss, differences, adversary_loss = judged
        passing = (batch["adversary_share"] * (maker_loss + config.feature_weight * differences)).mean()
        return loss + config.adversary_weight * adversary.balance(image_loss, passing, image) + adversary_loss

    def _loss_of_labels(self, raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.arguments.get("labels_out") == "palette":
            return (raw - palette_coded(labels)).abs().mean()
        return self._label_loss(raw, labels)

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> Score:
        """Return the means over held-out cases: Dice, PSNR (dB), SSIM, spectra's gap (dB), third-class voxels (%)."""
        table = np.full((len(self.held_out), len(_SCORES)), np.nan)
        for index in range(fabric.global_rank, len(self.held_out), fabric.world_size):
            table[index] = self._scores(fabric, autoencoder_of(network), self.held_out[index])
        parts = _means(devices.merge_ranks(fabric, table))
        dice = _dice(parts)
        if not self.config.adversary_weight:
            return Score(dice, parts)
        return Score((dice + parts["SSIM"]) / 2 - DECIBEL * parts["gap_dB"], {"Dice": dice, **parts})

    def figures(self, fabric: Fabric, network: JointAutoencoder) -> str:
        """Return the figures of a network on held-out cases in words, computed on this rank alone."""
        with torch.inference_mode():
            parts = _means(np.stack([self._scores(fabric, network, case) for case in self.held_out]))
        return (
            f"Dice {_dice(parts):.3f}, PSNR {parts['PSNR']:.1f} dB, SSIM {parts['SSIM']:.3f}, "
            f"spectrum off by {parts['gap_dB']:.1f} dB"
        )

    def _scores(self, fabric: Fabric, network: JointAutoencoder, case: store.PreparedCase) -> np.ndarray:
        image, labels = self._pair(fabric, case)
        out, decoded = reconstruct(fabric, network, image, labels)
        if not out.isfinite().all():
            raise TrainingError("The autoencoder computes values that are not numbers: try a lower learning rate.")
        return scores_of_pair(image, labels, out, decoded)

    def _pair(self, fabric: Fabric, case: store.PreparedCase) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = pairs.pair(case, self.model.grid, self.model.window_hu)
        return fabric.to_device(torch.from_numpy(image)[None]), fabric.to_device(torch.from_numpy(labels)[None])

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """Return the first held-out pair in three planes: the original above, its reconstruction below."""
        image, labels = self._pair(fabric, self.held_out[0])
        out = reconstruct(fabric, autoencoder_of(network), image, labels)
        arrays = [tensor[0, 0].cpu().numpy() for tensor in (image, labels, *out)]
        return pictures.panel(arrays[0], arrays[1], arrays[3], predicted_image=arrays[2])


def score_name(settings: AutoencoderConfig) -> str:
    """Return the name of the score."""
    return "score" if settings.adversary_weight else "Dice"


def _random_box(rng: np.random.Generator, grid: Sequence[int], sides: Sequence[int]) -> tuple[slice, ...]:
    """Return the index of a random box with these sides in an array (1, *grid)."""
    low = rng.integers(np.subtract(grid, sides) + 1)
    return (slice(None), *(slice(int(start), int(start + side)) for start, side in zip(low, sides, strict=True)))


def _means(table: np.ndarray) -> dict[str, float]:
    """Return the means of a table (cases, scores), without those that no case has."""
    present = ~np.isnan(table)
    means = np.where(present, table, 0).sum(0) / np.maximum(present.sum(0), 1)
    return {name: float(means[i]) for i, name in enumerate(_SCORES) if present[:, i].any()}


def _dice(parts: dict[str, float]) -> float:
    return float(np.mean([parts[name] for name in anatomy.NAMES if name in parts]))


def divergence(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence of the posterior from the standard normal distribution, in nats per latent number."""
    variance = sigma.square().clamp(min=1e-12)
    return 0.5 * (mu.square() + variance - variance.log() - 1).mean()


def autoencoder_of(network: torch.nn.Module) -> JointAutoencoder:
    """Return the autoencoder inside the contest, and the averaging and parallel modules of the training loop."""
    contest = adversary.contest_in(network)
    inner: Any = network if contest is None else contest.maker
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
    """Return Dice of the eight structures, PSNR (dB), SSIM, spectra's gap (dB), third-class voxels (%) of a pair.

    All are (1, 1, I, J, K), images 0..1. NaN for a structure that neither label map has.
    """
    from monai.metrics.regression import compute_ssim_and_cs

    truth, decoded = (tensor[0, 0].cpu().numpy() for tensor in (labels, out_labels))
    error = float((image - out_image).square().mean())
    ssim, _ = compute_ssim_and_cs(out_image, image, 3, kernel_size=(11,) * 3, kernel_sigma=(1.5,) * 3)
    third = 100 * third_class_share(truth, decoded)
    psnr = -10 * np.log10(max(error, 1e-10))
    gap = mean_gap(*(tensor[0, 0].cpu().numpy() for tensor in (image, out_image)))
    return np.array([*dice_per_structure(decoded, truth), psnr, float(ssim.mean()), gap, third])


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

    Those of its adversary are not among them. Raises TrainingError.
    """
    return adversary.maker_weights(run_folder.averaged_weights(run_folder.final_checkpoint(run, NAME)))


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

    It starts from the weights of the package ``start``, or as :func:`new_autoencoder` says.
    Raises TrainingError, ConfigError, PackageError.
    """
    settings = run_config.generator.autoencoder
    _check_sides(run_config.generator)
    if (run / run_folder.CONFIG_FILE).exists():  # its diffusion may have begun already
        stored = run_folder.read_config(run)
        _refuse_new_autoencoder(run, stored, settings)
        run_config = run_config.with_diffusion(stored.generator.diffusion, stored.data.diffusion)
    run_folder.check_run(run, run_config, [NAME], resume=resume)
    train, held_out = split.sides(prepared, run_config.validation_part)
    fabric = devices.launch(run_config.devices, run_config.nodes, run_config.precision, device, say)
    torch.manual_seed(run_config.seed)
    network = new_autoencoder(run_config.generator, train, start)
    stage = AutoencoderStage(run_config, train=train, held_out=held_out)
    if fabric.is_global_zero:
        run_folder.write_config(run_config, run)
        _introduce(network, stage, say)
    fabric.barrier()
    contest = in_training(network, settings)
    end = loop.train_network(
        fabric, settings, contest, stage, run / NAME, title=NAME, resume=resume, workers=workers, say=say
    )
    if fabric.is_global_zero:
        _measure(fabric, run, stage, say)
    fabric.barrier()
    return end


def new_autoencoder(
    model: GeneratorModel, cases: Sequence[store.PreparedCase], start: ModelPackage | None = None
) -> JointAutoencoder:
    """Return the autoencoder before training, on the CPU.

    Its weights are those of the package ``start``; otherwise its linear maps, if it has them, are the principal
    components of ``cases``, and all else is random. Raises ConfigError, PackageError.
    """
    network: Any = build_network(ARCHITECTURE, model.autoencoder.arguments)
    if start is not None:
        segmenter.take_weights(network, NAME, start)
    elif network.linear_maps:
        initialise_linear(network, model, cases)
    if not model.autoencoder.train_linear:
        network.freeze_linear()
    return cast("JointAutoencoder", network)


def in_training(network: JointAutoencoder, settings: AutoencoderConfig) -> torch.nn.Module:
    """Return what is trained: the autoencoder, with its adversary if it has one."""
    if not settings.adversary_weight:
        return network
    return adversary.Contest(network, JointAutoencoder.forward, settings.adversary_channels)


def _check_sides(model: GeneratorModel) -> None:
    if model.autoencoder.adversary_weight and min(model.training_box) < LEAST_ADVERSARY_SIDE:
        raise ConfigError(f"An adversary needs examples of at least {LEAST_ADVERSARY_SIDE} voxels along each axis.")


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


def _measure(fabric: Fabric, run: Path, stage: AutoencoderStage, say: Say) -> None:
    """Measure and write the latent statistics, unless those of these weights are there; say what was learned."""
    path = run / calibration.LATENTS_FILE
    digest = run_folder.weights_digest(best_weights(run))
    if path.is_file() and calibration.read_latent_statistics(run).autoencoder == digest:
        return
    model, cases = stage.model, stage.train
    network: Any = fabric.to_device(load_autoencoder(run, model.autoencoder))
    if network.linear_maps:
        linear: Any = fabric.to_device(new_autoencoder(model, cases).eval())
        say(f"{NAME}: {stage.figures(fabric, network)}; its linear code alone: {stage.figures(fabric, linear)}.")
    say(f"{NAME}: measuring the latents of {plural(len(cases), 'case')}.")
    calibration.write(calibration.latent_statistics(fabric, network, model, cases, digest), path)


def _introduce(network: torch.nn.Module, stage: AutoencoderStage, say: Say) -> None:
    kind = "patches" if stage.config.patch else "pairs"
    items = f"{kind} of {' x '.join(map(str, stage.model.training_box))} voxels of {stage.model.spacing_mm:g} mm"
    say(loop.describe(NAME, network, stage.config, len(stage.train), len(stage.held_out), items))
    missing = pairs.missing_structures(stage.train)
    if missing:
        say(f"Warning: no training case has {', '.join(missing)}: the model cannot learn them.")
