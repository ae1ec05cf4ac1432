"""What the memorisation threshold finds: planted copies, chance, and whether pairs resemble training cases.

Copies are planted: training cases pass the generator's autoencoder and its last restarts. Whether pairs (of
``generate`` or ``fidelity``) resemble training cases is tested with as many cases that no training saw: without
memorisation half of the pairs are nearer to one of those, if both are scans of one kind. The same share is reported for
held-out cases.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cardiacldm_training.evaluation.fidelity import memorisation
from cardiacldm_training.evaluation.fidelity.cases import CaseSet, Pair, open_case_set
from cardiacldm_training.evaluation.fidelity.solvers import generator_view
from CardiacLDMLib.generation import sampler
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.packages.store import find_package
from CardiacLDMLib.segmentation.scan import to_window
from CardiacLDMLib.torch_device import same_bits


def plant_copy(generator: Generator, case: Pair, number: int, first: float) -> Pair:
    """Return the pair that a generator would make if it had memorised the ``case``, from its restart at ``first``."""
    spec = generator.spec
    image = torch.from_numpy(to_window(case.hu, generator._window))[None, None].float()
    labels = torch.from_numpy(case.labels.astype(np.uint8))[None, None]
    rng = sampler.step_generator(number, 0, 0)
    predict = sampler.guided(generator._denoiser, *generator._inputs({}), 1.0)
    with torch.inference_mode(), same_bits():
        mu, _ = generator._autoencoder.encode(image, labels)
        shift, scale = (mu.new_tensor(v).view(-1, 1, 1, 1) for v in (spec.latent_shift, spec.latent_scale))
        z = (mu - shift) / scale
        for restart in spec.sampling.restarts:
            if restart.time <= first:
                noise = z.new_tensor(rng.standard_normal(z.shape, np.float32))
                z = sampler.restart(predict, z, restart.time, noise, restart.gains)
        decoded, scores, _ = generator._decode(generator._processed_latents(z))
        copy, copy_labels, _ = generator._volumes((number, 0, 0), decoded, scores)
    return Pair("", copy.array, copy_labels.array, case.view)


def print_row(name: str, distances: Sequence[float], threshold: float) -> None:
    below = sum(distance < threshold for distance in distances)
    print(f"| {name} | {len(distances)} | {np.median(distances):.3f} | {min(distances):.3f} | {below} |", flush=True)


def share_nearer(train: CaseSet, new: CaseSet, pairs: CaseSet) -> float:
    """Return the share of ``pairs`` that are nearer to one of ``train`` than to one of as many ``new`` cases."""
    some = [train.cases[int(n)] for n in np.linspace(0, len(train) - 1, len(new))]
    one, other = memorisation.TrainingCases(replace(train, cases=some)), memorisation.TrainingCases(new)
    return float(
        np.mean([one._distances(pairs[n]).min() < other._distances(pairs[n]).min() for n in range(len(pairs))])
    )


def main(options: argparse.Namespace) -> None:
    generator = Generator(find_package(options.package), "cpu")
    view = generator_view(generator)
    train, pairs = open_case_set(options.train, view, None), open_case_set([options.pairs], view, None)
    cases = memorisation.TrainingCases(train)
    print(f"{len(cases)} training cases, threshold {cases.threshold}\n\n| | n | median | smallest | copies |")
    print("|---|--:|--:|--:|--:|")
    print_row("pairs", [cases.nearest(pairs[n])[1] for n in range(len(pairs))], cases.threshold)
    some = np.linspace(0, len(train) - 1, options.count).astype(int)
    for first in (0.0, *sorted(restart.time for restart in generator.spec.sampling.restarts)):
        copies = (plant_copy(generator, train[int(n)], int(n), first) for n in some)
        name = f"copies, restarts from {first}" if first else "copies, no restarts"
        print_row(name, [cases.nearest(copy)[1] for copy in copies], cases.threshold)
    new = open_case_set(options.new, view, None)
    print(f"\nNearer to one of {len(new)} training cases than to any of {len(new)} new ones:")
    for name, source in (("pairs", pairs), ("held-out cases", open_case_set([options.data], view, None))):
        print(f"{name}: {share_nearer(train, new, source):.0%} of {len(source)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", default="virtual-pairs-v2")
    parser.add_argument("--train", type=Path, action="append", required=True, help="training cases; repeatable")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs of generate --no-check, or of fidelity")
    parser.add_argument(
        "--new", type=Path, action="append", required=True, help="cases that no training saw; repeatable"
    )
    parser.add_argument("--data", type=Path, required=True, help="held-out cases, for comparison")
    parser.add_argument("--count", type=int, default=30, help="copies of each kind")
    main(parser.parse_args())
