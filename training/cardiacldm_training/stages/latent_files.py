"""The latents of all cases on disk: each case encoded unchanged and with augmentation, once for the whole training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from CardiacLDMLib.errors import is_gpu_memory_error
from CardiacLDMLib.files import replace_file, sweep
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ..cases import pairs, store
from ..errors import TrainingError
from .config import RunConfig, stream

FOLDER = "latents"
#: Increase it when the content of latent files changes: those of another version are made anew.
_FORMAT = 1
#: Pairs that a GPU encodes at once, fewer if its memory is full. A CPU takes one at a time: more are not faster there.
_BATCH = 4
#: The stream of augmentation within that of the diffusion.
_VARIANTS = 1


@dataclass(frozen=True)
class Latents:
    """The latent files of one case, the first unchanged, and its conditions as the network takes them.

    Each file holds (C, I/4, J/4, K/4) float32, not normalised.
    """

    files: list[Path]
    choices: np.ndarray
    numbers: np.ndarray


def encode_all(
    fabric: Fabric, run: Path, run_config: RunConfig, network: JointAutoencoder,
    cases: Sequence[tuple[store.PreparedCase, int]], say: Say, workers: int = 0,
) -> list[list[Path]]:  # fmt: skip
    """Return the latent files of ``cases``, each with its number of variants; encode those missing or damaged.

    The ranks share the work, and ``workers`` processes of each make its pairs. ``network`` is on the fabric's device.
    """
    files = [[path_of(run, run_config, case, n) for n in range(count)] for case, count in cases]
    missing = [
        (case, n, path)
        for (case, _), paths in zip(cases, files, strict=True) for n, path in enumerate(paths)
        if not _is_whole(path, run_config.generator.latent_shape)
    ]  # fmt: skip
    fabric.barrier()  # no rank writes before all have looked: they must agree on the missing files
    if missing and fabric.is_global_zero:
        say(f"diffusion: encoding {plural(len(missing), 'pair')} of {plural(len(cases), 'case')}.")
    (run / FOLDER).mkdir(exist_ok=True)
    sweep(run / FOLDER)
    progress = store.report_tenths(say, "pairs encoded")
    own = missing[fabric.global_rank :: fabric.world_size]
    size = _BATCH if fabric.device.type == "cuda" else 1
    loader = DataLoader(
        _Pairs(run_config, [(case, n) for case, n, _ in own]), size, num_workers=workers,
        prefetch_factor=1 if workers else None,
    )  # fmt: skip
    done = 0
    for arrays in loader:
        for latent in _encode(fabric, network, *(fabric.to_device(array) for array in arrays)):
            with replace_file(own[done][2]) as part, part.open("wb") as file:
                np.save(file, latent)
            done += 1
        if fabric.is_global_zero:
            progress(min(done * fabric.world_size, len(missing)), len(missing))
    fabric.barrier()
    return files


def path_of(run: Path, run_config: RunConfig, case: store.PreparedCase, n: int) -> Path:
    """Return the file of variant ``n`` (0: unchanged). Its name depends on all that its content depends on."""
    model, data = run_config.generator, run_config.data.diffusion
    if model.diffusion is None or data is None:
        raise TrainingError(f"{run} has no diffusion yet: train it first.")
    parts = [_FORMAT, case.key, data.autoencoder, model.grid, model.window_hu, run_config.precision, n]
    if n > 0:
        parts += [run_config.seed, model.diffusion.augment.model_dump_json()]
    return run / FOLDER / f"{hashlib.sha256(' '.join(map(str, parts)).encode()).hexdigest()[:32]}.npy"


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):  # ValueError: cut short, or another kind of file
        return False


class _Pairs(Dataset):
    """Image and labels of variants of cases, as the autoencoder takes them."""

    def __init__(self, run_config: RunConfig, variants: Sequence[tuple[store.PreparedCase, int]]) -> None:
        self._run_config, self._variants = run_config, variants

    def __len__(self) -> int:
        return len(self._variants)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        (case, n), model, rng, augment = self._variants[index], self._run_config.generator, None, None
        if n > 0:
            seeds = [self._run_config.seed, stream("diffusion"), _VARIANTS, int(case.key[:8], 16), n]
            rng = np.random.default_rng(np.random.SeedSequence(seeds))
            augment = model.diffusion.augment if model.diffusion else None
        return pairs.pair(case, model.grid, model.window_hu, rng=rng, settings=augment)


def _encode(fabric: Fabric, network: JointAutoencoder, image: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return the posterior means (N, C, I/4, J/4, K/4) float32 of N pairs; half of them at a time if memory is full."""
    try:
        with torch.inference_mode(), fabric.autocast():
            mu, _ = network.encode(image, labels)
        return mu.float().cpu().numpy()
    except RuntimeError as error:
        if len(image) == 1 or not is_gpu_memory_error(error):
            raise
    half = len(image) // 2  # outside the except block, the error no longer holds the failed attempt's tensors
    parts = (slice(half), slice(half, None))
    return np.concatenate([_encode(fabric, network, image[part], labels[part]) for part in parts])
