"""Load and pack the weights of a package.

A network is first built on torch's meta device, which takes no memory. Names, shapes and types of the file's tensors
are compared with it before any value is read. torch is imported inside functions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PackageError
from ..networks.build import build_network, fits
from ..plain_paths import plain_path
from ..text import printable
from .manifest import NetworkSpec
from .store import ModelPackage, open_package

if TYPE_CHECKING:
    import torch


def verify_package(path: str | os.PathLike[str], label: str = "") -> ModelPackage:
    """Open the package in a folder, load its networks on the CPU, which makes every check, and return it.

    Messages name it ``label``, or by its folder. Raises :class:`PackageError`.
    """
    package = open_package(path, label)
    load_networks(package)
    return package


def load_networks(package: ModelPackage, device: str = "cpu") -> dict[str, torch.nn.Module]:
    """Return the networks by name: float32, on ``device``, in evaluation mode, without gradients.

    Raises :class:`PackageError` for a tensor that is missing, unknown, of another shape or type, or not finite.
    """
    networks = {}
    for name, spec in package.manifest.networks.items():
        try:
            networks[name] = _load(spec, package.folder / spec.weights).to(device)
        except PackageError as error:
            raise PackageError(f"{package.manifest.name} is refused: in its {name}, {error}.") from error
    return networks


def pack_weights(spec: NetworkSpec, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a trained module's ``state_dict()`` for the file: each once, in half precision.

    Raises :class:`PackageError` for a state that does not fit ``spec``, and for values beyond half precision.
    """
    wanted, stored_as = _tensors(_on_meta(spec))
    _compare_names(set(state), set(stored_as))
    packed = {}
    for name, tensor in wanted.items():
        value = state[name].detach().cpu()
        _compare_shapes(name, tuple(value.shape), tuple(tensor.shape))
        packed[name] = (value.half() if value.is_floating_point() else value).contiguous().clone()
        _check_finite(name, packed[name])
    return packed


def _on_meta(spec: NetworkSpec) -> torch.nn.Module:
    """Return the network on the meta device, after checking that it does its task on a patch."""
    import torch

    works = False
    with torch.device("meta"):
        module = build_network(spec.architecture, spec.arguments).eval()
        with contextlib.suppress(RuntimeError, ValueError):  # torch raises these for sizes that do not match
            works = fits(spec.architecture, module, spec.patch)
    if not works:
        raise PackageError(f"it cannot work on a patch of {' x '.join(map(str, spec.patch))} voxels")
    return module


def _tensors(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of ``module`` by name, each once, and the name in the file for each name in its state.

    DynUNet registers its blocks twice; one tensor in memory is one tensor in the file.
    """
    state = module.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    stored_as = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    return {name: state[name] for name in first.values()}, stored_as


def _load(spec: NetworkSpec, path: Path) -> torch.nn.Module:
    from safetensors import SafetensorError, safe_open

    module = _on_meta(spec)
    wanted, stored_as = _tensors(module)
    tensors = {}
    try:
        with plain_path(path) as plain, safe_open(plain, framework="pt") as file:
            _compare_layout(file, wanted)
            for name, like in wanted.items():
                # A copy, since the file would stay mapped into memory and may be replaced.
                tensors[name] = file.get_tensor(name).to(like.dtype, copy=True)
                _check_finite(name, tensors[name])
    except (SafetensorError, OSError) as error:
        raise PackageError(f"{path.name} is damaged, cut short, or not a safetensors file") from error
    module.load_state_dict({name: tensors[first] for name, first in stored_as.items()}, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _compare_layout(file: Any, wanted: Mapping[str, torch.Tensor]) -> None:
    """Compare the header of an open safetensors file with the module's tensors, without reading a value."""
    _compare_names(set(file.keys()), set(wanted))
    for name, tensor in wanted.items():
        entry = file.get_slice(name)
        _compare_shapes(name, tuple(entry.get_shape()), tuple(tensor.shape))
        if entry.get_dtype() not in (("F16", "F32") if tensor.is_floating_point() else ("I64",)):
            raise PackageError(f"the tensor {name} holds values of the type {entry.get_dtype()}")


def _compare_names(present: set[str], wanted: set[str]) -> None:
    if wanted - present:
        raise PackageError(f"the tensor {min(wanted - present)} is missing")
    if present - wanted:
        raise PackageError(f"the tensor {printable(min(present - wanted))} is left over, the network has no such part")


def _compare_shapes(name: str, present: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if present != wanted:
        raise PackageError(f"the tensor {name} has the shape {list(present)}, the network needs {list(wanted)}")


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    if not tensor.isfinite().all():
        raise PackageError(f"the tensor {name} holds values that are not finite numbers")
