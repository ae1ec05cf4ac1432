"""A generator package and a seed in, a synthetic cardiac CT with its labels out.

Each pair is drawn on its own, whatever else is drawn with it: for another batch torch adds up in another order, and so
gives other bits. The same holds for threads, so the CPU works with a fixed number of them, however many cores it has.
So the same package, settings, seed and number give the same pair on the same kind of processor.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from .. import anatomy
from ..errors import GeneratorError, SegmenterError
from ..image.grid import Volume
from ..image.resample import largest
from ..networks.architectures import LATENT_STRIDE
from ..packages.manifest import GeneratorSpec
from ..packages.store import ModelPackage, require_kind
from ..packages.weights import load_networks
from ..postprocess import texture, tone
from ..postprocess.bilateral import bilateral
from ..progress import Cancelled, Progress
from ..segmentation.cleanup import clean
from ..torch_device import resolve_device, same_bits
from . import sampler
from .settings import MAX_SEED, Conditions, Settings, check_settings, scaled

#: Steps between two previews, and how thick a slab of latents is decoded for one.
PREVIEW_EVERY, PREVIEW_LATENTS = 4, 4
#: Weights of neighbours along an axis, four voxels in all: what repeats with each latent voxel is averaged away.
DEBLOCKING_TAPS = (0.5, 1.0, 1.0, 1.0, 0.5)
#: Side of a tile in latent voxels, and the share by which tiles overlap, where a GPU cannot decode all at once.
TILE, TILE_OVERLAP = 16, 0.5

#: From where to where each stage moves the progress bar, in percent.
_STAGES = {"sample": (0, 85), "decode": (85, 97), "clean": (97, 100)}
#: Told of the number of the step, how many there are, and the middle axial slice as it looks by then (I, J; int16 HU).
Preview = Callable[[int, int, np.ndarray], None]


@dataclass(frozen=True)
class Pair:
    """A synthetic CT (int16 HU) and its labels (uint8) on one grid (RAS, centred on 0), and how they came about.

    ``raw_labels``: the labels as they were decoded, before islands and holes were cleaned up; None if not drawn here.
    """

    image: Volume
    labels: Volume
    provenance: dict[str, Any]
    raw_labels: Volume | None = None


class Generator:
    """The two networks of a generator package, loaded once, for any number of pairs.

    Raises :class:`GeneratorError` for a device that is not there, ``PackageError`` for a package that cannot be used.
    """

    def __init__(self, package: ModelPackage, device: str = "auto") -> None:
        require_kind(package, "generator")
        try:
            self.device = resolve_device(device)
        except SegmenterError as error:
            raise GeneratorError(str(error)) from error
        self.package = package
        self.spec = cast(GeneratorSpec, package.manifest.generator)
        with _memory_in_words():
            networks = load_networks(package, self.device)
        self._denoiser, self._autoencoder = networks["diffusion"], cast(Any, networks["autoencoder"])
        network = package.manifest.networks["autoencoder"]
        self.shape, self.spacing_mm, self._window = network.patch, network.spacing_mm, network.window_hu

    def with_restarts(self, restarts: Sequence[float]) -> Generator:
        """The same networks with some of the package's restarts only."""
        other = copy.copy(self)
        gains = dict(zip(self.spec.restarts, self.spec.restart_gains, strict=False))
        kept = tuple(gains[t] for t in restarts) if gains else ()
        other.spec = self.spec.model_copy(update={"restarts": tuple(restarts), "restart_gains": kept})
        return other

    def generate_batch(self, seed: int, indices: Iterable[int], *arguments: Any, **settings: Any) -> Iterator[Pair]:
        """:meth:`generate` for each of ``indices``, one after the other."""
        for index in indices:
            yield self.generate(seed, index, *arguments, **settings)

    def generate(
        self, seed: int, index: int, conditions: Conditions | None = None, *, attempt: int = 0,
        steps: int | None = None, guidance: float | None = None, solver: str | None = None,
        progress: Callable[[Progress], None] | None = None, cancelled: Callable[[], bool] | None = None,
        preview: Preview | None = None,
    ) -> Pair:  # fmt: skip
        """Pair ``index`` of ``seed``; another ``attempt`` at it is another pair.

        ``conditions`` by name; those left out are left to chance (:meth:`with_chance`). ``progress`` is called after
        every step, ``preview`` every few; ``cancelled`` is asked at every step and ends the job with
        :class:`Cancelled`. Raises :class:`GeneratorError` for what the package does not know.
        """
        settings = check_settings(self.spec, conditions, steps, guidance, solver)
        for name, number in (("seed", seed), ("number of a pair", index), ("attempt", attempt)):
            if not 0 <= number <= MAX_SEED:
                raise GeneratorError(f"The {name} must be from 0 to {MAX_SEED}, not {number}.")
        chosen = self.with_chance(settings, seed, index, attempt)
        job = _Job(progress, cancelled)
        with torch.inference_mode(), same_bits(), _memory_in_words():
            z = self._sample((seed, index, attempt), chosen, job, preview)
            job.step("decode", 0.0)
            decoded, scores, how = self._decode(z)
        job.step("clean", 0.0)
        with same_bits():
            image, labels, raw = self._volumes((seed, index, attempt), decoded, scores)
        job.step("clean", 1.0)
        record = self._provenance((seed, index, attempt), settings, labels, how)
        record["drawn_conditions"] = {n: v for n, v in chosen.conditions.items() if n not in settings.conditions}
        record["repaired_voxels"] = int(np.count_nonzero(labels.array != raw.array))
        return Pair(image, labels, record, raw)

    # --- sampling

    def with_chance(self, settings: Settings, seed: int, index: int, attempt: int) -> Settings:
        """The settings of one pair: choices that were not asked for are drawn as often as training cases had them.

        Left unknown, a network that is not perfect draws the mean of them: a contrast between all phases.
        """
        rng = sampler.condition_generator(seed, index, attempt)
        drawn = {
            name: str(rng.choice(values, p=np.array(self.spec.chances[name]) / sum(self.spec.chances[name])))
            for name, values in self.spec.choices.items() if name in self.spec.chances
        }  # fmt: skip
        return replace(settings, conditions={**drawn, **settings.conditions})

    def _sample(
        self, number: tuple[int, int, int], settings: Settings, job: _Job, preview: Preview | None
    ) -> torch.Tensor:
        """Latents (1, C, I/4, J/4, K/4) as the autoencoder knows them."""

        def on_step(step: int, total: int, data: torch.Tensor) -> None:
            job.step("sample", step / total)
            if preview is not None and step % PREVIEW_EVERY == 0 and step < total:
                preview(step, total, self._slice(data))

        job.step("sample", 0.0)
        shape = (1, len(self.spec.latent_scale), *(side // LATENT_STRIDE for side in self.shape))
        z = sampler.noise(*number, shape).to(self.device)
        predict = sampler.guided(self._denoiser, *self._inputs(settings.conditions), settings.guidance)
        z = sampler.integrate(
            predict, z, solver=cast(sampler.Solver, settings.solver), schedule=self.spec.schedule,
            steps=settings.steps, shift=self.spec.time_shift, restarts=self.spec.restarts,
            gains=self.spec.restart_gains, generators=[sampler.step_generator(*number)], on_step=on_step,
        )  # fmt: skip
        return self._unscaled(sampler.smoothed(z, self.spec.smoothing))

    def _inputs(self, conditions: Conditions) -> tuple[torch.Tensor, torch.Tensor]:
        """The conditions as the denoiser takes them: (1, choices) int64, -1 for none; (1, numbers), NaN for none."""
        choices = [
            values.index(str(conditions[name])) if name in conditions else -1
            for name, values in self.spec.choices.items()
        ]
        numbers = [
            scaled(float(conditions[name]), *limits) if name in conditions else math.nan
            for name, limits in self.spec.numbers.items()
        ]
        to = partial(torch.tensor, device=self.device)
        return to([choices], dtype=torch.int64), to([numbers], dtype=torch.float32)

    def _unscaled(self, z: torch.Tensor) -> torch.Tensor:
        shift, scale = (z.new_tensor(v).view(-1, 1, 1, 1) for v in (self.spec.latent_shift, self.spec.latent_scale))
        return z * scale + shift

    # --- decoding

    def _decode(self, z: torch.Tensor) -> tuple[np.ndarray, np.ndarray, str]:
        """Image (I, J, K) in 0..1 and label scores (9, I, J, K), float32, and how: "whole", or else in "tiles"."""
        decoded, how = None, "whole"
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            decoded = self._both(z)
        if decoded is None:  # out here the failed attempt's tensors are no longer held by the error
            decoded, how = self._tiles(z), "tiles"
        array = self._deblocked(decoded.float())[0].cpu().numpy()
        if not np.isfinite(array).all():
            raise GeneratorError(
                f"{self.package.manifest.name} drew values that are no numbers: its weights are unfit."
            )
        return array[0], array[1:], how

    def _deblocked(self, decoded: torch.Tensor) -> torch.Tensor:
        """The image without the pattern that repeats with every latent voxel: a mean over one does not show it."""
        if self.spec.deblocking_hu is None:
            return decoded
        image, low, high = decoded[:, :1], *self._window
        smooth = bilateral(image, image, self.spec.deblocking_hu / (high - low), DEBLOCKING_TAPS)
        return torch.cat([smooth, decoded[:, 1:]], dim=1)

    def _both(self, z: torch.Tensor) -> torch.Tensor:
        """(1, 1 + 9, I, J, K): image and label scores."""
        return torch.cat(self._autoencoder.decode(z), dim=1)

    def _tiles(self, z: torch.Tensor) -> torch.Tensor:
        """The same in overlapping tiles: normalisation within each makes it differ a little."""
        from monai.inferers import sliding_window_inference

        tile = [min(TILE, side) for side in z.shape[2:]]
        whole: Any = sliding_window_inference(
            z, tile, 1, self._both, overlap=TILE_OVERLAP, mode="gaussian", device=torch.device("cpu")
        )
        return cast(torch.Tensor, whole)

    def _slice(self, data: torch.Tensor) -> np.ndarray:
        """The middle axial slice (I, J), int16 HU, from a slab of the normalised latents ``data``."""
        middle, reach = data.shape[4] // 2, PREVIEW_LATENTS // 2
        start = max(middle - reach, 0)
        image = self._autoencoder.decode(self._unscaled(data[..., start : middle + reach]))[0]
        return self._int16(self._hu(image[0, 0, :, :, (middle - start) * LATENT_STRIDE].float().cpu().numpy()))

    def _hu(self, image: np.ndarray) -> np.ndarray:
        low, high = self._window
        return low + (high - low) * image

    def _int16(self, hu: np.ndarray) -> np.ndarray:
        return np.rint(np.clip(hu, *self._window)).astype(np.int16)

    # --- what comes out

    def _volumes(
        self, number: tuple[int, int, int], image: np.ndarray, scores: np.ndarray
    ) -> tuple[Volume, Volume, Volume]:
        """Image with the package's tone and texture, labels, and labels before clean-up."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = -self.spacing_mm * (np.array(self.shape) - 1) / 2
        raw = largest(scores)
        labels = clean(raw, self.spacing_mm**3 / 1000.0)
        hu = self._hu(np.clip(image, 0.0, 1.0))
        if self.spec.tone:
            hu = tone.toned(hu, labels, self.spacing_mm, self.spec.tone)
        if self.spec.texture:
            tissues = texture.tissue_map(hu, labels)
            hu = texture.add_noise(hu, tissues, self.spec.texture, sampler.texture_generator(*number))
        return Volume(self._int16(hu), affine), Volume(labels, affine), Volume(raw, affine)

    def _provenance(
        self, number: tuple[int, int, int], settings: Settings, labels: Volume, decoded: str
    ) -> dict[str, Any]:
        """What a synthetic pair must carry with it. No times: the same pair has the same record."""
        manifest = self.package.manifest
        count = np.bincount(labels.array.ravel(order="K"), minlength=anatomy.NUM_CLASSES)
        voxel_ml = labels.grid.voxel_ml
        return {
            "synthetic": True,
            "notice": "Computed by a generator; it shows no patient.",
            "package": {"name": manifest.name, "version": manifest.version, "sha256": self.package.sha256},
            **dict(zip(("seed", "index", "attempt"), number, strict=True)),
            **asdict(settings),
            "device": self.device.partition(":")[0],
            "decoded": decoded,
            "tone": bool(self.spec.tone),
            "texture": bool(self.spec.texture),
            "volumes_ml": {s.name: round(float(count[s.value]) * voxel_ml, 2) for s in anatomy.STRUCTURES},
        }


@contextlib.contextmanager
def _memory_in_words() -> Iterator[None]:
    """A full memory as a sentence: that of a GPU, or that of the computer, of which torch has an error of its own."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise GeneratorError("The GPU's memory is too small for this package: choose the device cpu.") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise GeneratorError(
                "There is not enough memory for a pair of this package: close other programs."
            ) from error
        raise


class _Job:
    """Where a pair stands: asks whether to stop, and tells how far it is."""

    def __init__(self, progress: Callable[[Progress], None] | None, cancelled: Callable[[], bool] | None) -> None:
        self._progress, self._cancelled, self._began = progress, cancelled, time.perf_counter()

    def step(self, stage: str, share: float) -> None:
        """``share`` (0 to 1) of a stage is done."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled
        if self._progress is not None:
            start, end = _STAGES[stage]
            seconds = time.perf_counter() - self._began
            self._progress(Progress(round(start + share * (end - start)), 100, stage, seconds))
