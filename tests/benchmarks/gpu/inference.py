"""Segmentation and generation on the GPU: time, memory, agreement with the CPU, and what happens if memory is short."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from cardiacldm_training.stages import generator_presets, presets
from cardiacldm_training.stages.config import DataFacts
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.image.labels import dice_per_structure
from CardiacLDMLib.image.resample import resample
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.manifest import Manifest, NetworkSpec, Provenance
from CardiacLDMLib.packages.store import DEFAULT_PACKAGE, find_package, open_package
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.packages.write import write_package
from CardiacLDMLib.progress import Cancelled, Progress
from CardiacLDMLib.segmentation import run
from CardiacLDMLib.segmentation.segmenter import Segmentation, Segmenter
from CardiacLDMLib.segmentation.windows import autocast
from tests.support.generator_package import tiny_generator_spec

from .parts import Figures, Part, peak_memory, shrink, virtual_case, wait_for

#: A scan's share of voxels with the same label on GPU and CPU, at least.
SAME_LABELS = 0.999
_FACTS = DataFacts(cases=2, digest="")
_CARD = "# Check of a GPU\n\nRandom weights.\n"


# --- segmentation ----------------------------------------------------------------------------------------------------


def scan_of(part: Part) -> Volume:
    """Return the virtual case as a chest CT of 512 x 512 x 224 voxels of 0.7 x 0.7 x 1.5 mm."""
    image, _ = virtual_case(part)
    shape = (96, 96, 64) if part.tiny else (512, 512, 224)
    size_mm = np.array([358.4, 358.4, 336.0])
    affine = np.diag([*(np.array([-1, -1, 1]) * size_mm / shape), 1.0])
    affine[:3, 3] = image.grid.bounds_ras().mean(axis=0) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Volume(np.rint(resample(image, Grid(shape, affine)).array).astype(np.int16), affine)


def segmentation(part: Part) -> None:
    """Segment with the shipped package on GPU and CPU, then with the network of the preset gpu."""
    scan, shipped = scan_of(part), find_package(None)
    results: dict[str, Segmentation] = {}
    part.measure("segment, shipped, first scan", lambda: _segment(part, Segmenter(shipped, part.device), scan, results))
    warm = Segmenter(shipped, part.device)
    part.measure("segment, shipped, second scan", lambda: _segment(part, warm, scan, results))
    part.measure("segment, shipped, on the CPU", lambda: _compare_with_cpu(scan, shipped, results))
    package = open_package(_segmenter_package(part))
    part.measure("segment, preset gpu", lambda: _segment(part, Segmenter(package, part.device), scan, {}))
    part.measure("one window, preset gpu, random weights", lambda: _compare_window(part, package))


def _segment(part: Part, segmenter: Segmenter, scan: Volume, results: dict[str, Segmentation]) -> Figures:
    figures: Figures = {}
    began = time.perf_counter()
    with peak_memory(part.device, figures):
        result = results["gpu"] = segmenter.segment(scan)
    seconds = time.perf_counter() - began
    return {
        **figures, "seconds": round(seconds, 3), "network_seconds": round(result.network_seconds, 3),
        "device": result.device, "warnings": result.warnings, "heart_found": result.heart_found,
    }  # fmt: skip


def _compare_with_cpu(scan: Volume, package: Any, results: dict[str, Segmentation]) -> Figures:
    began = time.perf_counter()
    cpu = Segmenter(package, "cpu").segment(scan)
    seconds = time.perf_counter() - began
    one, other = cpu.labels.array, results["gpu"].labels.array
    same, labelled = one == other, (one > 0) | (other > 0)
    dice = dice_per_structure(other, one)
    dice = dice[~np.isnan(dice)]
    return {
        "seconds": round(seconds, 3), "same_labels": float(same.mean()),
        "least_dice": float(dice.min()) if len(dice) else 1.0,
        "same_of_labelled": float(same[labelled].mean()) if labelled.any() else 1.0,
        **({} if same.mean() >= SAME_LABELS else {"problem": f"only {same.mean():.5f} of the labels are the same"}),
    }  # fmt: skip


def _segmenter_package(part: Part) -> Path:
    """Write a package with the shipped locator and the segmenter of the preset gpu, with weights as they are."""
    network = presets.segmenter_config("gpu", _FACTS).segmenter.segmenter
    shipped = find_package(None)
    arguments, patch = dict(network.arguments), network.patch
    if part.tiny:
        arguments, patch = shrink(arguments), (64, 64, 64)
    spec = NetworkSpec(
        architecture=network.architecture, arguments=arguments, weights="segmenter.safetensors", patch=patch,
        spacing_mm=4.0 if part.tiny else network.spacing_mm, window_hu=network.window_hu,
    )  # fmt: skip
    manifest = shipped.manifest.model_copy(update={
        "name": "gpu-check", "networks": {"locator": shipped.manifest.networks["locator"], "segmenter": spec},
    })  # fmt: skip
    torch.manual_seed(0)
    weights = {
        manifest.networks["locator"].weights: load_networks(shipped)["locator"].state_dict(),
        spec.weights: build_network(spec.architecture, spec.arguments).state_dict(),
    }
    write_package(part.folder / "gpu-check", manifest, weights, _CARD, replace=True)
    return part.folder / "gpu-check"


@torch.inference_mode()
def _compare_window(part: Part, package: Any) -> Figures:
    """Compare the labels of one window of noise; the nine classes of random weights are closer than trained ones."""
    network, patch = load_networks(package)["segmenter"].eval(), package.manifest.networks["segmenter"].patch
    window = torch.rand(1, 1, *patch, generator=torch.Generator().manual_seed(0))
    expected = network(window).argmax(1)
    network = network.to(part.device)
    with autocast(part.device):
        labels = network(window.to(part.device)).argmax(1).cpu()
    return {"same_labels": float((labels == expected).float().mean())}


# --- generation ------------------------------------------------------------------------------------------------------


def generation(part: Part) -> None:
    """Draw a pair with the shipped package, then with the networks of the presets gpu and paper."""
    shipped = find_package("virtual-pairs-v2")
    steps = 2 if part.tiny else None
    part.measure("pair, shipped", lambda: _generate(part, Generator(shipped, part.device), steps, 60.0))
    for preset in ("gpu", "paper"):
        part.measure(f"pair, preset {preset}", lambda preset=preset: _generate_preset(part, preset, steps))  # type: ignore[misc]


def _generate_preset(part: Part, preset: str, steps: int | None) -> Figures:
    generator = Generator(open_package(_generator_package(part, preset)), part.device)
    millions = sum(p.numel() for p in generator._denoiser.parameters()) / 1e6
    return {"millions": round(millions, 1), **_generate(part, generator, steps, 45.0)}


def _generate(part: Part, generator: Generator, steps: int | None, limit: float) -> Figures:
    """Draw one pair, for ``limit`` seconds at most: then what was done until then tells how long all would take."""
    began, reached, figures = time.perf_counter(), Progress(0, 100, "sample", 0.0), Figures()

    def progress(step: Progress) -> None:
        nonlocal reached
        reached = step

    try:
        with peak_memory(part.device, figures):
            pair = generator.generate(
                1, 0, steps=steps, progress=progress, cancelled=lambda: time.perf_counter() - began > limit
            )
            figures["decoded"] = pair.provenance["decoded"]
    except Cancelled:
        figures["problem"] = f"stopped after {limit:.0f} s at {reached.step} %"
    figures |= {"seconds": round(time.perf_counter() - began, 2), "grid": "x".join(map(str, generator.shape))}
    return {**figures, "steps": steps or generator.spec.sampling.steps}


def _generator_package(part: Part, preset: str) -> Path:
    """Write the generator of a preset, with weights as they are: neither time nor memory depends on them."""
    model, diffusion = (
        generator_presets.generator_config(preset, _FACTS).generator,
        generator_presets.diffusion_config(preset),
    )
    grid = (32, 32, 32) if part.tiny else model.grid
    arguments = {name: v for name, v in model.autoencoder.arguments.items() if name != "checkpointed"}
    spec = tiny_generator_spec()
    denoiser = {
        **diffusion.arguments, "choices": [len(values) for values in spec.choices.values()],
        "numbers": len(spec.numbers),
    }  # fmt: skip
    channels = int(arguments.get("latent_channels", 4))
    denoiser["latent_channels"] = channels
    if part.tiny:
        arguments, denoiser = shrink(arguments), shrink(denoiser)
    spec = spec.model_copy(update={
        "latent_shift": (0.0,) * channels, "latent_scale": (1.0,) * channels, "sampling": diffusion.sampling,
    })  # fmt: skip
    common = {"patch": grid, "spacing_mm": model.spacing_mm, "window_hu": model.window_hu}
    networks = {
        "autoencoder": NetworkSpec(
            architecture="joint_autoencoder", arguments=arguments, weights="autoencoder.safetensors", **common
        ),
        "diffusion": NetworkSpec(
            architecture="diffusion_unet", arguments=denoiser, weights="diffusion.safetensors", **common
        ),
    }
    steps = dict.fromkeys(networks, 0)
    manifest = Manifest(
        name=f"check-{preset}", version="1.0", kind="generator", title="Check", summary="Random weights.",
        networks=networks, generator=spec, figures=[], licence="CC0-1.0", intended_use="Measuring time and memory.",
        training=Provenance(data="none", cases=0, seed=0, steps=steps, code_version="0", date=datetime.date.today()),
    )  # fmt: skip
    torch.manual_seed(0)
    weights = {s.weights: build_network(s.architecture, s.arguments).state_dict() for s in networks.values()}
    folder = part.folder / manifest.name
    write_package(folder, manifest, weights, _CARD, replace=True)
    return folder


# --- short memory ----------------------------------------------------------------------------------------------------


def memory(part: Part) -> None:
    """Segment and generate while most of the memory is taken: fewer windows, then the CPU, and tiles."""
    scan, package = scan_of(part), find_package(DEFAULT_PACKAGE)
    part.measure("memory for some windows", lambda: _segment_short(part, package, scan, 0.6))
    part.measure("memory for no window", lambda: _segment_short(part, package, scan, 0.02))
    part.measure("memory for a part of a pair", lambda: _generate_short(part))


def _segment_short(part: Part, package: Any, scan: Volume, share: float) -> Figures:
    """Segment with ``share`` of the memory that the networks usually take; compare with the usual labels."""
    segmenter, usual = Segmenter(package, part.device), Figures()
    with peak_memory(part.device, usual):
        expected = segmenter.segment(scan)
    with _little_memory(part, usual["peak_gb"] * share):
        figures = _segment(part, segmenter, scan, {})
        result = segmenter.segment(scan)
    figures["same_labels"] = float((result.labels.array == expected.labels.array).mean())
    if not result.warnings or result.warnings == expected.warnings:
        figures["problem"] = "memory was short, and nothing says so"
    return figures


def _generate_short(part: Part) -> Figures:
    generator, usual = Generator(find_package("virtual-pairs-v2"), part.device), Figures()
    with peak_memory(part.device, usual):
        generator.generate(1, 0, steps=1)
    with _little_memory(part, usual["peak_gb"] * 0.7, decoder=generator._autoencoder):
        pair = generator.generate(1, 0, steps=1)
    return {"decoded": pair.provenance["decoded"], "free_gb": usual["peak_gb"] * 0.7}


class _little_memory:  # noqa: N801 - a context manager, used like a function
    """Take the GPU's memory but for ``free_gb``; on a CPU, let a network fail as a full GPU does."""

    def __init__(self, part: Part, free_gb: float, decoder: Any = None) -> None:
        self.part, self.free_gb, self.decoder = part, free_gb, decoder
        self.patches: list[Any] = []

    def __enter__(self) -> None:
        if self.part.device == "cpu":
            self._pretend()
            return
        wait_for(self.part.device)
        torch.cuda.empty_cache()
        device = self.part.device
        total = torch.cuda.get_device_properties(device).total_memory
        held = torch.cuda.memory_reserved(device)  # by the networks
        torch.cuda.set_per_process_memory_fraction(min((held + self.free_gb * 1e9) / total, 1.0), device)

    def __exit__(self, *_: object) -> None:
        for patch in self.patches:
            patch.stop()
        if self.part.device != "cpu":
            torch.cuda.set_per_process_memory_fraction(1.0, self.part.device)
            torch.cuda.empty_cache()

    def _pretend(self) -> None:
        def full(*_: object) -> None:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

        windows = Segmenter._windows

        def few_windows(segmenter: Segmenter, name: str, source: Any, patch: Any, job: Any) -> torch.Tensor:
            if job.batch > 1:
                full()
            return windows(segmenter, name, source, patch, job)

        self.patches = [
            mock.patch.dict(run.WINDOWS_PER_BATCH, cpu=4),
            mock.patch.object(Segmenter, "_windows", few_windows),
        ]
        if self.decoder is not None:
            decode, side = self.decoder.decode, 12
            self.patches.append(mock.patch.object(
                self.decoder, "decode", lambda z: full() if max(z.shape[2:]) > side else decode(z)
            ))  # fmt: skip
            self.patches.append(mock.patch("CardiacLDMLib.generation.generator.TILE", side))
        for patch in self.patches:
            patch.start()
