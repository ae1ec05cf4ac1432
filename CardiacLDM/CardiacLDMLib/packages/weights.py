"""The weights of a package: strict loading and packing of tensors.

A module is first built on torch's meta device, which takes no memory; the tensors of the file are compared with it by
name, shape and type before one value is read. torch is imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PackageError
from ..networks.build import build_network, fits
from ..text import printable
from .manifest import NetworkSpec
from .store import ModelPackage, open_package

if TYPE_CHECKING:
    import torch


def verify_package(path: str | os.PathLike[str], called: str = "") -> ModelPackage:
    """Open the package in a folder and load its networks on the CPU: everything that can be checked, is."""
    package = open_package(path, called)
    load_networks(package)
    return package


def load_networks(package: ModelPackage, device: str = "cpu") -> dict[str, torch.nn.Module]:
    """The package's networks by name: float32, on ``device``, in evaluation mode, without gradients.

    Raises :class:`PackageError` when a tensor is missing, left over, of another shape or type, or not finite.
    """
    networks = {}
    for name, spec in package.manifest.networks.items():
        try:
            networks[name] = _load(spec, package.folder / spec.weights).to(device)
        except PackageError as error:
            raise PackageError(f"{package.manifest.name} is refused: in its {name}, {error}.") from error
    return networks


def pack_weights(spec: NetworkSpec, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A trained module's ``state_dict()`` as it is stored: each tensor once, on the CPU, half precision.

    Raises :class:`PackageError` when the state does not fit ``spec`` or a value is not finite in half precision.
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
    """The network without memory behind its tensors, shown to do its task on a patch."""
    import torch

    able = False
    with torch.device("meta"):
        module = build_network(spec.architecture, spec.arguments).eval()
        with contextlib.suppress(RuntimeError, ValueError):  # what torch raises where sizes do not meet
            able = fits(spec.architecture, module, spec.patch)
    if not able:
        raise PackageError(f"it cannot work on a patch of {' x '.join(map(str, spec.patch))} voxels")
    return module


def _tensors(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of ``module`` by name, each once, and for every name in its state the one it is stored under.

    DynUNet registers its blocks twice; what is one tensor in memory is one tensor in the file.
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
        with safe_open(path, framework="pt") as file:
            _compare_layout(file, wanted)
            for name, like in wanted.items():
                # A copy of its own: the file would stay mapped into memory, and it may be replaced meanwhile.
                tensors[name] = file.get_tensor(name).to(like.dtype, copy=True)
                _check_finite(name, tensors[name])
    except (SafetensorError, OSError) as error:
        raise PackageError(f"{path.name} is damaged, cut short, or not a safetensors file") from error
    module.load_state_dict({name: tensors[first] for name, first in stored_as.items()}, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _compare_layout(file: Any, wanted: Mapping[str, torch.Tensor]) -> None:
    """Compare the header of an open safetensors file with the module's tensors; no value is read."""
    _compare_names(set(file.keys()), set(wanted))
    for name, tensor in wanted.items():
        entry = file.get_slice(name)
        _compare_shapes(name, tuple(entry.get_shape()), tuple(tensor.shape))
        if entry.get_dtype() not in (("F16", "F32") if tensor.is_floating_point() else ("I64",)):
            raise PackageError(f"the tensor {name} holds values of the type {entry.get_dtype()}")


def _compare_names(found: set[str], wanted: set[str]) -> None:
    if wanted - found:
        raise PackageError(f"the tensor {min(wanted - found)} is missing")
    if found - wanted:
        raise PackageError(f"the tensor {printable(min(found - wanted))} is left over, the network has no such part")


def _compare_shapes(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise PackageError(f"the tensor {name} has the shape {list(found)}, the network needs {list(wanted)}")


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    if not tensor.isfinite().all():
        raise PackageError(f"the tensor {name} holds values that are not finite numbers")
