"""The compute devices of this computer, and a check of one of them with a report for a forum post.

The report names versions and hardware, but no person, file or folder. It works without any third-party library too:
only the standard library is imported at the start.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from .. import __version__
from ..errors import UserError, first_line
from ..text import plural

#: Distributions that the runtime depends on.
LIBRARIES = ("torch", "monai", "safetensors", "pydantic", "connected-components-3d", "numpy", "SimpleITK")
_MODULES = {"connected-components-3d": "cc3d"}
#: Channels and side (voxels) of the check's convolution, which is like those of the networks.
_CHANNELS, _SIDE = 32, 64
#: Largest relative error of the check's convolution. Half precision stays below it, a faulty device does not.
_TOLERANCE = 2e-2
#: Lets pydantic build these records from the JSON fields of a message.
_FROM_FIELDS: dict[str, Any] = {"strict": False, "extra": "forbid"}


@dataclass(frozen=True)
class Device:
    """A device under the name that a job takes (``cpu``, ``cuda:0``). Memory in bytes, None for the CPU.

    ``problem``: why the installed torch cannot compute on it, None if it can.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _FROM_FIELDS

    device: str
    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class DeviceCheck:
    """The result of checking ``device``.

    ``problem``: a sentence, None if all is well. ``seconds``: time of one convolution, None if there was none.
    ``text``: the whole report, several lines.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _FROM_FIELDS

    ok: bool
    problem: str | None
    device: str
    seconds: float | None
    versions: dict[str, str]
    devices: list[Device]
    text: str


def list_devices() -> list[Device]:
    """Return the GPUs and, last, the CPU."""
    import torch

    from ..torch_device import why_unusable

    devices = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        name, problem = torch.cuda.get_device_name(number), why_unusable(number)
        free, total = (None, None) if problem else torch.cuda.mem_get_info(number)
        devices.append(Device(f"cuda:{number}", name, total, free, problem))
    return [*devices, Device("cpu", _processor())]


def check_device(device: str = "auto") -> DeviceCheck:
    """Check the libraries, then compute one convolution on ``device``.

    If a library is missing, none is imported: Slicer then calls this in its own process.
    """
    versions = {"CardiacLDM": __version__, "Python": platform.python_version()} | {n: _version(n) for n in LIBRARIES}
    seconds, devices, remark = None, list[Device](), ""
    problem = _missing_library() or _broken_library()
    if problem is None:
        import torch

        from ..torch_device import choose_device

        versions["CUDA of torch"] = torch.version.cuda or "none: this torch has no CUDA"
        try:
            devices = list_devices()
            chosen = choose_device(device)
            device, remark = chosen.name, chosen.remark
            seconds = _convolve(device)
        except Exception as error:  # any error is what the user wants to know
            problem = _sentence(error)
    result = f"failed. {problem}" if problem else f"passed, one 3D convolution in {(seconds or 0.0) * 1000:.1f} ms"
    lines = [*_system_lines(versions, devices), f"Check on {device}: {result}", *([remark] if remark else [])]
    return DeviceCheck(problem is None, problem, device, seconds, versions, devices, "\n".join(lines))


def _version(library: str) -> str:
    """Return the version of a library. Slicer's own are not always installed as distributions: import those."""
    try:
        return version(library)
    except PackageNotFoundError:
        if not _is_there(library):
            return "missing"
    try:
        module = importlib.import_module(_MODULES.get(library, library))
    except Exception:
        return "missing"
    return str(getattr(module, "__version__", "of unknown version"))


def _is_there(library: str) -> bool:
    """Return whether a library is installed, without importing it."""
    try:
        return importlib.util.find_spec(_MODULES.get(library, library)) is not None
    except (ImportError, ValueError):  # ValueError: a module without a specification stands in its place
        return False


def _missing_library() -> str | None:
    """Return a sentence on the first library that is not installed, None if all are."""
    missing = next((library for library in LIBRARIES if not _is_there(library)), None)
    return f"The Python library {missing} is missing." if missing else None


def _broken_library() -> str | None:
    """Import the libraries; return a sentence on the first that cannot be loaded, None if all can."""
    for library in LIBRARIES:
        try:
            importlib.import_module(_MODULES.get(library, library))
        except ModuleNotFoundError as error:
            return f"The Python library {error.name or library} is missing."
        except Exception as error:  # a library built for another system fails in many ways
            return f"The Python library {library} cannot be loaded: {_first_line(error)}"
    return None


def _convolve(device: str) -> float:
    """Run a convolution on ``device``, check its result, and return the seconds it took."""
    import torch

    with torch.inference_mode():
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(1, _CHANNELS, _SIDE, _SIDE, _SIDE, generator=generator)
        weights = torch.randn(_CHANNELS, _CHANNELS, 3, 3, 3, generator=generator) / (_CHANNELS * 27) ** 0.5
        expected = torch.nn.functional.conv3d(values[..., :6, :6, :6], weights)
        inputs = (values.to(device), weights.to(device))
        torch.nn.functional.conv3d(*inputs)  # warm-up: the first call also loads the device's libraries
        _finish(device)
        began = time.perf_counter()
        result = torch.nn.functional.conv3d(*inputs)
        _finish(device)
        seconds = time.perf_counter() - began
        difference = float((result[..., :4, :4, :4].float().cpu() - expected).abs().max())
    if not difference < _TOLERANCE * float(expected.abs().max()):
        raise RuntimeError("the result of a convolution is wrong")
    return seconds


def _finish(device: str) -> None:
    """Wait until the device has done its work."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"The device cannot be used: {_first_line(error)}."


def _first_line(error: Exception) -> str:
    return (first_line(error) or type(error).__name__).rstrip(".")


def _system_lines(versions: dict[str, str], devices: list[Device]) -> list[str]:
    """Return the lines on the system, the libraries and the devices."""
    lines = [
        f"System: {platform.system()} {platform.release()} {platform.machine()}, {plural(os.cpu_count() or 1, 'CPU')}"
    ]
    lines += [f"{name}: {number}" for name, number in versions.items()]
    for device in devices:
        memory = ""
        if device.total_bytes and device.free_bytes is not None:
            free, total = device.free_bytes / 2**30, device.total_bytes / 2**30
            memory = f", {free:.1f} of {total:.1f} GiB free"
        problem = f", cannot be used: {device.problem}" if device.problem else ""
        lines.append(f"Device {device.device}: {device.name}{memory}{problem}")
    return lines


def _processor() -> str:
    """Return the processor's name where the system knows it, otherwise its type."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
