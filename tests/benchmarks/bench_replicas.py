"""What the threshold of copies finds: true copies, chance, and whether pairs are drawn to the cases learnt from.

Copies are planted: training cases through the generator's autoencoder, and on through its restarts from some time on.
Whether pairs (of ``generate`` or ``fidelity``) are drawn to training cases is asked with as many cases that no
training saw: without any pull half of the pairs are nearer to one of those, if both are scans of one kind; the same
share of unseen cases stands beside it.
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


def planted(generator: Generator, case: Pair, number: int, first: float) -> Pair:
    """The ``case`` as the generator would draw it if it remembered it until its restart at the time ``first``."""
    spec = generator.spec
    image = torch.from_numpy(to_window(case.hu, generator._window))[None, None].float()
    labels = torch.from_numpy(case.labels.astype(np.uint8))[None, None]
    rng = sampler.step_generator(number, 0, 0)
    predict = sampler.guided(generator._denoiser, *generator._inputs({}), 1.0)
    with torch.inference_mode(), same_bits():
        mu, _ = generator._autoencoder.encode(image, labels)
        shift, scale = (mu.new_tensor(v).view(-1, 1, 1, 1) for v in (spec.latent_shift, spec.latent_scale))
        z = (mu - shift) / scale
        for again in spec.sampling.restarts:
            if again.time <= first:
                noise = z.new_tensor(rng.standard_normal(z.shape, np.float32))
                z = sampler.restart(predict, z, again.time, noise, again.gains)
        decoded, scores, _ = generator._decode(generator._processed_latents(z))
        drawn, names, _ = generator._volumes((number, 0, 0), decoded, scores)
    return Pair("", drawn.array, names.array, case.view)


def say(name: str, distances: Sequence[float], threshold: float) -> None:
    below = sum(distance < threshold for distance in distances)
    print(f"| {name} | {len(distances)} | {np.median(distances):.3f} | {min(distances):.3f} | {below} |", flush=True)


def pull(train: CaseSet, new: CaseSet, pairs: CaseSet) -> float:
    """The share of ``pairs`` that are nearer to one of some training cases than to one of as many ``new`` ones."""
    some = [train.cases[int(n)] for n in np.linspace(0, len(train) - 1, len(new))]
    learnt, unseen = memorisation.TrainingCases(replace(train, cases=some)), memorisation.TrainingCases(new)
    return float(np.mean([learnt._apart(pairs[n]).min() < unseen._apart(pairs[n]).min() for n in range(len(pairs))]))


def main(options: argparse.Namespace) -> None:
    generator = Generator(find_package(options.package), "cpu")
    view = generator_view(generator)
    train, pairs = open_case_set(options.train, view, None), open_case_set([options.pairs], view, None)
    cases = memorisation.TrainingCases(train)
    print(f"{len(cases)} training cases, threshold {cases.threshold}\n\n| | n | median | least | copies |")
    print("|---|--:|--:|--:|--:|")
    say("pairs", [cases.nearest(pairs[n])[1] for n in range(len(pairs))], cases.threshold)
    some = np.linspace(0, len(train) - 1, options.count).astype(int)
    for first in (0.0, *sorted(again.time for again in generator.spec.sampling.restarts)):
        copies = (planted(generator, train[int(n)], int(n), first) for n in some)
        name = f"copies, restarts from {first}" if first else "copies, no restarts"
        say(name, [cases.nearest(copy)[1] for copy in copies], cases.threshold)
    new = open_case_set(options.new, view, None)
    print(f"\nNearer to one of {len(new)} training cases than to any of {len(new)} new ones:")
    for name, source in (("pairs", pairs), ("unseen cases", open_case_set([options.data], view, None))):
        print(f"{name}: {pull(train, new, source):.0%} of {len(source)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", default="virtual-pairs-v1")
    parser.add_argument("--train", type=Path, action="append", required=True, help="training cases; repeatable")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs of generate --no-check, or of fidelity")
    parser.add_argument(
        "--new", type=Path, action="append", required=True, help="cases that no training saw; repeatable"
    )
    parser.add_argument("--data", type=Path, required=True, help="unseen cases to judge as the pairs are")
    parser.add_argument("--count", type=int, default=30, help="copies of each kind")
    main(parser.parse_args())
