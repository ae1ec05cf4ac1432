"""What this computer can compute on: its devices, and a check of one that ends in a text fit for a forum post.

The text names versions and hardware, never a person, a file or a folder. It is complete also where torch is missing.
"""

from __future__ import annotations

import importlib
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__

#: Distributions that the runtime depends on.
LIBRARIES = ("torch", "monai", "safetensors", "pydantic", "connected-components-3d", "numpy", "SimpleITK")
_MODULES = {"connected-components-3d": "cc3d"}
#: What the check computes: a convolution as in the networks, on one window.
_CHANNELS, _SIDE = 32, 64
#: Half-precision hardware may be used for it; a wrong result is off by far more.
_TOLERANCE = 2e-2


def list_devices() -> list[dict[str, Any]]:
    """Each GPU and the CPU: ``device`` as in a job, ``name``, ``total_bytes`` and ``free_bytes`` (None for the CPU)."""
    import torch

    devices = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        devices.append({"device": f"cuda:{number}", "name": name, "total_bytes": total, "free_bytes": free})
    return [*devices, {"device": "cpu", "name": _processor(), "total_bytes": None, "free_bytes": None}]


def check_device(device: str = "auto") -> dict[str, Any]:
    """Look at the libraries, and compute something real on ``device``.

    Returns ``ok``, ``problem`` (a sentence, or None), ``device``, ``seconds`` of the operation (or None), ``versions``,
    ``devices`` as :func:`list_devices` gives them, and all of it as ``text``.
    """
    versions = {"CardiacLDM": __version__, "Python": platform.python_version()} | {n: _version(n) for n in LIBRARIES}
    found: dict[str, Any] = {"device": device, "seconds": None, "devices": [], "versions": versions}
    problem = _broken_library()
    if problem is None:
        import torch

        versions["CUDA of torch"] = torch.version.cuda or "none: this torch has no CUDA"
        try:
            found["devices"] = list_devices()
            found["device"], found["seconds"] = _convolve(device)
        except Exception as error:  # whatever it is, it is what the user wants to know
            problem = _sentence(error)
    found |= {"ok": problem is None, "problem": problem}
    return found | {"text": _text(found)}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # Slicer's own are not always installed as distributions
        try:
            module = importlib.import_module(_MODULES.get(library, library))
        except Exception:
            return "missing"
        return str(getattr(module, "__version__", "of unknown version"))


def _broken_library() -> str | None:
    """A sentence on the first library that is missing or cannot be loaded."""
    for library in LIBRARIES:
        try:
            importlib.import_module(_MODULES.get(library, library))
        except ModuleNotFoundError as error:
            return f"The Python library {error.name or library} is missing."
        except Exception as error:  # a library built for another system fails in many ways
            return f"The Python library {library} cannot be loaded: {_first_line(error)}"
    return None


def _convolve(device: str) -> tuple[str, float]:
    """The device that ``device`` stands for, and the seconds of a convolution there whose result is checked."""
    import torch

    from ..torch_device import resolve_device

    device = resolve_device(device)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(1, _CHANNELS, _SIDE, _SIDE, _SIDE, generator=generator)
        weights = torch.randn(_CHANNELS, _CHANNELS, 3, 3, 3, generator=generator) / (_CHANNELS * 27) ** 0.5
        expected = torch.nn.functional.conv3d(values[..., :6, :6, :6], weights)
        there = (values.to(device), weights.to(device))
        torch.nn.functional.conv3d(*there)  # the first one also loads what the device needs
        _finish(device)
        began = time.perf_counter()
        result = torch.nn.functional.conv3d(*there)
        _finish(device)
        seconds = time.perf_counter() - began
        difference = float((result[..., :4, :4, :4].float().cpu() - expected).abs().max())
    if not difference < _TOLERANCE * float(expected.abs().max()):
        raise RuntimeError("the result of a convolution is wrong")
    return device, seconds


def _finish(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


def _sentence(error: Exception) -> str:
    from ..errors import SegmenterError

    return str(error) if isinstance(error, SegmenterError) else f"The device cannot be used: {_first_line(error)}."


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _text(found: dict[str, Any]) -> str:
    lines = [f"System: {platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs"]
    lines += [f"{name}: {number}" for name, number in found["versions"].items()]
    for device in found["devices"]:
        memory = ""
        if device["total_bytes"]:
            free, total = (device[key] / 2**30 for key in ("free_bytes", "total_bytes"))
            memory = f", {free:.1f} of {total:.1f} GiB free"
        lines.append(f"Device {device['device']}: {device['name']}{memory}")
    if found["ok"]:
        lines.append(f"Check on {found['device']}: passed, one 3D convolution in {found['seconds'] * 1000:.1f} ms")
    else:
        lines.append(f"Check on {found['device']}: failed. {found['problem']}")
    return "\n".join(lines)


def _processor() -> str:
    """The processor's name where the system tells it, otherwise its kind."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
