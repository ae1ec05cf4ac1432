"""The segmenter stage: train the two networks of a segmenter package, locator and segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.labels import dice_per_structure
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.progress import Say
from CardiacLDMLib.segmentation.scan import to_window

from ..cases import augment, store
from ..cases.mixture import Group, Mixture
from ..cases.split import Cases, sides
from ..cases.unknown import comparable, fitting_classes
from ..errors import ConfigError
from ..results.pictures import panel
from . import devices, loop, run_folder, transfer
from .config import SEGMENTER_NETWORKS, NetworkConfig, RunConfig, stream
from .package_part import PackagePart, network_part
from .partial_loss import partial_loss
from .pretrain import Encoder
from .state import Score, State

#: Margin in mm around the labelled box that the segmenter is validated on: as the runtime pads the heart's box.
_MARGIN_MM = 20.0


class SegmentationStage:
    """Label patches; the loss is Dice with cross-entropy, the score the mean Dice of held-out cases."""

    measure = "Dice"

    def __init__(
        self, name: str, network: NetworkConfig, *, seed: int, train: Cases | Mixture, held_out: Cases
    ) -> None:
        from monai.losses import DiceCELoss

        self.name, self.config, self.seed = name, network, seed
        self.train = train if isinstance(train, Mixture) else Mixture([Group("cases", train)])
        self.held_out = held_out[: network.validation_cases]
        # Dice over the whole batch: otherwise each patch without a heart would add eight constant terms.
        self._loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        self._complete = all(case.is_complete for group in self.train.groups for case in group.cases)

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """Return ``image`` (1, *patch) float32 in 0..1 and ``labels`` (1, *patch) uint8 of training patch ``n``.

        ``fitting``: what its labels may stand for (see :func:`fitting_classes`), if any case leaves something unknown.
        """
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, stream(self.name), n]))
        case = self.train.draw(rng, self.seed, stream(self.name), n)
        settings, spacing, patch = self.config.augment, self.config.spacing_mm, self.config.patch
        image, labels = case.image, case.labels
        centre = self._centre(case, rng)
        matrix = augment.random_affine(rng, settings)
        warp = augment.random_warp(rng, patch, settings, spacing)
        hu, names = augment.sample_patch(image, labels, centre=centre, shape=patch, matrix=matrix, warp=warp)
        hu, names = augment.vary_intensity(hu, names, rng, settings, spacing)
        windowed = augment.gamma(to_window(hu, self.config.window_hu), rng, settings)
        example = {"image": windowed[None].astype(np.float32), "labels": names[None]}
        return example if self._complete else {**example, "fitting": fitting_classes(case.unknown)}

    def _centre(self, case: store.PreparedCase, rng: np.random.Generator) -> np.ndarray:
        """Return (3,) source voxels: near a random voxel of a random structure, or anywhere in the scan."""
        sampling = self.config.sampling
        points = case.points
        present = np.flatnonzero(points[:, 0, 0] >= 0)
        if rng.random() < sampling.anywhere or not len(present):  # none may be left at this spacing
            return rng.uniform(0.0, np.array(case.image.shape) - 1.0)
        place = points[rng.choice(present), rng.integers(points.shape[1])]
        return place + rng.uniform(-sampling.jitter, sampling.jitter, 3) * self.config.patch

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum of Dice loss and cross-entropy; what is unknown has no part in it."""
        logits = network(batch["image"]).float()
        if "fitting" in batch:
            return partial_loss(logits, batch["labels"], batch["fitting"])
        return self._loss(logits, batch["labels"])

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> Score:
        """Return the mean Dice of each structure over the held-out cases where ground truth or prediction has it."""
        table = np.full((len(self.held_out), len(anatomy.STRUCTURES)), np.nan)
        for index in range(fabric.global_rank, len(self.held_out), fabric.world_size):
            table[index] = dice_per_structure(*self.predict_case(fabric, network, self.held_out[index]))
        table = devices.merge_ranks(fabric, table)
        scored = ~np.isnan(table)
        means = np.where(scored, table, 0).sum(0) / np.maximum(scored.sum(0), 1)
        parts = {s.name: float(means[i]) for i, s in enumerate(anatomy.STRUCTURES) if scored[:, i].any()}
        return Score(float(np.mean(list(parts.values()))) if parts else 0.0, parts)

    def predict_case(
        self, fabric: Fabric, network: torch.nn.Module, case: store.PreparedCase
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the network's labels and those of the case, (I, J, K) uint8: see :meth:`_held_out_arrays`.

        Neither has what is unknown in the case.
        """
        image, labels = self._held_out_arrays(case)
        return comparable(self._predict(fabric, network, image), labels, case.unknown)

    def _held_out_arrays(self, case: store.PreparedCase) -> tuple[np.ndarray, np.ndarray]:
        """Return windowed image and labels: the whole scan for the locator, the heart's box for the segmenter."""
        image, labels = case.image, case.labels
        box = np.argwhere((labels > 0) & (labels < anatomy.NUM_CLASSES))
        if self.name == "segmenter" and len(box):
            margin = int(np.ceil(_MARGIN_MM / self.config.spacing_mm))
            start, stop = np.maximum(box.min(0) - margin, 0), box.max(0) + 1 + margin
            inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            image, labels = image[inside], labels[inside]
        return to_window(image, self.config.window_hu), np.asarray(labels)

    def _predict(self, fabric: Fabric, network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
        from monai.inferers import sliding_window_inference

        with fabric.autocast():
            logits = sliding_window_inference(
                fabric.to_device(torch.from_numpy(image)[None, None]), self.config.patch, 1, network, overlap=0.25,
                mode="gaussian", device=torch.device("cpu"),
            )  # fmt: skip
        return logits[0].argmax(0).to(torch.uint8).numpy()

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """Return the first held-out case in three planes: ground truth above, prediction below."""
        image, labels = self._held_out_arrays(self.held_out[0])
        shown = np.where(labels < anatomy.NUM_CLASSES, labels, np.uint8(anatomy.BACKGROUND))
        return panel(image, shown, self._predict(fabric, network, image))


def package_part(run: Path, run_config: RunConfig, name: str) -> PackagePart:
    """Return a network's part of a package. Raises TrainingError, ValidationError."""
    settings = run_config.segmenter.network(name)
    return network_part(
        run, name, run_folder.averaged_weights(run_folder.final_checkpoint(run, name)),
        architecture=settings.architecture, arguments=settings.arguments, spacing_mm=settings.spacing_mm,
        patch=settings.patch, window_hu=settings.window_hu,
    )  # fmt: skip


# --- the whole stage -----------------------------------------------------------------------------------------------


def train_segmenter(
    run: Path, run_config: RunConfig, prepared: Mapping[str, store.Prepared], networks: Sequence[str], *,
    resume: bool, workers: int, device: str = "auto", start: ModelPackage | None = None, encoder: Encoder | None = None,
    pairs: store.Prepared | None = None, say: Say = print,
) -> dict[str, State]:  # fmt: skip
    """Train the ``networks`` into ``run``, from random weights or those of ``start``; return where each ended.

    ``prepared``: the cases at the spacing of each network. Two ingredients are for the segmenter alone: it keeps the
    ``encoder`` of a pre-training, and generated ``pairs`` are mixed with its training cases, not with those that it is
    validated on. (Pairs show the heart without the rest of a scan, which the locator must know.) Raises TrainingError,
    ConfigError, PackageError.
    """
    run_folder.check_run(run, run_config, networks, resume=resume)
    fabric = devices.launch(run_config.devices, run_config.nodes, run_config.precision, device, say)
    modules = {name: _new_network(run_config, name, start) for name in networks}
    stages = {name: _stage(name, run_config, prepared[name], pairs) for name in networks}
    slow = _keep_encoder(modules, run_config, encoder) if encoder and "segmenter" in modules else None
    if fabric.is_global_zero:
        run_folder.write_config(run_config, run)
        if start is not None:
            _keep_others(run_config, run, networks, start)
    fabric.barrier()
    ends = {}
    for name, stage in stages.items():
        settings = stage.config
        if fabric.is_global_zero:
            say(loop.describe(name, modules[name], settings, len(stage.train), len(stage.held_out), "patches"))
        ends[name] = loop.train_network(
            fabric, settings, modules[name], stage, run / name, title=name, resume=resume, workers=workers,
            slow=slow if name == "segmenter" else None, say=say,
        )  # fmt: skip
    return ends


def _stage(name: str, run_config: RunConfig, cases: store.Prepared, pairs: store.Prepared | None) -> SegmentationStage:
    """Return the stage of a network. Raises TrainingError or ConfigError for cases or pairs that cannot be used."""
    real, held_out = sides(cases, run_config.validation_part)
    groups = [Group("real cases", real)]
    if name == "segmenter" and pairs is not None and run_config.data.mix is not None:
        groups.append(Group("generated pairs", pairs.cases, run_config.data.mix.share))
    train = Mixture(groups)
    train.check_anatomy()
    settings = run_config.segmenter.network(name)
    return SegmentationStage(name, settings, seed=run_config.seed, train=train, held_out=held_out)


def _keep_encoder(modules: Mapping[str, torch.nn.Module], run_config: RunConfig, encoder: Encoder) -> loop.Slow | None:
    """Give the segmenter a pre-trained encoder; return how its parameters learn if not like the others.

    Raises :class:`ConfigError` for the encoder of another network, spacing or window.
    """
    settings, trained = run_config.segmenter.segmenter, encoder.config
    for field in ("architecture", "spacing_mm", "window_hu"):
        ours, theirs = getattr(settings, field), getattr(trained, field)
        if ours != theirs:
            raise ConfigError(f"The encoder was pre-trained with {field} {theirs!r}, this segmenter has {ours!r}.")
    return transfer.keep_encoder(modules["segmenter"], settings, encoder.weights)


def _new_network(run_config: RunConfig, name: str, start: ModelPackage | None) -> torch.nn.Module:
    """Return the network before its first step: random weights by the run's seed, or those of ``start``."""
    settings = run_config.segmenter.network(name)
    torch.manual_seed(run_config.seed)
    network = build_network(settings.architecture, settings.arguments)
    if start is not None:
        take_weights(network, name, start)
    return network


def _keep_others(run_config: RunConfig, run: Path, networks: Sequence[str], start: ModelPackage) -> None:
    """Keep the networks of ``start`` that are not trained: they belong to the package that the run becomes."""
    for name in SEGMENTER_NETWORKS:
        if name not in networks:
            run_folder.keep_start(_new_network(run_config, name, start).state_dict(), run, name)


def take_weights(network: torch.nn.Module, name: str, start: ModelPackage) -> None:
    """Give ``network`` the weights of the network ``name`` of the package ``start``.

    Raises :class:`ConfigError` if the package lacks it, or holds one of another architecture.
    """
    networks = load_networks(start)
    if name not in networks:
        raise ConfigError(f"{start.manifest.name} has no {name} to start from.")
    try:
        network.load_state_dict(networks[name].state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"The {name} of {start.manifest.name} is another network than the preset's: choose its preset."
        ) from error
