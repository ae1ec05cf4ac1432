"""The segmenter: label the eight structures in a CT volume, on the volume's own grid.

A coarse pass over the whole scan finds the heart. The box around it is segmented at the package's finer spacing. The
logits are resampled to the grid of the scan a few slices at a time: all classes at full size would not fit in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import anatomy
from ..errors import SegmenterError, is_gpu_memory_error
from ..image.grid import AIR_HU, Grid, Volume, in_ras_order, index_bounds, lattice_grid
from ..image.labels import volumes_ml
from ..image.resample import fill_outside, interpolate, largest, nearest, resample
from ..packages.store import require_kind
from ..packages.weights import load_networks
from ..progress import QUALITIES, Progress, Quality
from ..torch_device import choose_device
from .borders import averaged, find_borders, next_slab
from .cleanup import clean
from .fat import find_bright, take_out_dark
from .findings import Finding, findings, sentence
from .gate import Signs, cut_off_at, read_signs
from .heart import BOX_STEP, MIN_HEART_ML, grow_box, heart_box
from .pieces import unsure_pieces
from .promise import expected_dice, promised_dice, total_shares
from .run import Run
from .scan import check_scan, to_window
from .strays import clean_scan
from .windows import autocast, predict_in_windows, predict_with_flips, window_places, window_step

if TYPE_CHECKING:
    from ..packages.store import ModelPackage
    from ..results.trust import ExpectedDice

#: Depth below the heart's box in which the descending aorta is labelled too, mm.
AORTA_BELOW_MM = 200.0
#: A heart has at least this much of left ventricle and of its wall.
MIN_VENTRICLE_ML = 5.0
#: Share of its side by which a window overlaps the next. At a quarter the shipped package lost much of the right atrium
#: of a real scan (mean Dice 0.781; 0.806 at three eighths, 0.818 at a half) and saved no window on a usual heart.
OVERLAP: dict[Quality, float] = {"fast": 0.375, "full": 0.5, "flips": 0.5}


@dataclass
class Segmentation:
    """The result for one scan.

    ``labels``: uint8 on the grid of the input, all zero without a heart. ``warnings``: sentences for the user.
    ``seconds``: by stage; ``network_seconds``: the part of them spent in the networks. ``device``: the last one used,
    which is the CPU if the GPU's memory was too small. ``volumes_ml``: by structure name. ``expected_dice``: of the
    structures that were found, if the package foretells it at this quality.
    """

    labels: Volume
    warnings: list[str]
    seconds: dict[str, float]
    network_seconds: float
    device: str
    heart_found: bool
    volumes_ml: dict[str, float]
    expected_dice: dict[str, ExpectedDice]


@dataclass
class PredictedBox:
    """What the fine network says about the box of a heart: ``logits`` (9, I, J, K) on the RAS grid ``grid``.

    ``image`` (I, J, K): HU there. ``below``: slices at the bottom in which only the aorta is labelled.
    """

    logits: torch.Tensor
    grid: Grid
    image: np.ndarray
    below: int


@dataclass
class Prediction:
    """What the networks say about a scan, for :meth:`Segmenter.finish`; ``box`` is None where there is no heart.

    ``volume``: the scan as it was checked. ``coarse``: the signs of a heart in the coarse pass.
    """

    volume: Volume
    run: Run
    coarse: Signs
    box: PredictedBox | None = None


class Segmenter:
    """The two networks of a model package, loaded once for any number of scans.

    ``remark``: a sentence, also among the warnings of each result, if a GPU is there but cannot be used. Raises
    ``DeviceError`` for a device that is not available, ``PackageError`` for a package that cannot be used.
    """

    def __init__(self, package: ModelPackage, device: str = "auto") -> None:
        require_kind(package, "segmenter")
        self.package = package
        chosen = choose_device(device)
        self.device, self.remark = chosen.name, chosen.remark
        self._networks = load_networks(package)  # moved at first use, where a full GPU is handled

    def segment(
        self,
        volume: Volume,
        *,
        quality: Quality = "full",
        progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Segmentation:
        """Label ``volume`` (HU, any orientation and spacing; never modified).

        ``quality``: ``fast`` uses fewer windows, and labels and cleans on the network's own grid; ``flips`` also
        averages over mirrored windows, which is four times the work. ``progress`` is called with every step.
        ``cancelled`` is called before every step; if it returns True, :class:`Cancelled` is raised. When the GPU's
        memory is full, fewer windows at once are used, then the CPU. Raises :class:`SegmenterError` if the volume
        cannot be a CT of the chest or heart.
        """
        return self.finish(self.predict(volume, quality=quality, progress=progress, cancelled=cancelled))

    def predict(
        self,
        volume: Volume,
        *,
        quality: Quality = "full",
        progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Prediction:
        """Do the first part of :meth:`segment`: the networks' work."""
        if quality not in QUALITIES:
            raise SegmenterError(f"The quality must be fast, full or flips, not {quality!r}.")
        run = Run(self.device, quality, progress, cancelled)
        with run.stage("prepare"):
            volume, warnings = check_scan(volume)
            run.warnings = [*([self.remark] if self.remark else []), *warnings]
        try:
            return self._predict_box(volume, run)
        except RuntimeError as error:  # from outside the networks; _predict handles it in them
            if run.device == "cpu" or not is_gpu_memory_error(error):
                raise
        run.use_cpu()  # outside the except block, the error no longer holds the failed attempt's tensors
        return self._predict_box(volume, run)

    def finish(self, prediction: Prediction) -> Segmentation:
        """Do the second part of :meth:`segment`: labels and checks. To be called once for each prediction.

        A thread may do so while another one calls ``predict`` for the next scan.
        """
        run = prediction.run
        try:
            labels, signs = self._label(prediction)
        except RuntimeError as error:
            if run.device == "cpu" or not is_gpu_memory_error(error):
                raise
            labels = None
        if labels is None:  # outside the except block, as above
            run.use_cpu()
            labels, signs = self._label(prediction)
        result = _result(Volume(labels, prediction.volume.affine), signs, run)
        result.expected_dice.update(self._expected_dice(result, run))
        run.finish()
        return result

    def _expected_dice(self, result: Segmentation, run: Run) -> dict[str, ExpectedDice]:
        """Return the expected Dice of the structures that the result has, if the package foretells it."""
        record = self.package.manifest.expected_dice
        line = record.qualities.get(run.quality) if record is not None else None
        found = {name: dice for name, dice in run.promised.items() if result.volumes_ml[name] > 0.0}
        return expected_dice(line, found) if line is not None else {}

    def _predict_box(self, volume: Volume, run: Run) -> Prediction:
        """Locate the heart, and let the network look at the box around it."""
        with run.stage("locate"):
            box, coarse = self._locate(in_ras_order(volume), run)
        if box is None:
            return Prediction(volume, run, coarse)
        with run.stage("segment"):
            return Prediction(volume, run, coarse, self._segment_box(in_ras_order(volume), box, run))

    def _label(self, prediction: Prediction) -> tuple[np.ndarray, Signs]:
        """Return labels (uint8) on the grid of the volume, and the signs of a heart."""
        volume = prediction.volume
        labels = np.zeros(volume.array.shape, dtype=np.uint8, order="F")  # the order of voxels in files
        return labels, self._fill(in_ras_order(Volume(labels, volume.affine)).array, in_ras_order(volume), prediction)

    def _fill(self, labels: np.ndarray, volume: Volume, prediction: Prediction) -> Signs:
        """Fill ``labels`` (uint8, all 0) on the grid of ``volume``, in RAS order; return the signs of a heart."""
        run, box = prediction.run, prediction.box
        if box is None:
            return prediction.coarse
        grid = box.grid
        with run.stage("segment"):
            logits = box.logits.to(run.device)
            signs = _judge(box, logits, volume.grid, run)
        if signs.verdict() == "none":
            return Signs(cut=prediction.coarse.cut | signs.cut)
        start, stop = index_bounds(volume.grid, grid.bounds_ras())
        part = labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        inner = volume.grid.crop(start, stop)
        if run.quality == "fast" and (inner.spacing <= grid.spacing[0]).all():
            with run.stage("resample"):
                _label_nearest(part, logits, grid, inner, run)
            return signs
        with run.stage("resample"):
            inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            self._label_box(part, logits.cpu().numpy(), grid, Volume(volume.array[inside], inner.affine), run)
            del logits, box
            prediction.box = None  # frees the logits
        with run.stage("clean"):
            part[...] = clean_scan(part, inner)
        return signs

    def _label_box(self, part: np.ndarray, logits: np.ndarray, grid: Grid, scan: Volume, run: Run) -> None:
        """Fill ``part`` (uint8, on the grid of ``scan``) from the logits on ``grid``, a few slices at a time.

        Borders are refined by HU, and fat is taken out of the blood, if the package asks for it, but not at the quality
        ``fast``.
        """
        spec, borders, bright = self.package.manifest.borders, None, None
        if spec is not None and run.quality != "fast":
            scan = Volume(averaged(scan.array, scan.spacing), scan.affine)
            hu = np.concatenate([slab for _, slab in nearest(scan.array, scan.affine, grid)], axis=2)
            coarse = largest(logits)
            borders, bright = find_borders(coarse, hu, spec.weight), find_bright(coarse, hu)
        bands = borders.on(grid, scan.grid) if borders is not None else None
        for k, values in interpolate(logits, grid.affine, scan.grid):
            run.step(k / part.shape[2])
            slab = np.s_[:, :, k : k + values.shape[3]]
            part[slab] = largest(values)
            if borders is not None and bands is not None:
                borders.move(part[slab], values, scan.array[slab], next_slab(bands, values.shape[3]))
            if bright is not None:
                take_out_dark(part[slab], scan.array[slab], bright)
        fill_outside(part, scan.grid, grid, anatomy.BACKGROUND)

    def _locate(self, volume: Volume, run: Run) -> tuple[np.ndarray | None, Signs]:
        """Return the RAS box (2, 3) around the heart with its margin, within the scan; None without a heart.

        Of the signs of a heart, only the edges at which a part of one may lie are known.
        """
        scan = volume.grid.bounds_ras()
        grid, shares = self._coarse_pass(volume, scan, run)
        coarse = Signs(cut=cut_off_at(Volume(largest(shares), grid.affine), volume.grid))
        box = heart_box(shares, grid)
        if box is None:
            return None, coarse
        again = heart_box(*reversed(self._coarse_pass(volume, self._window_around(box), run)))
        fine = self.package.manifest.networks["segmenter"]
        return grow_box(box if again is None else again, fine.patch, fine.spacing_mm, scan), coarse

    def _coarse_pass(self, volume: Volume, bounds: np.ndarray, run: Run) -> tuple[Grid, np.ndarray]:
        """Return the locator's grid over ``bounds`` (2, 3; RAS mm), and class probabilities (9, I, J, K) on it."""
        spec = self.package.manifest.networks["locator"]
        grid = lattice_grid(bounds, spec.spacing_mm)
        shares = self._predict("locator", resample(volume, grid).array, run).softmax(0).cpu().numpy()
        for value, share in enumerate(shares):  # a window may reach beyond the scan
            fill_outside(share, grid, volume.grid, float(value == anatomy.BACKGROUND))
        return grid, shares

    def _window_around(self, box: np.ndarray) -> np.ndarray:
        """Return the bounds (2, 3; RAS mm) of a single window of the locator around ``box``.

        A second pass on it is not changed by parts of the scan far from the heart. Its place is rounded, so that a
        small change of ``box`` does not move it.
        """
        spec = self.package.manifest.networks["locator"]
        step = BOX_STEP * spec.spacing_mm
        half = np.array(spec.patch) * spec.spacing_mm / 2
        centre = np.rint((box.mean(axis=0) - half) / step) * step + half
        return np.stack([centre - half, centre + half])

    def _segment_box(self, volume: Volume, box: np.ndarray, run: Run) -> PredictedBox:
        """Return what the network says on the fine RAS grid of the box.

        The grid reaches below the box. Only the aorta is labelled there, since the coarse pass misses its lower part.
        """
        spec = self.package.manifest.networks["segmenter"]
        depth = min(box[0, 2] - volume.grid.bounds_ras()[0, 2], AORTA_BELOW_MM) / spec.spacing_mm
        step = window_step(spec.patch[2], OVERLAP[run.quality])
        below = max(math.ceil(depth / step), 0) * step  # whole steps: windows on the heart are then where they were
        grid = lattice_grid(box - np.array([[0.0, 0.0, below * spec.spacing_mm], [0.0, 0.0, 0.0]]), spec.spacing_mm)
        image = resample(volume, grid, fill=None).array  # air below a scan would look like lung
        return PredictedBox(self._predict("segmenter", image, run), grid, image, below)

    def _predict(self, name: str, image: np.ndarray, run: Run) -> torch.Tensor:
        """Return logits (9, I, J, K) of ``image`` (I, J, K) in HU; with less GPU memory after each shortage."""
        spec = self.package.manifest.networks[name]
        source = torch.from_numpy(to_window(image, spec.window_hu))[None, None]
        while True:
            try:
                return self._windows(name, source, spec.patch, run)
            except RuntimeError as error:
                if not (is_gpu_memory_error(error) and run.can_use_less_memory):
                    raise
            run.use_less_memory()  # outside the except block, the error no longer holds the failed attempt's tensors

    def _windows(self, name: str, source: torch.Tensor, patch: tuple[int, int, int], run: Run) -> torch.Tensor:
        """Return logits (9, I, J, K) of one pass of Gaussian sliding windows on the run's device."""
        network = self._networks[name].to(run.device)
        flips = run.quality == "flips" and name == "segmenter"
        overlap = OVERLAP[run.quality]
        batches = math.ceil(len(window_places(tuple(source.shape[2:]), patch, overlap)) / run.batch)
        done = 0

        def predict(windows: torch.Tensor) -> torch.Tensor:
            nonlocal done
            run.step(done / batches)
            done += 1
            with run.in_network(), autocast(run.device):
                if flips:
                    return predict_with_flips(network, windows, run.stop_if_cancelled)
                return network(windows).float()

        with torch.inference_mode():
            return predict_in_windows(source.to(run.device), patch, run.batch, predict, overlap)


def _judge(box: PredictedBox, logits: torch.Tensor, scan: Grid, run: Run) -> Signs:
    """Return the signs of a heart. ``logits``, on the run's device, lose what cannot be; the promised Dice is noted."""
    grid, image = box.grid, box.image
    fill_outside(image, grid, scan, AIR_HU)
    others = [s.value for s in anatomy.STRUCTURES if s.name != "AO"]
    with torch.inference_mode():
        logits[others, :, :, : box.below] = logits.min()
        shares = logits.softmax(0)
        totals = total_shares(shares)
        probability, values = (array.cpu().numpy() for array in shares.max(0))
        del shares  # as large as the logits
        values = values.astype(np.uint8)
        unsure = unsure_pieces(values, probability)
        values[unsure] = anatomy.BACKGROUND
        there = torch.from_numpy(unsure).to(logits.device)
        totals -= total_shares(logits[:, there].softmax(0))
        logits[1:, there] = logits.min()
    run.promised = promised_dice(values, probability, totals)
    found = Volume(clean(values, grid.voxel_ml), grid.affine)
    return read_signs(image, found, probability, scan)


def _label_nearest(part: np.ndarray, logits: torch.Tensor, grid: Grid, target: Grid, run: Run) -> None:
    """Fill ``part`` (uint8, on ``target``) with the labels of the nearest voxels of ``grid``, cleaned there.

    ``target`` must not be coarser than ``grid``, so that a single piece stays single. ``grid`` has far fewer voxels to
    clean.
    """
    values = clean_scan(largest(logits.cpu().numpy()), grid)
    for k, slab in nearest(values, grid.affine, target):
        run.step(k / target.shape[2])
        part[:, :, k : k + slab.shape[2]] = slab
    fill_outside(part, target, grid, anatomy.BACKGROUND)


# --- the result ----------------------------------------------------------------------------------------------------


def _result(labels: Volume, signs: Signs, run: Run) -> Segmentation:
    """Return the result with volumes and warnings. If there is too little heart, all labels are removed."""
    volumes = volumes_ml(labels.array, labels.grid.voxel_ml)
    heart_ml = sum(volumes[name] for name in anatomy.HEART)
    heart_found = heart_ml >= MIN_HEART_ML and min(volumes["LV"], volumes["MYO"]) >= MIN_VENTRICLE_ML
    if heart_found:
        run.warnings += [sentence(finding) for finding in [*signs.doubts(), *findings(labels, volumes)]]
    else:
        where = ", ".join(signs.cut)
        run.warnings.append(sentence(Finding("no heart", (), heart_ml, MIN_HEART_ML, where)))
        labels.array[...] = anatomy.BACKGROUND
        volumes = dict.fromkeys(volumes, 0.0)
    return Segmentation(labels, run.warnings, run.seconds, run.network_seconds, run.device, heart_found, volumes, {})
