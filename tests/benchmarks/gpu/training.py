"""Training on the GPU: fifty steps of every preset and stage, and two processes that share a step on one card."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from cardiacldm_training.cases.conditions import Vocabulary
from cardiacldm_training.cases.workers import usual_workers
from cardiacldm_training.stages import autoencoder, decoder, devices, diffusion, generator_presets, loop, presets
from cardiacldm_training.stages.adversary import Contest
from cardiacldm_training.stages.calibration import LatentStatistics
from cardiacldm_training.stages.config import DataFacts, DiffusionData, GeneratorModel, RunConfig, TrainingConfig
from cardiacldm_training.stages.decoder_latents import DecoderLatents
from cardiacldm_training.stages.latent_files import Latents
from cardiacldm_training.stages.masking import BoxMask
from cardiacldm_training.stages.pretrain import PretrainStage
from cardiacldm_training.stages.segmenter import SegmentationStage
from CardiacLDMLib.networks.build import build_network, build_reconstructor
from CardiacLDMLib.networks.fine_decoder import FineDecoder
from CardiacLDMLib.packages.store import find_package, open_package
from tests.support.generator_package import write_tiny_generator

from .parts import Figures, Part, peak_memory, prepared_cases, shrink, wait_for

STEPS, SECONDS = 50, 12.0
#: Steps before the measured ones: cuDNN tries its algorithms, worker processes start.
WARM_UP = 3
_FACTS = DataFacts(cases=2, digest="")
_TINY_GRID, _TINY_PATCH = (32, 32, 32), (64, 64, 64)


@dataclass(frozen=True)
class Work:
    """One network with its settings and examples. ``build`` makes the network."""

    settings: TrainingConfig
    stage: loop.Stage
    build: Callable[[], torch.nn.Module]
    precision: Any


# --- every preset and stage ------------------------------------------------------------------------------------------


def training(part: Part, preset: str) -> None:
    """Train every network of a preset."""
    for stage, prepare in stages(preset).items():
        part.measure(f"{preset} {stage}", lambda prepare=prepare: _train(part, prepare(part, preset)))  # type: ignore[misc]
    if preset == "gpu":
        part.measure("gpu segmenter, channels_last_3d", lambda: _train(part, _channels_last(_segmenter(part, preset))))
        part.measure(
            "gpu segmenter, float16", lambda: _train(part, replace(_segmenter(part, preset), precision="16-mixed"))
        )
        part.measure("gpu segmenter, plain", lambda: _train(part, _segmenter(part, preset), plain=True))


def _train(part: Part, work: Work, plain: bool = False) -> Figures:
    """Train for STEPS steps or SECONDS; ``plain``: without the settings that are meant to make a GPU faster."""
    fabric = devices.launch(1, 1, work.precision, part.device, lambda line: None)
    if part.device != "cpu":
        torch.backends.cudnn.benchmark = not plain
        torch.set_float32_matmul_precision("highest" if plain else "high")
    torch.manual_seed(0)
    figures: Figures = {}
    with peak_memory(part.device, figures):
        run = loop._Run(fabric, work.settings, work.build(), work.stage)
        if plain:
            run.optimizer = torch.optim.AdamW(run.network.parameters(), lr=1e-4)
        run.wrap()
        try:
            figures |= _time_steps(part, fabric, run, work, usual_workers())
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            figures |= _time_steps(part, fabric, run, work, 0)  # a container's shared memory is often too small
        run.check_finite()
    precision = getattr(fabric.strategy.precision, "precision", "32-true")
    millions = sum(parameter.numel() for parameter in run.network.parameters()) / 1e6
    return {**figures, "batch": work.settings.batch, "precision": precision, "millions": round(millions, 1)}


def _time_steps(part: Part, fabric: Fabric, run: Any, work: Work, workers: int) -> Figures:
    steps, limit = (4, 5.0) if part.tiny else (STEPS, SECONDS)
    indices = list(loop.batch_indices(0, WARM_UP + steps, work.settings.batch, 0, 1))
    loader = loop._loader(work.stage, indices, workers, pin=part.device != "cpu")
    batches: Any = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    waited = computed = 0.0
    done, mark = 0, time.perf_counter()
    for number, batch in enumerate(batches):
        arrived = time.perf_counter()
        run.step(batch)
        wait_for(part.device)
        now = time.perf_counter()
        if number >= WARM_UP:
            waited, computed, done = waited + arrived - mark, computed + now - arrived, done + 1
        mark = now
        if waited + computed > limit:
            break
    return {
        "steps": done, "steps_per_second": round(done / (waited + computed), 3), "workers": workers,
        "waiting": round(waited / (waited + computed), 3),
    }  # fmt: skip


def _channels_last(work: Work) -> Work:
    """Return the same work in the memory format whose layers may be faster on a GPU."""

    def build() -> torch.nn.Module:
        return work.build().to(memory_format=torch.channels_last_3d)

    return replace(work, build=build)


def _sized(part: Part, settings: Any, **tiny: Any) -> Any:
    """Return the settings of a preset; for a tiny check with a narrow network and the changes ``tiny``."""
    if not part.tiny:
        return settings
    return settings.model_copy(update={"arguments": shrink(settings.arguments), "batch": 1, **tiny})


def _locator(part: Part, preset: str) -> Work:
    return _labelling(part, preset, "locator", _TINY_GRID)


def _segmenter(part: Part, preset: str) -> Work:
    return _labelling(part, preset, "segmenter", _TINY_PATCH)


def _labelling(part: Part, preset: str, name: str, patch: tuple[int, int, int]) -> Work:
    run_config = presets.segmenter_config(preset, _FACTS)
    settings = _sized(part, run_config.segmenter.network(name), patch=patch)
    cases = prepared_cases(part, settings.spacing_mm)
    stage = SegmentationStage(name, settings, seed=0, train=cases, held_out=cases[:1])
    return Work(settings, stage, lambda: build_network(settings.architecture, settings.arguments), run_config.precision)


def _pretraining(part: Part, preset: str) -> Work:
    run_config = presets.pretraining_config(preset, _FACTS, BoxMask())
    settings = _sized(part, run_config.pretraining.network, patch=_TINY_PATCH)
    cases = prepared_cases(part, settings.spacing_mm)
    stage = PretrainStage(settings, seed=0, train=cases, held_out=cases[:1])
    return Work(
        settings, stage, lambda: build_reconstructor(settings.architecture, settings.arguments), run_config.precision
    )


def _generator_run(part: Part, preset: str) -> RunConfig:
    run_config = generator_presets.generator_config(preset, _FACTS)
    if not part.tiny:
        return run_config
    small = _sized(part, run_config.generator.autoencoder)
    model = GeneratorModel(grid=_TINY_GRID, spacing_mm=8.0, autoencoder=small)
    return run_config.model_copy(update={"model": model})


def _autoencoder(part: Part, preset: str) -> Work:
    run_config = _generator_run(part, preset)
    model = run_config.generator
    settings, cases = model.autoencoder, prepared_cases(part, model.spacing_mm)
    stage = autoencoder.AutoencoderStage(run_config, train=cases, held_out=cases[:1])

    def build() -> torch.nn.Module:
        return autoencoder.in_training(autoencoder.new_autoencoder(model, cases), settings)

    return Work(settings, stage, build, run_config.precision)


def _diffusion(part: Part, preset: str) -> Work:
    """The latents are random numbers: time and memory do not depend on them."""
    settings = _sized(part, generator_presets.diffusion_config(preset))
    vocabulary = Vocabulary(
        choices={"sex": ("female", "male")}, numbers={"spacing_mm": (0.5, 2.0)}, chances={"sex": (0.5, 0.5)}
    )
    data = DiffusionData(conditions=vocabulary, conditions_digest="", autoencoder="")
    run_config = _generator_run(part, preset).with_diffusion(settings, data)
    shape = run_config.generator.latent_shape
    path = part.folder / f"latents-{preset}.npy"
    np.save(path, np.random.default_rng(0).standard_normal(shape, np.float32))
    latents = [Latents([path], *vocabulary.encode({"sex": "male", "spacing_mm": 1.0})) for _ in range(4)]
    unit = (1.0,) * shape[0]
    statistics = LatentStatistics(shift=(0.0,) * shape[0], scale=unit, cases=4, autoencoder="")
    undecoded: Any = None  # only validation decodes
    stage = diffusion.DiffusionStage(run_config, statistics, undecoded, train=latents, held_out=latents[:1])
    arguments = diffusion.network_arguments(run_config)
    return Work(settings, stage, lambda: build_network(diffusion.ARCHITECTURE, arguments), run_config.precision)


def _decoder(part: Part, preset: str) -> Work:
    """The latents are random numbers: time and memory do not depend on them."""
    shipped = part.folder / "tiny-generator"
    if part.tiny and not shipped.exists():
        write_tiny_generator(shipped)
    package = open_package(shipped) if part.tiny else find_package("virtual-pairs-v2")
    run_config = generator_presets.decoder_config(preset, _FACTS, package)
    model = run_config.fine_decoder
    settings = _sized(part, model.decoder, patch=3)
    run_config = run_config.model_copy(update={"model": model.model_copy(update={"decoder": settings})})
    latents = DecoderLatents(part.folder / f"decoder-{preset}", run_config, package, {})
    cases = prepared_cases(part, model.spacing_mm / 2)
    shape = (1 + settings.variants, settings.arguments["latent_channels"], *(side // 4 for side in model.grid))
    for case in cases:
        latents.path_of(case).parent.mkdir(parents=True, exist_ok=True)
        np.save(latents.path_of(case), np.random.default_rng(0).standard_normal(shape).astype(np.float16))
    stage = decoder.DecoderStage(run_config, latents, train=cases, held_out=cases[:1])

    def build() -> torch.nn.Module:
        made = build_network(decoder.ARCHITECTURE, settings.arguments)
        return Contest(made, FineDecoder.patch, settings.adversary_channels)

    return Work(settings, stage, build, run_config.precision)


_STAGES: dict[str, Callable[[Part, str], Work]] = {
    "locator": _locator, "segmenter": _segmenter, "pretrain": _pretraining, "autoencoder": _autoencoder,
    "diffusion": _diffusion,
}  # fmt: skip


def stages(preset: str) -> dict[str, Callable[[Part, str], Work]]:
    """Return the stages that a preset has."""
    return _STAGES if preset == "paper" else {**_STAGES, "decoder": _decoder}


# --- two processes ---------------------------------------------------------------------------------------------------


def two_processes(part: Part) -> None:
    """Train the locator of the preset demo in two processes on the one device; Fabric starts this program again.

    NCCL refuses two processes on one card, so they exchange gradients by gloo.
    """
    kind, _, number = part.device.partition(":")
    device = torch.device("cpu") if kind == "cpu" else torch.device(kind, int(number or 0))
    strategy = DDPStrategy(parallel_devices=[device, device], process_group_backend="gloo")
    fabric = Fabric(accelerator=kind, devices=1, strategy=strategy)
    fabric.launch()
    if fabric.is_global_zero:
        prepared_cases(part, presets.spacings("demo")["locator"])  # before both look for them
    fabric.barrier()
    if fabric.is_global_zero:
        part.measure("two processes on one device", lambda: _train_together(part, fabric))
    else:
        _train_together(part, fabric)


def _train_together(part: Part, fabric: Fabric) -> Figures:
    work = _locator(part, "demo")
    steps = 4 if part.tiny else 20
    settings = work.settings.model_copy(update={
        "steps": steps, "validate_every": steps, "save_every": steps, "warmup_steps": 2, "validation_cases": 1,
    })  # fmt: skip
    torch.manual_seed(0)
    network = work.build()
    began = time.perf_counter()
    figures: Figures = {}
    with peak_memory(part.device, figures):
        end = loop.train_network(
            fabric, settings, network, work.stage, part.folder / "two", title="two", say=lambda line: None
        )
    weights = torch.cat([value.detach().flatten().double() for value in network.parameters()])
    sums: Any = fabric.all_gather(weights.sum())
    figures |= {"steps": end.step, "seconds": round(time.perf_counter() - began, 2), "processes": fabric.world_size}
    if float(sums[0]) != float(sums[1]):
        figures["problem"] = "the processes ended with different weights"
    return figures
