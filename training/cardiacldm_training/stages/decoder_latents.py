"""The latents that a fine decoder learns from: those of true pairs, as the denoiser returns them.

A sampled latent is the denoiser's estimate from a noisy one: it lacks the detail that the noise hid. So each case is
encoded, noised to several times and denoised in one step; the decoder learns to make the true pair of the estimate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from CardiacLDMLib import anatomy
from CardiacLDMLib.files import replace_file, sweep
from CardiacLDMLib.generation import sampler
from CardiacLDMLib.networks.architectures import LATENT_STRIDE
from CardiacLDMLib.packages.generator_spec import SOLVERS, GeneratorSpec, Schedule
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ..cases import conditions, pairs, store
from .config import DecoderModel, RunConfig, stream
from .diffusion import add_noise

FOLDER = "latents"
#: Increase it when the content of the files changes.
_FORMAT = 1
#: Times of rectified flow: below these, a latent is nearly the encoded one; beyond them, that of another heart.
TIMES = (0.15, 0.8)


class DecoderLatents:
    """The latents of cases on disk: each file holds (1 + V, C, I/4, J/4, K/4) float16, the encoded latent first.

    They are on the autoencoder's scale. Variant ``n`` was noised to a time within part ``n`` of :data:`TIMES`.
    ``case_conditions``: the known conditions of each case by its name.
    """

    def __init__(
        self, run: Path, run_config: RunConfig, package: ModelPackage, case_conditions: conditions.CaseConditions
    ) -> None:
        self._folder, self._seed, self._package = run / FOLDER, run_config.seed, package
        self._conditions = case_conditions
        self._model: DecoderModel = run_config.fine_decoder
        self.variants = self._model.decoder.variants
        spec = package.manifest.generator
        assert spec is not None  # the manifest of a generator has it
        self._spec: GeneratorSpec = spec

    def path_of(self, case: store.PreparedCase) -> Path:
        """Return the file of a case. Its name depends on all that its content depends on."""
        known = conditions.digest({"": self._conditions.get(case.name, {})})
        parts = [_FORMAT, case.key, known, self._model.generator, self._seed, self.variants, TIMES]
        return self._folder / f"{hashlib.sha256(' '.join(map(str, parts)).encode()).hexdigest()[:32]}.npy"

    def read(self, case: store.PreparedCase, variant: int) -> np.ndarray:
        """Return a latent (C, I/4, J/4, K/4) float32; variant 0 is the encoded one."""
        return np.load(self.path_of(case), mmap_mode="r")[variant].astype(np.float32)

    def make_all(self, fabric: Fabric, cases: Sequence[store.PreparedCase], say: Say) -> None:
        """Make the missing files; the ranks share the work."""
        missing = [case for case in cases if not self._is_whole(self.path_of(case))]
        fabric.barrier()  # no rank writes before all have looked: they must agree on the missing files
        self._folder.mkdir(parents=True, exist_ok=True)
        sweep(self._folder)
        if missing:
            if fabric.is_global_zero:
                say(f"decoder: encoding and denoising {plural(len(missing), 'case')}.")
            networks = {name: fabric.to_device(net) for name, net in load_networks(self._package).items()}
            progress = store.report_tenths(say, "cases encoded")
            for done, case in enumerate(missing[fabric.global_rank :: fabric.world_size], start=1):
                latents = self._latents(fabric, networks, case)
                with replace_file(self.path_of(case)) as part, part.open("wb") as file:
                    np.save(file, latents)
                if fabric.is_global_zero:
                    progress(min(done * fabric.world_size, len(missing)), len(missing))
        fabric.barrier()

    def _is_whole(self, path: Path) -> bool:
        shape = (len(self._spec.latent_scale), *(side // LATENT_STRIDE for side in self._model.grid))
        try:
            return np.load(path, mmap_mode="r").shape == (1 + self.variants, *shape)
        except (OSError, ValueError, EOFError):
            return False

    @torch.inference_mode()
    def _latents(self, fabric: Fabric, networks: dict[str, Any], case: store.PreparedCase) -> np.ndarray:
        spec = self._spec
        arrays = pairs.pair(case, self._model.fine_grid, self._model.window_hu)
        image, labels = coarse_pair(*(fabric.to_device(torch.from_numpy(array)[None]) for array in arrays))
        seeds = np.random.SeedSequence([self._seed, stream("decoder"), int(case.key[:8], 16)])
        rng = np.random.default_rng(seeds)
        mu, _ = networks["autoencoder"].encode(image, labels)
        shift, scale = (mu.new_tensor(v).view(-1, 1, 1, 1) for v in (spec.latent_shift, spec.latent_scale))
        data = (mu - shift) / scale
        choices, numbers = (fabric.to_device(torch.from_numpy(v)[None]) for v in self._encoded_conditions(case))
        predict = sampler.guided(networks["diffusion"], choices, numbers, 1.0)
        latents = [data]
        for t in _times(self.variants, rng):
            noise = rng.standard_normal(tuple(data.shape), np.float32)
            time = _time_of(spec.sampling.schedule, t)
            noisy, _ = add_noise(spec.sampling.schedule, data.cpu().numpy(), noise, time)
            latents.append(_estimate(spec, predict, data.new_tensor(noisy), time))
        return (torch.cat(latents) * scale + shift).cpu().numpy().astype(np.float16)

    def _encoded_conditions(self, case: store.PreparedCase) -> tuple[np.ndarray, np.ndarray]:
        """Return the known conditions of a case as the package's denoiser takes them."""
        choices = {name: tuple(values) for name, values in self._spec.choices.items()}
        vocabulary = conditions.Vocabulary(choices=choices, numbers=self._spec.numbers, chances={})
        return vocabulary.encode(self._conditions.get(case.name, {}))


def _estimate(spec: GeneratorSpec, predict: sampler.Predict, z: torch.Tensor, t: float) -> torch.Tensor:
    """Return the data that the denoiser sees in noisy latents at the time ``t``."""
    solver = SOLVERS[spec.sampling.schedule][0]  # both are deterministic
    return sampler.SOLVER_STEPS[solver](predict, z, t, 0.0, sampler.noise_source([]))[1]


def _times(count: int, rng: np.random.Generator) -> list[float]:
    """Return one random time of rectified flow in each of ``count`` equal parts of the range."""
    low, high = TIMES
    return [low + (high - low) * float(n + rng.random()) / count for n in range(count)]


def _time_of(schedule: Schedule, t: float) -> float:
    """Return the time of a schedule at which data are as noisy as at the time ``t`` of rectified flow."""
    if schedule == "rectified_flow":
        return t
    share = (1 - t) ** 2 / ((1 - t) ** 2 + t**2)  # the data's, of the variance
    return int(np.abs(sampler.signal_shares() - share).argmin()) / sampler.DDPM_STEPS


def coarse_pair(image: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a pair (N, 1, I, J, K) with voxels of twice the size: means of the image, the most frequent label."""
    pool = torch.nn.functional.avg_pool3d
    shares = torch.cat([pool((labels == value).to(image.dtype), 2) for value in range(anatomy.NUM_CLASSES)], dim=1)
    return pool(image, 2), shares.argmax(dim=1, keepdim=True).to(torch.uint8)
