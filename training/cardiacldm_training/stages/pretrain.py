"""The pre-training stage: masked image modelling, on images alone.

Parts of an image are hidden, and the network learns to fill them in (Hu et al. 2024; masked autoencoders). Its encoder
is then kept for a segmenter, see :mod:`transfer`. Images need no labels: generated ones, or a hospital's own scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric

from CardiacLDMLib.networks.build import build_reconstructor
from CardiacLDMLib.progress import Say
from CardiacLDMLib.segmentation.scan import to_window

from ..cases import augment, store
from ..cases.split import Cases, sides
from ..results.pictures import row_of_slices
from . import devices, loop, run_folder
from .config import PretrainConfig, RunConfig, stream
from .masking import hidden_share
from .state import Score, State

NAME = "pretrain"
#: Value of hidden voxels in the window's range 0..1: air, as outside the scan.
HIDDEN = 0.0
#: Masks and patches on which each held-out image is scored; they are the same at every validation.
_VIEWS = 2


class PretrainStage:
    """Fill in hidden voxels; the loss is their squared error, the score its negative on held-out images."""

    measure = "score"

    def __init__(self, config: PretrainConfig, *, seed: int, train: Cases, held_out: Cases) -> None:
        self.config, self.seed = config, seed
        self.train, self.held_out = train, held_out[: config.validation_cases]

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """Return ``image`` with hidden voxels, ``target`` (1, *patch) float32 in 0..1, ``mask`` (1, *patch) bool.

        Only the geometry is varied: the intensities of a target stay those of its image.
        """
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, stream(NAME), n]))
        case = self.train[int(rng.integers(len(self.train)))]
        settings, patch = self.config.augment, self.config.patch
        matrix = augment.random_affine(rng, settings)
        warp = augment.random_warp(rng, patch, settings, self.config.spacing_mm)
        target = self._patch(case, self._centre(case, rng), matrix, warp)
        return _hide(target, self.config.mask.draw(rng, patch))

    def _centre(self, case: store.PreparedCase, rng: np.random.Generator) -> np.ndarray:
        """Return (3,) source voxels: near a random voxel of the heart if the case has labels, or anywhere."""
        points = case.points
        present = np.flatnonzero(points[:, 0, 0] >= 0)
        if not len(present) or rng.random() < self.config.sampling.anywhere:
            return rng.uniform(0.0, np.array(case.image.shape) - 1.0)
        place = points[rng.choice(present), rng.integers(points.shape[1])]
        jitter = self.config.sampling.jitter
        return place + rng.uniform(-jitter, jitter, 3) * self.config.patch

    def _patch(
        self, case: store.PreparedCase, centre: np.ndarray, matrix: np.ndarray, warp: np.ndarray | None = None
    ) -> np.ndarray:
        hu, _ = augment.sample_patch(
            case.image, case.labels, centre=centre, shape=self.config.patch, matrix=matrix, warp=warp
        )
        return to_window(hu, self.config.window_hu)

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean squared error: over hidden voxels, or over all for the paper's mask."""
        return self._error(network(batch["image"]).float(), batch["target"], batch["mask"])

    def _error(self, image: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        square = (image - target).square()
        if not self.config.mask.hidden_only:
            return square.mean()
        return (square * mask).sum() / mask.sum().clamp(min=1)

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> Score:
        """Return the negative mean squared error over held-out images, and that of hidden voxels alone."""
        table = np.full((len(self.held_out), 2), np.nan)
        for index in range(fabric.global_rank, len(self.held_out), fabric.world_size):
            errors = [self._errors(fabric, network, index, view) for view in range(_VIEWS)]
            table[index] = np.mean(errors, axis=0)
        error, hidden = devices.merge_ranks(fabric, table).mean(axis=0)
        return Score(-float(error), {"error": float(error), "hidden": float(hidden)})

    def _errors(self, fabric: Fabric, network: torch.nn.Module, index: int, view: int) -> tuple[float, float]:
        example = {name: fabric.to_device(torch.from_numpy(a)[None]) for name, a in self.view(index, view).items()}
        with fabric.autocast():
            image = network(example["image"]).float()
        square, mask = (image - example["target"]).square(), example["mask"]
        error = self._error(image, example["target"], mask)
        return float(error), float((square * mask).sum() / mask.sum().clamp(min=1))

    def view(self, index: int, view: int) -> dict[str, np.ndarray]:
        """Return one of the fixed views of a held-out image, like :meth:`example` but without augmentation."""
        rng = np.random.default_rng(np.random.SeedSequence([stream(NAME), index, view]))
        case = self.held_out[index]
        target = self._patch(case, self._centre(case, rng), np.eye(3))
        mask = self.config.mask.draw(rng, self.config.patch)
        while not mask.any():  # the paper leaves some images whole; those would say nothing
            mask = self.config.mask.draw(rng, self.config.patch)
        return _hide(target, mask)

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """Return a held-out image in three planes, three times: with hidden voxels, filled in, and as it is."""
        example = self.view(0, 0)
        with fabric.autocast():
            filled = network(fabric.to_device(torch.from_numpy(example["image"])[None])).float()
        image = np.where(example["mask"][0], filled[0, 0].cpu().numpy(), example["target"][0])
        rows = [row_of_slices(array) for array in (example["image"][0], image, example["target"][0])]
        return np.concatenate(rows, axis=0)


def _hide(target: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    image = np.where(mask, np.float32(HIDDEN), target)
    return {"image": image[None].astype(np.float32), "target": target[None].astype(np.float32), "mask": mask[None]}


# --- the encoder for a segmenter -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """The network of a pre-training, of which a segmenter keeps the encoder."""

    config: PretrainConfig
    weights: run_folder.Weights

    @property
    def record(self) -> str:
        """How a segmenter's configuration and its package name it: kind of mask and SHA-256 of all weights."""
        return f"{self.config.mask.kind} {run_folder.weights_digest(self.weights)}"


def read_encoder(run: Path) -> Encoder:
    """Return the best network of a pre-training. Raises ConfigError for another run, TrainingError without weights."""
    config = run_folder.read_config(run).pretraining.network
    return Encoder(config, run_folder.averaged_weights(run / NAME / run_folder.BEST))


# --- the whole stage -----------------------------------------------------------------------------------------------


def train_pretraining(
    run: Path, run_config: RunConfig, prepared: store.Prepared, *, resume: bool, workers: int, device: str = "auto",
    say: Say = print,
) -> State:  # fmt: skip
    """Pre-train a network on the images of ``prepared`` into ``run``; return where training ended.

    Raises TrainingError, ConfigError.
    """
    settings = run_config.pretraining.network
    run_folder.check_run(run, run_config, [NAME], resume=resume)
    fabric = devices.launch(run_config.devices, run_config.nodes, run_config.precision, device, say)
    train, held_out = sides(prepared, run_config.validation_part)
    torch.manual_seed(run_config.seed)
    network = build_reconstructor(settings.architecture, settings.arguments)
    stage = PretrainStage(settings, seed=run_config.seed, train=train, held_out=held_out)
    if fabric.is_global_zero:
        run_folder.write_config(run_config, run)
        say(loop.describe(NAME, network, settings, len(train), len(stage.held_out), "patches"))
        say(f"{NAME}: the mask hides {hidden_share(settings.mask, settings.patch):.1%} of a patch.")
    fabric.barrier()
    return loop.train_network(
        fabric, settings, network, stage, run / NAME, title=NAME, resume=resume, workers=workers, say=say
    )
