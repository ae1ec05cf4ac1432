"""The segmenter stage: trains the two networks of a segmenter package, locator and segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.overlap import dice_per_structure
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.progress import Say

from ..cases import augment, store
from ..cases.readers.folders import CaseFiles
from ..cases.split import Cases, split
from ..cases.store import tenths
from ..errors import ConfigError, TrainingError
from ..results.pictures import panel
from . import config, loop

#: Margin in mm around the labelled box that the segmenter is validated on: as the runtime pads the heart's box.
_MARGIN_MM = 20.0


class SegmentationStage:
    """Patches from prepared cases, Dice with cross-entropy, mean Dice over held-out cases."""

    measure = "Dice"

    def __init__(self, name: str, network: config.NetworkConfig, *, seed: int, train: Cases, held_out: Cases) -> None:
        from monai.losses import DiceCELoss

        self.name, self.config, self.seed = name, network, seed
        self.train, self.held_out = train, held_out[: network.validation_cases]
        # Dice over the whole batch: patches without a heart then weigh in through the cross-entropy alone, instead of
        # adding eight constant terms each.
        self._loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """``image`` (1, *patch) float32 in 0..1 and ``labels`` (1, *patch) uint8 of training patch ``n``."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, config.NETWORKS.index(self.name), n]))
        case = self.train[int(rng.integers(len(self.train)))]
        settings, spacing, patch = self.config.augment, self.config.spacing_mm, self.config.patch
        image, labels = case.image, case.labels
        centre = self._centre(case, image.shape, rng)
        matrix = augment.random_affine(rng, settings)
        warp = augment.random_warp(rng, patch, settings, spacing)
        hu, names = augment.sample_patch(image, labels, centre=centre, shape=patch, matrix=matrix, warp=warp)
        hu, names = augment.vary_intensity(hu, names, rng, settings, spacing)
        windowed = augment.gamma(augment.to_window(hu, self.config.window_hu), rng, settings)
        return {"image": windowed[None].astype(np.float32), "labels": names[None]}

    def _centre(self, case: store.PreparedCase, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """(3,) source voxels: near a random voxel of a structure drawn evenly, or anywhere in the scan."""
        sampling = self.config.sampling
        if rng.random() < sampling.anywhere:
            return rng.uniform(0.0, np.array(shape) - 1.0)
        points = case.points
        present = np.flatnonzero(points[:, 0, 0] >= 0)
        place = points[rng.choice(present), rng.integers(points.shape[1])]
        return place + rng.uniform(-sampling.jitter, sampling.jitter, 3) * self.config.patch

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._loss(network(batch["image"]).float(), batch["labels"])

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> loop.Score:
        """Dice per structure, averaged over the held-out cases that have it (or were given it by mistake: 0)."""
        table = np.full((len(self.held_out), len(anatomy.STRUCTURES)), np.nan)
        for index in range(fabric.global_rank, len(self.held_out), fabric.world_size):
            image, labels = self._held_out_arrays(self.held_out[index])
            table[index] = dice_per_structure(self._predict(fabric, network, image), labels)
        if fabric.world_size > 1:
            gathered: Any = fabric.all_gather(torch.from_numpy(np.nan_to_num(table, nan=-1.0)))
            table = gathered.amax(0).cpu().numpy()  # each case was judged by one rank only
            table[table < 0] = np.nan
        scored = ~np.isnan(table)
        means = np.where(scored, table, 0).sum(0) / np.maximum(scored.sum(0), 1)
        parts = {s.name: float(means[i]) for i, s in enumerate(anatomy.STRUCTURES) if scored[:, i].any()}
        return loop.Score(float(np.mean(list(parts.values()))), parts)

    def _held_out_arrays(self, case: store.PreparedCase) -> tuple[np.ndarray, np.ndarray]:
        """Windowed image and labels: the whole scan for the locator, the heart's padded box for the segmenter."""
        image, labels = case.image, case.labels
        if self.name == "segmenter":
            box = np.argwhere(labels)
            margin = int(np.ceil(_MARGIN_MM / self.config.spacing_mm))
            start, stop = np.maximum(box.min(0) - margin, 0), box.max(0) + 1 + margin
            inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            image, labels = image[inside], labels[inside]
        return augment.to_window(image, self.config.window_hu), np.asarray(labels)

    def _predict(self, fabric: Fabric, network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
        from monai.inferers import sliding_window_inference

        with fabric.autocast():
            logits = sliding_window_inference(
                fabric.to_device(torch.from_numpy(image)[None, None]), self.config.patch, 1, network, overlap=0.25,
                mode="gaussian", device=torch.device("cpu"),
            )  # fmt: skip
        return logits[0].argmax(0).to(torch.uint8).numpy()

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """The first held-out case in three planes: reference above, prediction below."""
        image, labels = self._held_out_arrays(self.held_out[0])
        return panel(image, labels, self._predict(fabric, network, image))


def prepare_all(
    found: Sequence[tuple[CaseFiles, Path]], preset: str, workers: int, say: Say
) -> tuple[dict[str, store.Prepared], list[tuple[str, str]]]:
    """Every case at each network's spacing, and the cases skipped. Cases usable at one spacing only are left out."""
    prepared: dict[str, store.Prepared] = {}
    skipped: dict[str, str] = {}
    for name, spacing in config.spacings(preset).items():
        say(f"Preparing {len(found)} cases at {spacing:g} mm for the {name}.")
        prepared[name] = store.prepare(found, spacing, workers=workers, progress=tenths(say))
        skipped.update(prepared[name].skipped)
    usable = {
        name: store.Prepared([case for case in part.cases if case.name not in skipped], part.skipped)
        for name, part in prepared.items()
    }
    return usable, sorted(skipped.items())


def train_segmenter(
    run: Path, run_config: config.RunConfig, prepared: dict[str, store.Prepared], networks: Sequence[str], *,
    resume: bool, workers: int, start: ModelPackage | None = None, say: Say = print,
) -> dict[str, loop.State]:  # fmt: skip
    """Train the named networks into ``run``, from random weights or those of ``start``; returns where each ended.

    Raises TrainingError, ConfigError, PackageError.
    """
    check_run(run, run_config, networks, resume)
    fabric = Fabric(
        accelerator="auto", devices=run_config.devices, num_nodes=run_config.nodes, precision=run_config.precision
    )
    fabric.launch()
    modules = {name: _first_network(run_config, name, start) for name in networks}
    if fabric.is_global_zero:
        config.write_config(run_config, run)
    fabric.barrier()
    ends = {}
    for name in networks:
        settings = run_config.network(name)
        train, held_out = split(prepared[name].cases, run_config.validation_part)
        stage = SegmentationStage(name, settings, seed=run_config.seed, train=train, held_out=held_out)
        if fabric.is_global_zero:
            millions = sum(p.numel() for p in modules[name].parameters()) / 1e6
            say(
                f"{name}: {millions:.1f} M weights, {len(train)} cases to learn from, {len(stage.held_out)} to "
                f"validate on, {settings.steps} steps of {settings.batch} patches."
            )
        ends[name] = loop.train_network(
            fabric, settings, modules[name], stage, run / name, title=name, resume=resume, workers=workers, say=say
        )
    return ends


def _first_network(run_config: config.RunConfig, name: str, start: ModelPackage | None) -> torch.nn.Module:
    """The network before its first step: random weights by the run's seed, or those of ``start``."""
    settings = run_config.network(name)
    torch.manual_seed(run_config.seed)
    network = build_network(settings.architecture, settings.arguments)
    if start is not None:
        take_weights(network, name, start)
    return network


def take_weights(network: torch.nn.Module, name: str, start: ModelPackage) -> None:
    """Give ``network`` the weights of the network called ``name`` in the package ``start``.

    Raises ConfigError where there is none, or it is another one.
    """
    there = load_networks(start)
    if name not in there:
        raise ConfigError(f"{start.manifest.name} has no {name} to start from.")
    try:
        network.load_state_dict(there[name].state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"The {name} of {start.manifest.name} is another network than the preset's: choose its preset."
        ) from error


def check_run(run: Path, wanted: config.RunConfig, networks: Sequence[str], resume: bool) -> None:
    """Refuse to mix a run with another one: a stored configuration must be the one asked for."""
    if not (run / config.CONFIG_FILE).exists():
        return
    config.check_same(config.read_config(run), wanted)
    begun = [name for name in networks if (run / name / loop.LAST).exists()]
    if begun and not resume:
        raise TrainingError(f"{run} already holds a {begun[0]}: go on with --resume, or choose another folder.")
