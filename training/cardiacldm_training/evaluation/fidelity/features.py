"""Features of images: pooled activations of a segmenter's deepest level (heart), and statistics of slices (slices).

Features of corrupted references are read too. All are kept in files, by the content of the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from CardiacLDMLib.files import replace_file
from CardiacLDMLib.image.grid import Volume, ras_grid
from CardiacLDMLib.image.resample import resample
from CardiacLDMLib.packages.store import ModelPackage, require_kind
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.segmentation.scan import to_window
from CardiacLDMLib.torch_device import resolve_device

from .corruptions import CORRUPTIONS, corrupt
from .slices import slice_features

#: The two kinds of features.
HEART, SLICES = "heart", "slices"
#: Part of the names of kept features: raise it when features change.
VERSION = 1


class Features:
    """Reads the features of images from the deepest level of a package's segmenter network.

    Raises PackageError for a package that is no segmenter, SegmenterError for a missing device.
    """

    def __init__(self, package: ModelPackage, device: str = "cpu") -> None:
        require_kind(package, "segmenter")
        self.spec = package.manifest.networks["segmenter"]
        self.device = resolve_device(device)
        self.network = load_networks(package, self.device)["segmenter"]
        self._values: torch.Tensor | None = None
        example = torch.zeros((1, 1, *self.spec.patch), device=self.device)
        deepest(self.network, example).register_forward_hook(self._keep)

    def _keep(self, module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        self._values = output

    def __call__(self, image: Volume) -> np.ndarray:
        """Return features (F,) float32: means over one patch, at the network's spacing, around the image's middle."""
        bounds = image.grid.bounds_ras()
        half = np.array(self.spec.patch) * self.spec.spacing_mm / 2
        grid = ras_grid(bounds.mean(0) + np.stack([-half, half]), self.spec.spacing_mm)
        patch = to_window(resample(image, grid).array, self.spec.window_hu)
        with torch.inference_mode():
            self.network(torch.from_numpy(np.ascontiguousarray(patch))[None, None].to(self.device))
        assert self._values is not None
        return self._values[0].float().mean((1, 2, 3)).cpu().numpy()


def deepest(network: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
    """Return the last module whose output (N, C, I, J, K) has the fewest voxels for ``example``."""
    outputs: list[tuple[int, torch.nn.Module]] = []

    def note(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 5:
            outputs.append((int(np.prod(output.shape[2:])), module))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    with torch.inference_mode():
        network(example)
    for hook in hooks:
        hook.remove()
    smallest = min(size for size, _ in outputs)
    return [module for size, module in outputs if size == smallest][-1]


class FeatureReader:
    """Reads both kinds of features of images, and keeps them in ``folder`` for the next report; None keeps nothing."""

    def __init__(self, package: ModelPackage, device: str = "cpu", folder: Path | None = None) -> None:
        self.heart, self.folder = Features(package, device), folder
        self._network = package.sha256

    def read(self, image: Volume) -> Mapping[str, np.ndarray]:
        """Return the features of an image (int16 HU) by kind, each (F,) float32."""
        path = self._path(image)
        if path is not None and path.is_file():
            with np.load(path) as kept:
                return {kind: kept[kind] for kind in (HEART, SLICES)}
        values = {HEART: self.heart(image), SLICES: slice_features(image.array)}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as part, part.open("wb") as file:
                np.savez(file, **values)  # type: ignore[arg-type]
        return values

    def read_corrupted(self, image: Volume) -> dict[str, Mapping[str, np.ndarray]]:
        """Return the features of an image after each of the corruptions."""
        spacing = float(image.spacing[0])
        return {name: self.read(Volume(corrupt(image.array, name, spacing), image.affine)) for name in CORRUPTIONS}

    def _path(self, image: Volume) -> Path | None:
        if self.folder is None:
            return None
        content = hashlib.sha256(f"{VERSION} {self._network} {image.array.shape} {image.spacing.tolist()}".encode())
        content.update(np.ascontiguousarray(image.array).tobytes())
        return self.folder / f"{content.hexdigest()[:32]}.npz"
