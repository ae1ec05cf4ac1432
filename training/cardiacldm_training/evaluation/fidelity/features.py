"""Features of images (pooled activations of a segmenter's deepest level), Frechet distance and MMD between sets.

A Frechet distance between n points in d dimensions is biased upwards by about d / n of the variance. So features are
reduced to a few principal components, and the distance is reported beside that of reference sets of the same size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from CardiacLDMLib.image.grid import Volume, ras_grid
from CardiacLDMLib.image.resample import resample
from CardiacLDMLib.packages.store import ModelPackage, require_kind
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.segmentation.scan import to_window
from CardiacLDMLib.torch_device import resolve_device

#: Most principal components, and fewest cases for each.
COMPONENTS, CASES_PER_COMPONENT = 16, 4


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


def standardiser(reference: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that standardises features (n, F) by mean and standard deviation of ``reference`` (n, F).

    All features have the same weight; their total variance over the reference is 1.
    """
    centre, scale = reference.mean(0), reference.std(0)
    scale = np.maximum(scale, 1e-3 * max(float(scale.mean()), 1e-12))  # a lower limit for constant features
    return lambda features: (features - centre) / (scale * np.sqrt(len(scale)))


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Frechet distance of two sets of features (n, F), as normal distributions of principal components.

    The components are those of both sets together, so that variation of only one set counts too.
    """
    both = np.concatenate([first, second]).astype(float)
    _, _, axes = np.linalg.svd(both - both.mean(0), full_matrices=False)
    components = axes[: max(min(COMPONENTS, len(first) // CASES_PER_COMPONENT), 1)].T
    return frechet_of_normals(first @ components, second @ components)


def frechet_of_normals(first: np.ndarray, second: np.ndarray) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2) of two sets (n, d), n > d.

    It equals MONAI's ``FIDMetric``, which uses an argument that SciPy 1.18 removes.
    """
    one, two = (np.atleast_2d(np.cov(points, rowvar=False)) for points in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    shift = first.mean(0) - second.mean(0)
    return float(max(shift @ shift + np.trace(one) + np.trace(two) - 2 * common, 0.0))


def mmd(scale: float) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the unbiased squared maximum mean discrepancy with a Gaussian kernel of width ``scale``.

    It may be slightly negative. MONAI's ``MMDMetric`` has a linear kernel, which compares only means.
    """

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.exp(-squared_distances(a, b) / (2 * scale**2))

        def mean_within(a: np.ndarray) -> float:
            table = kernel(a, a)
            return float((table.sum() - np.trace(table)) / (len(a) * (len(a) - 1)))

        return mean_within(first) + mean_within(second) - 2 * float(kernel(first, second).mean())

    return distance


def median_distance(features: np.ndarray) -> float:
    """Return the median distance between two rows of ``features`` (n, F): the usual kernel width."""
    squared = squared_distances(features, features)[np.triu_indices(len(features), 1)]
    return float(max(np.sqrt(np.median(squared)), 1e-6))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the squared Euclidean distances (n, m) of rows."""
    return ((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).clip(0)
