"""A CT volume in, eight labelled structures out, on exactly the volume's grid.

A coarse pass over the whole scan finds the heart; the box around it is segmented at the package's finer spacing; the
logits go back to the scan's own grid slice by slice, so that never all classes exist at full size.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from .. import anatomy
from ..errors import SegmenterError
from ..image.grid import Grid, Volume, index_bounds, ras_grid
from ..image.resample import fill_outside, interpolate, largest, nearest, resample
from ..packages.store import require_kind
from ..packages.weights import load_networks
from ..progress import QUALITIES, Progress, Quality
from ..torch_device import resolve_device
from .cleanup import clean
from .findings import cut_off, findings, sentence
from .heart import _HEART_VALUES, MIN_HEART_ML, _grown_box, heart_box, lung_share
from .run import _Job
from .scan import check, windowed

if TYPE_CHECKING:
    from ..packages.store import ModelPackage


#: How far below the heart's box the descending aorta is followed, mm.
AORTA_BELOW_MM = 200.0
#: Less than that of ventricle or its wall is no heart either.
MIN_VENTRICLE_ML = 5.0
#: Less lung than this around what looks like a heart, and it is none: networks see hearts in livers and bowels. It was
#: 0.38 or more around 120 virtual hearts (median 0.55, some with effusion), 0.34 in a patient with a large effusion,
#: 0.29 or more around virtual and real hearts cut off by the scan, 0.23 or less around livers taken for the heart of
#: scans that end below or in it, and 0.15 or less in abdomens.
MIN_LUNG_SHARE = 0.26
#: Share of its side by which a window reaches over the next. At a quarter the shipped package lost much of a real
#: scan's right atrium (mean Dice 0.781; 0.806 at three eighths, 0.818 at a half) and saved no window on a usual heart.
OVERLAP: dict[Quality, float] = {"fast": 0.375, "full": 0.5, "flips": 0.5}


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
        job.warnings += [sentence(finding) for finding in findings(labels, volumes)]
    else:
        much = "Too little of a heart" if cut_off(labels) else "No heart"
        job.warnings.append(f"{much} was found in the scan: nothing was labelled.")
        labels.array[...] = anatomy.BACKGROUND
        volumes = dict.fromkeys(volumes, 0.0)
    return Segmentation(labels, job.warnings, job.seconds, job.network_seconds, job.device, found, volumes)
