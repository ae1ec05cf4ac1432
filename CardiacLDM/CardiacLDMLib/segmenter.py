"""A CT volume in, eight labelled structures out, on exactly the volume's grid.

A coarse pass over the whole scan finds the heart; the box around it is segmented at the package's finer spacing; the
logits go back to the scan's own grid slice by slice, so that never all classes exist at full size.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cc3d
import numpy as np
import torch
from monai.inferers import sliding_window_inference

from . import anatomy
from .cleanup import clean
from .exchange import QUALITIES, Cancelled, Progress, Quality
from .networks import load_networks
from .package import require_kind
from .volume import (
    AIR_HU,
    Grid,
    Volume,
    dilated,
    fill_outside,
    index_bounds,
    interpolate,
    largest,
    nearest,
    ras_grid,
    resample,
)

if TYPE_CHECKING:
    from .package import ModelPackage, NetworkSpec

MIN_SLICES = 4
MIN_EXTENT_MM = 20.0
#: Longer than any patient: the header's spacing is in other units, and the grids made from it would not fit in memory.
MAX_EXTENT_MM = 2500.0
THICK_MM = 5.0
#: A smaller "heart" (chambers, wall and appendage; adults have over 400 mL) is something else, or too little of one.
MIN_HEART_ML = 60.0
#: How far below the heart's box the descending aorta is followed, mm.
AORTA_BELOW_MM = 200.0
#: Less than that of ventricle or its wall is no heart either.
MIN_VENTRICLE_ML = 5.0
#: Less lung than this around what looks like a heart, and it is none: networks see hearts in livers and bowels. It was
#: 0.38 or more around 120 virtual hearts (median 0.55, some with effusion), 0.34 in a patient with a large effusion,
#: 0.29 or more around virtual and real hearts cut off by the scan, 0.23 or less around livers taken for the heart of
#: scans that end below or in it, and 0.15 or less in abdomens.
MIN_LUNG_SHARE = 0.26
#: Pieces of the coarse heart nearer than this are one heart.
JOIN_MM = 10.0
#: Around what the coarse pass found: its error, and the rest of the vessels.
MARGIN_MM = 15.0
#: Heart that reaches this far into the outermost slices with this area means that the scan cuts it.
EDGE_MM = 1.5
EDGE_MM2 = 50.0
#: Share of its side by which a window reaches over the next. At a quarter the shipped package lost much of a real
#: scan's right atrium (mean Dice 0.781; 0.806 at three eighths, 0.818 at a half) and saved no window on a usual heart.
OVERLAP: dict[Quality, float] = {"fast": 0.375, "full": 0.5, "flips": 0.5}
WINDOWS_PER_BATCH = {"cpu": 1, "cuda": 8}

#: From where to where each stage moves the progress bar, in percent: its usual share of the time.
_STAGES = {"prepare": (0, 2), "locate": (2, 12), "segment": (12, 80), "resample": (80, 94), "clean": (94, 100)}
_SIDES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))
_HEART_VALUES = [anatomy.VALUE[name] for name in anatomy.HEART]


class SegmenterError(ValueError):
    """A volume or device that cannot be used; the message is one sentence for the user."""


@dataclass
class Segmentation:
    """What came out of one scan.

    ``labels``: uint8 on exactly the input's grid, all zero when no heart was found. ``warnings``: sentences for the
    user. ``seconds`` per stage; ``network_seconds`` of them passed in the networks. ``device``: where the networks ran
    in the end. ``volumes_ml`` per structure name.
    """

    labels: Volume
    warnings: list[str]
    seconds: dict[str, float]
    network_seconds: float
    device: str
    heart_found: bool
    volumes_ml: dict[str, float]


def resolve_device(device: str) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as the device to use; :class:`SegmenterError` if it cannot be."""
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise SegmenterError(f"The device must be auto, cpu, cuda or cuda:N, not {device!r}.")
    if not torch.cuda.is_available():
        raise SegmenterError("There is no CUDA GPU that can be used here: choose the device cpu.")
    number = int(match[1] or 0)
    if number >= torch.cuda.device_count():
        raise SegmenterError(f"There is no GPU {number}: this computer has {torch.cuda.device_count()}.")
    return f"cuda:{number}"


class Segmenter:
    """The two networks of a model package, loaded once, for any number of scans.

    Raises :class:`SegmenterError` for a device that is not there, ``PackageError`` for a package that cannot be used.
    """

    def __init__(self, package: ModelPackage, device: str = "auto") -> None:
        require_kind(package, "segmenter")
        self.package = package
        self.device = resolve_device(device)
        self._networks = load_networks(package)  # moved when first used, where a full GPU is dealt with

    def segment(
        self,
        volume: Volume,
        *,
        quality: Quality = "full",
        progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Segmentation:
        """Label ``volume`` (HU, any orientation and spacing; never modified).

        ``quality``: ``fast`` has fewer windows, and labels and cleans on the network's own grid; ``flips`` averages
        over mirrored windows too, which is four times the work. ``progress`` is called after every step; ``cancelled``
        is asked before every step and ends the job with :class:`Cancelled`. A GPU whose memory is full is left step by
        step. Raises :class:`SegmenterError` when the volume cannot be a chest or heart CT.
        """
        if quality not in QUALITIES:
            raise SegmenterError(f"The quality must be fast, full or flips, not {quality!r}.")
        job = _Job(self.device, quality, progress, cancelled)
        with job.stage("prepare"):
            volume = check(volume, job.warnings)
        try:
            labels = self._label(volume, job)
        except torch.cuda.OutOfMemoryError:  # beside the networks: they give way by themselves
            if job.device == "cpu":
                raise
            labels = None
        if labels is None:  # out here the failed attempt's tensors are no longer held by the error
            job.use_cpu()
            labels = self._label(volume, job)
        result = _result(Volume(labels, volume.affine), job)
        job.finish()
        return result

    def _label(self, volume: Volume, job: _Job) -> np.ndarray:
        """Labels (uint8) on the volume's grid."""
        labels = np.zeros(volume.array.shape, dtype=np.uint8, order="F")  # the order files have
        with job.stage("locate"):
            box = self._locate(volume, job)
        if box is None:
            return labels
        with job.stage("segment"):
            logits, grid = self._segment_box(volume, box, job)
        if logits is None:
            return labels
        start, stop = index_bounds(volume.grid, grid.bounds_ras())
        part = labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        inner = volume.grid.crop(start, stop)
        if job.quality == "fast" and (inner.spacing <= grid.spacing[0]).all():
            with job.stage("resample"):
                _label_nearest(part, logits, grid, inner, job)
            return labels
        with job.stage("resample"):
            _label_slices(part, logits, grid, inner, job)
            del logits
        with job.stage("clean"):
            part[...] = clean(part, volume.grid.voxel_ml)
        return labels

    def _locate(self, volume: Volume, job: _Job) -> np.ndarray | None:
        """The padded RAS box (2, 3) around the heart, within the scan; None when there is none."""
        spec = self.package.manifest.networks["locator"]
        scan = volume.grid.bounds_ras()
        grid = ras_grid(scan, spec.spacing_mm)
        image = resample(volume, grid).array
        logits = self._predict("locator", image, job)
        box = heart_box(logits.softmax(0).cpu().numpy(), grid)
        if box is None:
            return None
        fine = self.package.manifest.networks["segmenter"]
        return _grown_box(box, np.array(fine.patch) * fine.spacing_mm, scan)

    def _segment_box(self, volume: Volume, box: np.ndarray, job: _Job) -> tuple[torch.Tensor | None, Grid]:
        """Logits (9, I, J, K) on the fine RAS grid of the box; None if what they show is no heart between lungs.

        The grid reaches further down, where nothing but the aorta goes on: the coarse pass loses it among the vessels.
        """
        spec = self.package.manifest.networks["segmenter"]
        bottom = volume.grid.bounds_ras()[0, 2]
        below = math.floor(min(box[0, 2] - bottom, AORTA_BELOW_MM) / spec.spacing_mm)
        grid = ras_grid(box - np.array([[0.0, 0.0, below * spec.spacing_mm], [0.0, 0.0, 0.0]]), spec.spacing_mm)
        image = resample(volume, grid).array
        logits = self._predict("segmenter", image, job)
        others = [s.value for s in anatomy.STRUCTURES if s.name != "AO"]
        with torch.inference_mode():
            logits[others, :, :, :below] = logits.min()
        values = largest(logits.numpy()) if logits.device.type == "cpu" else logits.argmax(0).cpu().numpy()
        heart = np.isin(values, _HEART_VALUES)
        return (logits if lung_share(image, heart, spec.spacing_mm) >= MIN_LUNG_SHARE else None), grid

    def _predict(self, name: str, image: np.ndarray, job: _Job) -> torch.Tensor:
        """Logits (9, I, J, K) of ``image`` (I, J, K) in HU; gives way step by step when the GPU's memory is full."""
        spec = self.package.manifest.networks[name]
        source = torch.from_numpy(windowed(image, spec))[None, None]
        while True:
            try:
                return self._windows(name, source, spec.patch, job)
            except torch.cuda.OutOfMemoryError:
                if not job.can_give_way:
                    raise
            job.give_way()  # out here the failed attempt's tensors are no longer held by the error

    def _windows(self, name: str, source: torch.Tensor, patch: tuple[int, int, int], job: _Job) -> torch.Tensor:
        """One pass of Gaussian sliding windows on the job's device."""
        network = self._networks[name].to(job.device)
        flips = job.quality == "flips" and name == "segmenter"
        overlap = OVERLAP[job.quality]
        batches = math.ceil(window_count(source.shape[2:], patch, overlap) / job.batch)
        done = 0

        def predict(windows: torch.Tensor) -> torch.Tensor:
            nonlocal done
            job.step(done / batches)
            done += 1
            with job.in_network(), _autocast(job.device):
                return _flip_mean(network, windows, job.stop_if_cancelled) if flips else network(windows).float()

        with torch.inference_mode():
            return sliding_window_inference(
                source.to(job.device), patch, job.batch, predict, overlap=overlap, mode="gaussian", sigma_scale=0.125
            )[0]


# --- steps ---------------------------------------------------------------------------------------------------------


def check(volume: Volume, warnings: list[str]) -> Volume:
    """The volume with every voxel a number; appends gentle ``warnings``.

    Raises :class:`SegmenterError` when it is too thin or too long, blank, or does not look like CT in Hounsfield units.
    """
    grid = volume.grid
    thinnest = int(grid.size_mm.argmin())
    if min(grid.shape) < MIN_SLICES:
        raise SegmenterError(f"The scan has only {min(grid.shape)} slices: a whole heart is needed.")
    if grid.size_mm[thinnest] < MIN_EXTENT_MM:
        raise SegmenterError(f"The scan is only {grid.size_mm[thinnest]:.0f} mm thick: a whole heart is needed.")
    if grid.size_mm.max() > MAX_EXTENT_MM:
        raise SegmenterError(
            f"The scan would be {grid.size_mm.max() / 1000:.1f} m long: its voxel spacing cannot be in millimetres."
        )
    if grid.spacing.max() > THICK_MM:
        warnings.append(f"The slices are {grid.spacing.max():.1f} mm apart: small structures may be wrong.")
    _check_values(volume.array)
    return _finite(volume, warnings)


def _check_values(array: np.ndarray) -> None:
    """Whether a sample of the voxels looks like CT: numbers, not constant, some air, lung or fat, and some tissue."""
    step = max(1, round((array.size / 1_000_000) ** (1 / 3)))
    sample = array[::step, ::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise SegmenterError("The scan holds no numbers at all.")
    if sample.min() == sample.max():
        raise SegmenterError("Every voxel of the scan has the same value.")
    low, high = np.percentile(sample, [0.5, 99.5])
    thin = np.mean((sample > -1100.0) & (sample < -200.0))  # any crop of a chest holds lung, air or both
    tissue = np.mean((sample > -150.0) & (sample < 1500.0))
    if thin < 0.002 or tissue < 0.01:
        raise SegmenterError(
            f"The values (mostly {low:.5g} to {high:.5g}) are not Hounsfield units of a chest: is this a CT?"
        )


def _finite(volume: Volume, warnings: list[str]) -> Volume:
    """The volume itself, or a float32 copy with air where it holds no number."""
    array = volume.array
    if array.dtype.kind != "f":
        return volume
    slowest = int(np.argmax(np.abs(array.strides)))
    slabs = np.moveaxis(array, slowest, 0)
    if all(np.isfinite(slab).all() for slab in slabs):
        return volume
    copy = np.empty_like(array, dtype=np.float32)
    bad = 0
    for source, target in zip(slabs, np.moveaxis(copy, slowest, 0), strict=True):
        good = np.isfinite(source)
        bad += good.size - np.count_nonzero(good)
        np.copyto(target, np.where(good, source, AIR_HU))
    share = 100.0 * bad / array.size
    warnings.append(f"{bad} voxels ({share:.2g} %) hold no number: they were taken for air.")
    return Volume(copy, volume.affine)


def windowed(image: np.ndarray, spec: NetworkSpec) -> np.ndarray:
    """HU clipped to the network's window and mapped to 0..1, float32."""
    low, high = spec.window_hu
    out = (np.ascontiguousarray(image, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(out, 0.0, 1.0, out=out)


def heart_box(shares: np.ndarray, grid: Grid) -> np.ndarray | None:
    """RAS box (2, 3) around the group of pieces with most heart in ``shares`` (9, I, J, K), great vessels included.

    Pieces belong together up to ``JOIN_MM`` apart: walls between structures count as background, and coarse voxels
    lose thin parts. None when the group holds less than ``MIN_HEART_ML`` of heart.
    """
    structures = shares[0] < 0.5
    heart = structures & (shares[_HEART_VALUES].sum(axis=0) > 0.5)
    reach = math.ceil(JOIN_MM / 2 / grid.spacing[0])
    groups = np.where(structures, cc3d.connected_components(dilated(structures, reach), connectivity=26), 0)
    counts = np.bincount(groups[heart], minlength=2)
    group = int(counts.argmax())
    if counts[group] * grid.voxel_ml < MIN_HEART_ML:
        return None
    start, stop = np.array([[i.min(), i.max() + 1] for i in np.nonzero(groups == group)]).T
    return grid.crop(start, stop).bounds_ras()


def lung_share(image: np.ndarray, heart: np.ndarray, spacing_mm: float) -> float:
    """How much of the 15 mm around ``heart`` (bool, on ``image`` in HU) is lung, 0 to 1."""
    around = image[dilated(heart, round(15.0 / spacing_mm)) & ~dilated(heart, 1)]
    around = around[around > -1010.0]  # below is what lies outside the scan
    return np.count_nonzero(around < -400.0) / max(around.size, 1)


def _grown_box(box: np.ndarray, at_least_mm: np.ndarray, scan: np.ndarray) -> np.ndarray:
    """``box`` padded by the margin, no smaller than one window (better real surroundings than padding), in the scan."""
    low, high = box[0] - MARGIN_MM, box[1] + MARGIN_MM
    missing = np.maximum(at_least_mm - (high - low), 0.0) / 2.0
    return np.stack([np.maximum(low - missing, scan[0]), np.minimum(high + missing, scan[1])])


def window_count(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> int:
    """How many windows that share ``overlap`` of their side with the next cover ``shape`` voxels."""
    steps = (1 + math.ceil(max(n - p, 0) / max(int(p * (1 - overlap)), 1)) for n, p in zip(shape, patch, strict=True))
    return math.prod(steps)


def _flip_mean(network: torch.nn.Module, windows: torch.Tensor, before_each: Callable[[], None]) -> torch.Tensor:
    """Three quarters the plain prediction, one quarter the mean of those of the windows mirrored along each axis.

    A mirrored heart is not a heart, and networks see few in training. At half and half the right atrium of a real scan
    was lost altogether; at a quarter the shipped package is as good as without (Dice 0.819 and 0.818 there).
    """
    mean = network(windows).float() * 0.75
    for axis in (2, 3, 4):
        before_each()
        mean += network(windows.flip(axis)).float().flip(axis) / 12
    return mean


def _autocast(device: str) -> contextlib.AbstractContextManager[object]:
    """Half precision on the GPU. Not on the CPU: half as fast there."""
    if device == "cpu":
        return contextlib.nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)


def _label_slices(part: np.ndarray, logits: torch.Tensor, grid: Grid, target: Grid, job: _Job) -> None:
    """Fill ``part`` (uint8, on ``target``) with the likeliest structure, a few slices at a time; outside ``grid`` 0."""
    for k, values in interpolate(logits.cpu().numpy(), grid.affine, target):
        job.step(k / target.shape[2])
        part[:, :, k : k + values.shape[3]] = largest(values)
    fill_outside(part, target, grid, anatomy.BACKGROUND)


def _label_nearest(part: np.ndarray, logits: torch.Tensor, grid: Grid, target: Grid, job: _Job) -> None:
    """As :func:`_label_slices`, but with the structure of the nearest voxel of ``grid``, cleaned there.

    ``target`` is nowhere coarser than ``grid``: what is one piece stays one, and there is far less to clean.
    """
    values = clean(largest(logits.cpu().numpy()), grid.voxel_ml)
    for k, slab in nearest(values, grid.affine, target):
        job.step(k / target.shape[2])
        part[:, :, k : k + slab.shape[2]] = slab
    fill_outside(part, target, grid, anatomy.BACKGROUND)


# --- the result ----------------------------------------------------------------------------------------------------


def _result(labels: Volume, job: _Job) -> Segmentation:
    """Measure the labels; too little heart counts as none."""
    counts = np.bincount(labels.array.ravel(order="K"), minlength=anatomy.NUM_CLASSES)
    volumes = {s.name: float(counts[s.value] * labels.grid.voxel_ml) for s in anatomy.STRUCTURES}
    found = sum(volumes[name] for name in anatomy.HEART) >= MIN_HEART_ML
    found = found and min(volumes["LV"], volumes["MYO"]) >= MIN_VENTRICLE_ML
    if found:
        job.warnings += findings(labels, volumes)
    else:
        much = "Too little of a heart" if cut_off(labels) else "No heart"
        job.warnings.append(f"{much} was found in the scan: nothing was labelled.")
        labels.array[...] = anatomy.BACKGROUND
        volumes = dict.fromkeys(volumes, 0.0)
    return Segmentation(labels, job.warnings, job.seconds, job.network_seconds, job.device, found, volumes)


def findings(labels: Volume, volumes_ml: dict[str, float]) -> list[str]:
    """Sentences on a heart that the scan cuts off, on missing structures and on unlikely volumes.

    A heart that is cut off is measured in part only: nothing is said about its volumes then.
    """
    cut = cut_off(labels)
    sentences = [
        f"The scan ends inside the heart ({side} edge): the volumes of {_listed(names)} are incomplete."
        for side, names in cut.items()
    ]
    missing = [s.name for s in anatomy.STRUCTURES if volumes_ml[s.name] == 0.0]
    if missing:
        sentences.append(f"{_listed(missing)} {'was' if len(missing) == 1 else 'were'} not found.")
    for structure in anatomy.STRUCTURES:
        if structure.volume_limits_ml is None or structure.name in missing or cut:
            continue
        low, high = structure.volume_limits_ml
        volume = volumes_ml[structure.name]
        if not low <= volume <= high:
            sentences.append(
                f"{structure.name} measures {volume:.0f} mL, outside the usual {low:.0f} to {high:.0f} mL: check it."
            )
    return sentences


def cut_off(labels: Volume) -> dict[str, list[str]]:
    """Which heart structures reach which edge of the scan: ``{"inferior": ["LV", "RV"]}``."""
    touching: dict[str, list[str]] = {}
    spacing = labels.spacing
    for axis in range(3):
        depth = max(1, round(EDGE_MM / spacing[axis]))
        voxel_mm2 = float(np.prod(spacing) / spacing[axis])
        layers = np.moveaxis(labels.array, axis, 0)
        direction = labels.affine[:3, axis]
        world = int(np.abs(direction).argmax())
        for at_end, layer in enumerate((layers[:depth], layers[-depth:])):
            side = _SIDES[world][at_end if direction[world] > 0 else 1 - at_end]
            areas = {name: np.count_nonzero((layer == anatomy.VALUE[name]).any(axis=0)) * voxel_mm2
                     for name in anatomy.HEART}  # fmt: skip
            names = [name for name, area in areas.items() if area >= EDGE_MM2]
            if names:
                touching[side] = names
    return touching


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass
class _Job:
    """One run: its clock, its warnings, and the device it ends up on."""

    device: str
    quality: Quality
    progress: Callable[[Progress], None] | None
    cancelled: Callable[[], bool] | None
    batch: int = field(init=False)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    network_seconds: float = 0.0
    _stage: str = "prepare"
    _percent: int = 0
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.batch = WINDOWS_PER_BATCH[self.device.partition(":")[0]]

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._stage = name
        self.step(0.0)
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began

    @contextlib.contextmanager
    def in_network(self) -> Iterator[None]:
        """Counts the time; on the GPU that is when its work is done, not when it is handed over."""
        began = time.perf_counter()
        yield
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
        self.network_seconds += time.perf_counter() - began

    def stop_if_cancelled(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled

    def step(self, share: float) -> None:
        """Report that this share (0..1) of the stage is done, unless the user wants to stop."""
        self.stop_if_cancelled()
        start, end = _STAGES[self._stage]
        self._report(round(start + share * (end - start)))

    def finish(self) -> None:
        """Report the end, also where there was no heart to segment."""
        self._report(100)

    def _report(self, percent: int) -> None:
        self._percent = max(self._percent, percent)  # a pass that is repeated on the CPU does not turn the bar back
        if self.progress is not None:
            self.progress(Progress(self._percent, 100, self._stage, time.perf_counter() - self._began))

    @property
    def can_give_way(self) -> bool:
        return self.batch > 1 or self.device != "cpu"

    def give_way(self) -> None:
        """Out of GPU memory: half as many windows at once, then the CPU."""
        if self.batch == 1:
            self.use_cpu()
            return
        torch.cuda.empty_cache()
        self.batch //= 2
        self._warn_once("The GPU's memory was short: fewer windows at a time were used.")

    def use_cpu(self) -> None:
        torch.cuda.empty_cache()
        self.device, self.batch = "cpu", WINDOWS_PER_BATCH["cpu"]
        self._warn_once("The GPU's memory was not enough: the CPU was used instead.")

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)
