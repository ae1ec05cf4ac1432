"""The latents of all cases on disk: each case encoded unchanged and with augmentation, once for the whole training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric

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
    cases: Sequence[tuple[store.PreparedCase, int]], say: Say,
) -> list[list[Path]]:  # fmt: skip
    """Return the latent files of ``cases``, each with its number of variants; encode those missing or damaged.

    The ranks share the work. ``network`` is on the fabric's device.
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
    for done, (case, n, path) in enumerate(missing):
        if done % fabric.world_size == fabric.global_rank:
            _encode(fabric, run_config, network, case, n, path)
        if fabric.is_global_zero:
            progress(done + 1, len(missing))
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


def _encode(
    fabric: Fabric, run_config: RunConfig, network: JointAutoencoder, case: store.PreparedCase, n: int, path: Path
) -> None:
    model = run_config.generator
    rng, augment = None, None
    if n > 0:
        case_seed = int(case.key[:8], 16)
        rng = np.random.default_rng(
            np.random.SeedSequence([run_config.seed, stream("diffusion"), _VARIANTS, case_seed, n])
        )
        augment = model.diffusion.augment if model.diffusion else None
    arrays = pairs.pair(case, model.grid, model.window_hu, rng=rng, settings=augment)
    with torch.inference_mode(), fabric.autocast():
        mu, _ = network.encode(*(fabric.to_device(torch.from_numpy(array)[None]) for array in arrays))
    with replace_file(path) as part, part.open("wb") as file:
        np.save(file, mu[0].float().cpu().numpy())
