"""The distance of sampled latents to the training latents, beside that of held-out cases.

The fidelity report compares images and labels, and smooth images resemble many others. This benchmark compares latents
along the modes of the denoiser's prior, each in units of its own standard deviation, so that finer detail does not
count. The latent of a training case is compared with those of all other cases, unchanged and augmented.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cardiacldm_training.cases import prepare, split
from cardiacldm_training.evaluation.fidelity.memorisation import threshold
from cardiacldm_training.stages import calibration, diffusion, latent_files
from cardiacldm_training.stages.run_folder import read_config
from CardiacLDMLib.generation import sampler
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.packages.store import find_package


def coordinates(prior: Any, latents: np.ndarray) -> np.ndarray:
    """(N, M) of normalised latents (N, C, I, J, K), of variance 1 over the training latents."""
    mean, modes, variances = (part.flatten(first).numpy() for part, first in (
        (prior.mean, 0), (prior.modes, 1), (prior.variances, 0)))  # fmt: skip
    return (latents.reshape(len(latents), -1) - mean) @ modes.T / np.sqrt(variances)


def case_coordinates(run: Path, folders: list[Path], prior: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of the training latents, the number of each one's case, and coordinates of the held-out cases."""
    run_config = read_config(run)
    settings, _ = diffusion.diffusion_of(run_config)
    statistics = calibration.read_latent_statistics(run)
    shift, scale = (np.array(v, np.float32)[:, None, None, None] for v in (statistics.shift, statistics.scale))
    prepared = prepare.prepare_cases(folders, None, run_config.generator.spacing_mm, 1, lambda line: None)
    rows: dict[bool, list[np.ndarray]] = {True: [], False: []}
    cases = []
    train, held_out = split.split(prepared.cases, run_config.validation_part)
    for number, case in enumerate([*train, *held_out]):
        training = number < len(train)
        for n in range(settings.variants if training else 1):
            path = latent_files.path_of(run, run_config, case, n)
            rows[training].append(coordinates(prior, ((np.load(path) - shift) / scale)[None])[0])
            cases += [number] if training else []
    return np.stack(rows[True]), np.array(cases), np.stack(rows[False])


def sample_coordinates(generator: Generator, seed: int, count: int, prior: Any) -> np.ndarray:
    """Coordinates of sampled latents, before post-processing."""
    spec = generator.spec
    shape = (1, len(spec.latent_scale), *prior.mean.shape[1:])
    predict = sampler.guided(generator._denoiser, *generator._inputs({}), 1.0)
    restarts = tuple(restart.model_copy(update={"gains": ()}) for restart in spec.sampling.restarts)
    without_gains = spec.sampling.model_copy(update={"restarts": restarts})
    rows = []
    for index in range(count):
        with torch.inference_mode():
            z = sampler.integrate(
                predict, sampler.noise(seed, index, 0, shape), without_gains,
                generators=[sampler.step_generator(seed, index, 0)],
            )  # fmt: skip
        rows.append(coordinates(prior, z.numpy())[0])
    return np.stack(rows)


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, M) root mean square of the difference along the modes."""
    return np.sqrt(np.square(one[:, None] - other[None]).mean(2))


def main(run: Path, folders: list[Path], package: str, seed: int, count: int) -> None:
    generator = Generator(find_package(package), "cpu")
    prior = generator._denoiser.prior
    train, cases, held_out = case_coordinates(run, folders, prior)
    among = distances(train, train)
    among[cases[:, None] == cases[None]] = np.inf
    first = np.searchsorted(cases, np.unique(cases))  # each case without augmentation
    sets = {"training cases, each held out": among.min(1)[first], "held-out cases": distances(held_out, train).min(1)}
    sets["samples"] = distances(sample_coordinates(generator, seed, count, prior), train).min(1)
    limit = threshold(sets["training cases, each held out"])
    print(f"Distance to the nearest training case along {len(prior.modes)} modes; a copy is nearer than {limit:.3f}.\n")
    print("| | n | median | smallest | copies |\n|---|--:|--:|--:|--:|")
    for name, nearest in sets.items():
        print(
            f"| {name} | {len(nearest)} | {np.median(nearest):.3f} | {nearest.min():.3f} | {(nearest < limit).sum()} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the generator's training run")
    parser.add_argument("--data", type=Path, action="append", required=True, help="its cases, may be repeated")
    parser.add_argument("--package", default="virtual-pairs-v2")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=40)
    options = parser.parse_args()
    main(options.run, options.data, options.package, options.seed, options.count)
