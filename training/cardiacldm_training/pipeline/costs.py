"""What a pipeline will take on this machine: time, disk and memory, estimated from a trial of each network.

A trial runs the network on a part of its patch, forward and back, and is scaled by the number of voxels. So it needs
little memory, whatever the preset. Reading of scans and start of programs, some ten seconds a step, are left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from CardiacLDMLib.networks.architectures import LATENT_STRIDE
from CardiacLDMLib.networks.build import build_network, build_reconstructor
from CardiacLDMLib.networks.joint_autoencoder import JointAutoencoder
from CardiacLDMLib.packages.store import find_package
from CardiacLDMLib.torch_device import resolve_device

from ..stages import autoencoder, generator_presets, presets
from ..stages.adversary import VIEW_CHANNELS
from ..stages.config import DataFacts, GeneratorModel, NetworkConfig, PretrainConfig, SegmenterModel
from ..stages.masking import parse_mask
from .steps import FURTHER_SHARE, Budget, Settings

#: Voxels of a trial's patch along each axis, at most. Every network halves it a few times.
_SIDE = 64
#: Validations, examples and checkpoints take time too, as part of that of the steps.
_OVERHEAD = 1.3
#: Bytes of weights, gradients, AdamW's two moments and the average, for each weight.
_BYTES_PER_WEIGHT = 20
#: Memory of torch, Lightning and MONAI themselves.
_LIBRARIES_BYTES = 700e6
#: Attempts at an accepted pair.
_ATTEMPTS = 2
#: Conditions of the trial's denoiser; their number changes little.
_CHOICES, _NUMBERS = (3, 3), 8


@dataclass(frozen=True)
class Cost:
    """Seconds, bytes on the disk, and bytes of memory: of the GPU if there is one."""

    seconds: float = 0.0
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0


@dataclass(frozen=True)
class _Trial:
    """One network: seconds of a training step and of a forward pass, memory of training, and weights."""

    step_seconds: float
    forward_seconds: float
    memory_bytes: float
    weights: int

    def training(self, steps: int) -> Cost:
        disk = 2 * _BYTES_PER_WEIGHT * self.weights  # the best and the last checkpoint
        return Cost(_OVERHEAD * steps * self.step_seconds, disk, self.memory_bytes + _LIBRARIES_BYTES)


def budget(settings: Settings, cases: int) -> Budget:
    """Return how much each step does with ``cases`` training cases. Raises :class:`ConfigError`."""
    facts = DataFacts(cases=max(cases, 1), digest="")
    pairs = max(settings.pairs_per_case * cases, 2)
    of_pairs = DataFacts(cases=pairs, digest="")
    networks = (
        generator_presets.generator_config(settings.preset, facts).generator.autoencoder,
        generator_presets.diffusion_config(settings.preset),
        presets.pretraining_config(settings.preset, of_pairs, parse_mask("paper")).pretraining.network,
        presets.segmenter_config(settings.preset, facts).segmenter.segmenter,
    )
    steps = [max(round(settings.effort * network.steps), 1) for network in networks]
    if settings.segmenter:
        steps[3] = max(round(FURTHER_SHARE * steps[3]), 1)
    return Budget(autoencoder=steps[0], diffusion=steps[1], pretrain=steps[2], segmenter=steps[3], pairs=pairs)


def estimate(settings: Settings, work: Budget, device: str) -> dict[str, Cost]:
    """Return the cost of each step by its name, without that of reading scans. Raises ConfigError, DeviceError."""
    name = resolve_device(device)
    facts = DataFacts(cases=1, digest="")
    segmenter = presets.segmenter_config(settings.preset, facts).segmenter
    costs = _segmenter_costs(segmenter, work, name)
    if "generate" in settings.skip:
        return costs
    pretraining = presets.pretraining_config(settings.preset, facts, parse_mask("paper")).pretraining.network
    costs["pretraining"] = _try_segmenter(pretraining, name).training(work.pretrain)
    return costs | _generator_costs(settings, work, name)


def total(costs: Mapping[str, Cost], names: Sequence[str]) -> Cost:
    """Return the sum of seconds and bytes of the steps ``names``, and the most memory that one of them needs."""
    chosen = [costs[name] for name in names if name in costs]
    return Cost(
        sum(cost.seconds for cost in chosen), sum(cost.disk_bytes for cost in chosen),
        max((cost.memory_bytes for cost in chosen), default=0.0),
    )  # fmt: skip


# --- the networks --------------------------------------------------------------------------------------------------


def _segmenter_costs(model: SegmenterModel, work: Budget, device: str) -> dict[str, Cost]:
    parts = [_try_segmenter(network, device) for network in (model.locator, model.segmenter)]
    ratio = work.segmenter / model.segmenter.steps
    locator, segmenter = parts[0].training(round(ratio * model.locator.steps)), parts[1].training(work.segmenter)
    return {"segmenter": total({"locator": locator, "segmenter": segmenter}, ("locator", "segmenter"))}


def _generator_costs(settings: Settings, work: Budget, device: str) -> dict[str, Cost]:
    model = generator_presets.generator_config(settings.preset, DataFacts(cases=1, digest="")).generator
    voxels, sampling = math.prod(model.grid), generator_presets.diffusion_config(settings.preset).sampling
    if settings.generator and (package := find_package(settings.generator).manifest).generator:
        voxels, sampling = math.prod(package.pair_network.patch), package.generator.sampling
    size = voxels / math.prod(model.grid)
    pair, denoiser = _try_pair(model, device), _try_denoiser(model, settings.preset, device)
    passes = sampling.steps * (2 if sampling.solver == "heun" else 1) * (2 if sampling.guidance != 1.0 else 1)
    passes += 2 * len(sampling.restarts)
    one_pair = passes * denoiser.forward_seconds + 2 * size * pair.forward_seconds
    return {
        "autoencoder": _try_autoencoder(model, device).training(work.autoencoder),
        "diffusion": denoiser.training(work.diffusion),
        "pairs": Cost(
            _ATTEMPTS * work.pairs * one_pair,
            work.pairs * 2.4 * voxels,
            size * pair.memory_bytes * 2 / 3 + _LIBRARIES_BYTES,
        ),
    }


def _try_segmenter(config: NetworkConfig | PretrainConfig, device: str) -> _Trial:
    build = build_reconstructor if isinstance(config, PretrainConfig) else build_network
    network = build(config.architecture, config.arguments)
    patch = [min(side, _SIDE) for side in config.patch]
    scale = config.batch * math.prod(config.patch) / math.prod(patch)
    return _try(network, lambda: (torch.rand(1, 1, *patch, device=device),), scale, device)


def _try_autoencoder(model: GeneratorModel, device: str) -> _Trial:
    """Try the autoencoder on a part of a training example, with its adversary."""
    config = model.autoencoder
    network = autoencoder.in_training(_autoencoder(model), config)
    box = [min(side, _SIDE) for side in model.training_box]
    scale = config.batch * math.prod(model.training_box) / math.prod(box)

    def inputs() -> tuple[Any, ...]:
        pair = _pair(box, device)
        if not config.adversary_weight:
            return pair
        return pair, torch.rand(1, VIEW_CHANNELS, *box, device=device), torch.zeros(3, dtype=torch.int64)

    return _try(network, inputs, scale, device)


def _try_pair(model: GeneratorModel, device: str) -> _Trial:
    """Try the autoencoder on a part of a pair."""
    grid = [min(side, _SIDE) for side in model.grid]
    scale = math.prod(model.grid) / math.prod(grid)
    return _try(_autoencoder(model), lambda: _pair(grid, device), scale, device)


def _autoencoder(model: GeneratorModel) -> JointAutoencoder:
    return cast("JointAutoencoder", build_network(autoencoder.ARCHITECTURE, model.autoencoder.arguments))


def _pair(grid: Sequence[int], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(1, 1, *grid, device=device), torch.zeros(1, 1, *grid, dtype=torch.uint8, device=device)


def _try_denoiser(model: GeneratorModel, preset: str, device: str) -> _Trial:
    config = generator_presets.diffusion_config(preset)
    channels, *latent = model.latent_shape
    shape = [min(side, _SIDE // LATENT_STRIDE) for side in latent]
    arguments = {
        **config.arguments, "prior_modes": None, "latent_shape": None, "latent_channels": channels,
        "choices": list(_CHOICES), "numbers": _NUMBERS,
    }  # fmt: skip
    network = build_network("diffusion_unet", arguments)
    scale = config.batch * math.prod(latent) / math.prod(shape)

    def inputs() -> tuple[torch.Tensor, ...]:
        return (
            torch.rand(1, channels, *shape, device=device), torch.full((1,), 0.5, device=device),
            torch.zeros(1, len(_CHOICES), dtype=torch.int64, device=device), torch.zeros(1, _NUMBERS, device=device),
        )  # fmt: skip

    trial = _try(network, inputs, scale, device)
    return replace(trial, forward_seconds=trial.forward_seconds / config.batch)


def _try(network: torch.nn.Module, inputs: Callable[[], tuple[Any, ...]], scale: float, device: str) -> _Trial:
    """Time a network's second step and count the bytes that it keeps for the way back; ``scale`` both."""
    network.to(device)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    seconds = [0.0, 0.0]
    for _ in range(2):  # the first one also loads the device's code
        values, kept = inputs(), 0
        began = _now(device)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            out = network(*values)
        seconds[0] = _now(device) - began
        tensors = out if isinstance(out, tuple) else (out,)
        loss = torch.stack([tensor.float().square().mean() for tensor in tensors]).sum()
        torch.autograd.backward(loss)
        seconds[1] = _now(device) - began
    weights = sum(parameter.numel() for parameter in network.parameters())
    return _Trial(scale * seconds[1], scale * seconds[0], scale * kept + _BYTES_PER_WEIGHT * weights, weights)


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()
