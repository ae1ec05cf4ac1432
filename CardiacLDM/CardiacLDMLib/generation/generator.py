"""Generate a synthetic cardiac CT with its labels from a generator package and a seed.

The same package, settings, seed and number give the same pair on the same kind of processor. For this, each pair is
computed alone and with a fixed number of CPU threads: torch sums in another order for another batch or thread count.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from ..errors import GeneratorError, MemoryShortage, explain, is_gpu_memory_error
from ..image.grid import Volume
from ..image.labels import volumes_ml
from ..image.resample import largest
from ..networks.architectures import LATENT_STRIDE
from ..packages.generator_spec import GeneratorSpec, Restart
from ..packages.store import ModelPackage, require_kind
from ..packages.weights import load_networks
from ..postprocess.kinds import HuStep, ImageStep, LatentStep
from ..progress import Cancelled, Progress
from ..segmentation.cleanup import clean
from ..torch_device import choose_device, same_bits
from . import sampler
from .settings import MAX_SEED, Conditions, Settings, check_settings, scale_number

#: Steps between two previews, and the thickness in latent voxels of the slab that is decoded for one.
PREVIEW_EVERY, PREVIEW_LATENTS = 4, 4
#: Side of a tile in latent voxels, and the overlap of tiles, where a GPU cannot decode the whole grid at once.
TILE, TILE_OVERLAP = 16, 0.5

#: Start and end of each stage on the progress bar, percent.
_STAGES = {"sample": (0, 85), "decode": (85, 97), "clean": (97, 100)}
#: Called with the number of the step, the number of steps, and the middle axial slice by then (I, J; int16 HU).
OnPreview = Callable[[int, int, np.ndarray], None]
#: Seed, index and attempt of a pair.
PairNumber = tuple[int, int, int]


@dataclass(frozen=True)
class Pair:
    """A synthetic CT (int16 HU) and its labels (uint8) on one grid (RAS, centred on 0), with their provenance.

    ``raw_labels``: the decoded labels before clean-up; None for a pair that was read from a file.
    """

    image: Volume
    labels: Volume
    provenance: dict[str, Any]
    raw_labels: Volume | None = None


class Generator:
    """The networks of a generator package, loaded once for any number of pairs.

    Raises ``DeviceError`` for a device that is not available, ``PackageError`` for a package that cannot be used,
    :class:`MemoryShortage` if its networks do not fit in memory. ``remark``: a sentence if a GPU cannot be used.
    """

    def __init__(self, package: ModelPackage, device: str = "auto") -> None:
        require_kind(package, "generator")
        chosen = choose_device(device)
        self.device, self.remark = chosen.name, chosen.remark
        self.package = package
        self.spec = cast(GeneratorSpec, package.manifest.generator)
        with _memory_errors():
            networks = load_networks(package, self.device)
        self._denoiser, self._autoencoder = networks["diffusion"], cast(Any, networks["autoencoder"])
        self._decoder = cast(Any, networks.get("decoder"))
        network, self._coarse_shape = package.manifest.pair_network, package.manifest.networks["autoencoder"].patch
        self.shape, self.spacing_mm, self._window = network.patch, network.spacing_mm, network.window_hu

    def with_restarts(self, restarts: tuple[Restart, ...]) -> Generator:
        """Return a generator with the same networks and other restarts."""
        other = copy.copy(self)
        sampling = self.spec.sampling.model_copy(update={"restarts": restarts})
        other.spec = self.spec.model_copy(update={"sampling": sampling})
        return other

    def generate(
        self, seed: int, index: int, conditions: Conditions | None = None, *, attempt: int = 0,
        steps: int | None = None, guidance: float | None = None, solver: str | None = None,
        progress: Callable[[Progress], None] | None = None, cancelled: Callable[[], bool] | None = None,
        preview: OnPreview | None = None,
    ) -> Pair:  # fmt: skip
        """Return pair ``index`` of ``seed``; each ``attempt`` gives another pair.

        ``conditions`` by name; see :meth:`with_sampled_conditions` for unset ones. ``steps``, ``guidance``, ``solver``:
        None stands for the package's own. ``progress`` is called after every step, ``preview`` after every
        ``PREVIEW_EVERY``-th one. ``cancelled`` is called at every step; if it returns True, :class:`Cancelled` is
        raised. Raises :class:`GeneratorError` for settings that do not fit the package, and :class:`MemoryShortage`.
        """
        settings = check_settings(self.spec, conditions, steps, guidance, solver)
        for name, number in (("seed", seed), ("number of a pair", index), ("attempt", attempt)):
            if not 0 <= number <= MAX_SEED:
                raise GeneratorError(f"The {name} must be from 0 to {MAX_SEED}, not {number}.")
        pair_number = seed, index, attempt
        complete = self.with_sampled_conditions(settings, *pair_number)
        job = _Job(progress, cancelled)
        with torch.inference_mode(), same_bits(), _memory_errors():
            z = self._sample(pair_number, complete, job, preview)
            job.step("decode", 0.0)
            decoded, scores, decoding = self._decode(self._with_noise(z, pair_number))
        job.step("clean", 0.0)
        with same_bits():
            image, labels, raw = self._volumes(pair_number, decoded, scores)
        job.step("clean", 1.0)
        record = self._provenance(pair_number, settings, labels, decoding)
        record["drawn_conditions"] = {n: v for n, v in complete.conditions.items() if n not in settings.conditions}
        record["repaired_voxels"] = int(np.count_nonzero(labels.array != raw.array))
        return Pair(image, labels, record, raw)

    # --- sampling

    def with_sampled_conditions(self, settings: Settings, seed: int, index: int, attempt: int) -> Settings:
        """Return the settings of one pair, its unset choices sampled from their frequency in the training set.

        An unset choice would make the network average over its values, for example over all contrast phases.
        """
        rng = sampler.condition_generator(seed, index, attempt)
        sampled = {
            name: str(rng.choice(values, p=np.array(self.spec.chances[name]) / sum(self.spec.chances[name])))
            for name, values in self.spec.choices.items() if name in self.spec.chances
        }  # fmt: skip
        return replace(settings, conditions={**sampled, **settings.conditions})

    def _sample(self, number: PairNumber, settings: Settings, job: _Job, preview: OnPreview | None) -> torch.Tensor:
        """Return sampled latents (1, C, I/4, J/4, K/4) on the autoencoder's scale."""

        def on_step(step: int, total: int, data: torch.Tensor) -> None:
            job.step("sample", step / total)
            if preview is not None and step % PREVIEW_EVERY == 0 and step < total:
                preview(step, total, self._slice(data))

        job.step("sample", 0.0)
        shape = (1, len(self.spec.latent_scale), *(side // LATENT_STRIDE for side in self._coarse_shape))
        z = sampler.noise(*number, shape).to(self.device)
        predict = sampler.guided(self._denoiser, *self._inputs(settings.conditions), settings.guidance)
        z = sampler.integrate(
            predict,
            z,
            settings.apply_to(self.spec.sampling),
            generators=[sampler.step_generator(*number)],
            on_step=on_step,
        )
        return self._processed_latents(z)

    def _processed_latents(self, z: torch.Tensor) -> torch.Tensor:
        """Return sampled latents after the steps of post-processing on latents, on the autoencoder's scale."""
        for step in self.spec.postprocess:
            if isinstance(step, LatentStep):
                z = step.apply(z)
        return self._unscaled(z)

    def _inputs(self, conditions: Conditions) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the conditions for the denoiser: choices (1, A) int64, -1 for unset; numbers (1, B), NaN for unset."""
        choices = [
            values.index(str(conditions[name])) if name in conditions else -1
            for name, values in self.spec.choices.items()
        ]
        numbers = [
            scale_number(float(conditions[name]), *limits) if name in conditions else math.nan
            for name, limits in self.spec.numbers.items()
        ]
        tensor = partial(torch.tensor, device=self.device)
        return tensor([choices], dtype=torch.int64), tensor([numbers], dtype=torch.float32)

    def _unscaled(self, z: torch.Tensor) -> torch.Tensor:
        shift, scale = (z.new_tensor(v).view(-1, 1, 1, 1) for v in (self.spec.latent_shift, self.spec.latent_scale))
        return z * scale + shift

    # --- decoding

    def _with_noise(self, z: torch.Tensor, number: PairNumber) -> torch.Tensor:
        """Return latents with the noise that a fine decoder takes as further channels, so that tiles have theirs."""
        if self._decoder is None:
            return z
        shape = (1, self._decoder.noise_channels, *z.shape[2:])
        noise = sampler.decoder_generator(*number).standard_normal(shape, np.float32)
        return torch.cat([z, torch.from_numpy(noise).to(self.device)], dim=1)

    def _decode(self, z: torch.Tensor) -> tuple[np.ndarray, np.ndarray, str]:
        """Return the image (I, J, K) in 0..1, label scores (9, I, J, K), both float32, and "whole" or "tiles"."""
        decoded, decoding = None, "whole"
        try:
            decoded = self._decode_whole(z)
        except RuntimeError as error:
            if not is_gpu_memory_error(error):
                raise
        if decoded is None:  # outside the block, the error no longer holds the failed attempt's tensors
            decoded, decoding = self._decode_tiles(z), "tiles"
        decoded = decoded.float()
        image = decoded[:, :1]
        for step in self.spec.postprocess:
            if isinstance(step, ImageStep):
                image = step.apply(image, self._window)
        array = torch.cat([image, decoded[:, 1:]], dim=1)[0].cpu().numpy()
        if not np.isfinite(array).all():
            name = self.package.manifest.name
            raise GeneratorError(f"{name} computed values that are not numbers: its weights cannot be used.")
        return array[0], array[1:], decoding

    def _decode_whole(self, z: torch.Tensor) -> torch.Tensor:
        """Return image and label scores as one tensor (1, 1 + 9, I, J, K)."""
        if self._decoder is None:
            return torch.cat(self._autoencoder.decode(z), dim=1)
        channels = len(self.spec.latent_scale)
        return torch.cat(self._decoder(z[:, :channels], z[:, channels:]), dim=1)

    def _decode_tiles(self, z: torch.Tensor) -> torch.Tensor:
        """Do the same in overlapping tiles. Group normalisation within each tile changes the result a little."""
        from monai.inferers import sliding_window_inference

        tile = [min(TILE, side) for side in z.shape[2:]]
        whole: Any = sliding_window_inference(
            z, tile, 1, self._decode_whole, overlap=TILE_OVERLAP, mode="gaussian", device=torch.device("cpu")
        )
        return cast(torch.Tensor, whole)

    def _slice(self, data: torch.Tensor) -> np.ndarray:
        """Return the middle axial slice (I, J), int16 HU, decoded from a slab of the normalised latents ``data``.

        It has the voxels of the autoencoder, also where a fine decoder makes the pair.
        """
        middle, reach = data.shape[4] // 2, PREVIEW_LATENTS // 2
        start = max(middle - reach, 0)
        image = self._autoencoder.decode(self._unscaled(data[..., start : middle + reach]))[0]
        return self._int16(self._hu(image[0, 0, :, :, (middle - start) * LATENT_STRIDE].float().cpu().numpy()))

    def _hu(self, image: np.ndarray) -> np.ndarray:
        low, high = self._window
        return low + (high - low) * image

    def _int16(self, hu: np.ndarray) -> np.ndarray:
        return np.rint(np.clip(hu, *self._window)).astype(np.int16)

    # --- the result

    def _volumes(self, number: PairNumber, image: np.ndarray, scores: np.ndarray) -> tuple[Volume, Volume, Volume]:
        """Return the post-processed image, the labels, and the labels before clean-up."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = -self.spacing_mm * (np.array(self.shape) - 1) / 2
        raw = largest(scores)
        labels = clean(raw, self.spacing_mm**3 / 1000.0)
        hu = self._hu(np.clip(image, 0.0, 1.0))
        rng = sampler.postprocess_generator(*number)
        for step in self.spec.postprocess:
            if isinstance(step, HuStep):
                hu = step.apply(hu, labels, self.spacing_mm, rng)
        return Volume(self._int16(hu), affine), Volume(labels, affine), Volume(raw, affine)

    def _provenance(self, number: PairNumber, settings: Settings, labels: Volume, decoding: str) -> dict[str, Any]:
        """Return the record of a synthetic pair. It holds no times: the same pair has the same record."""
        manifest = self.package.manifest
        steps = {step.step for step in self.spec.postprocess}
        return {
            "synthetic": True,
            "notice": "Computed by a generator; it shows no patient.",
            "package": {"name": manifest.name, "version": manifest.version, "sha256": self.package.sha256},
            **dict(zip(("seed", "index", "attempt"), number, strict=True)),
            **asdict(settings),
            "device": self.device.partition(":")[0],
            "decoded": decoding,
            "tone": "tone" in steps,
            "texture": "texture" in steps,
            "volumes_ml": {name: round(ml, 2) for name, ml in volumes_ml(labels.array, labels.grid.voxel_ml).items()},
        }


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn an error of full memory, of the GPU or of the computer, into a :class:`MemoryShortage`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_gpu_memory_error(error):
            raise MemoryShortage("The GPU's memory is too small for this package: choose the device cpu.") from error
        if explain(error).kind == "memory":
            raise MemoryShortage(
                "There is not enough memory for a pair of this package: close other programs."
            ) from error
        raise


class _Job:
    """Report the progress of one pair, and stop it when it is cancelled."""

    def __init__(self, progress: Callable[[Progress], None] | None, cancelled: Callable[[], bool] | None) -> None:
        self._progress, self._cancelled, self._began = progress, cancelled, time.perf_counter()

    def step(self, stage: str, share: float) -> None:
        """Report that ``share`` (0 to 1) of a stage is done."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled
        if self._progress is not None:
            start, end = _STAGES[stage]
            seconds = time.perf_counter() - self._began
            self._progress(Progress(round(start + share * (end - start)), 100, stage, seconds))
