"""What a worker can do: segment arrays and files, draw pairs, verify packages, and tell what this computer can do.

Nothing heavy is imported before it is needed, so that a worker without torch can still say that torch is missing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import JobError, UserError
from ..progress import Cancelled, Preview, Progress
from .device import check_device, list_devices

if TYPE_CHECKING:
    import numpy as np

    from ..generation.generator import Generator, Pair
    from ..image.cases import Case
    from ..image.grid import Volume
    from ..packages.store import ModelPackage
    from ..segmentation.segmenter import Segmentation, Segmenter


#: Packages that stay loaded, the last ones used.
MAX_LOADED = 2

Report = Callable[[Progress | Preview], None]
Unwanted = Callable[[], bool]
Model = TypeVar("Model")


class Jobs:
    """The jobs, and what they leave loaded for the next one."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._loaded = threading.Event()

    def load(self) -> None:
        """Import the libraries, on a thread of its own while the first job is still on its way.

        What goes wrong here does so again, and is told, in the job that needs them.
        """
        try:
            import CardiacLDMLib.segmentation.segmenter  # noqa: F401
        except Exception as error:
            print(f"The libraries cannot be loaded: {error}", file=sys.stderr)
        finally:
            self._loaded.set()

    def do(self, request: dict[str, Any], report: Report, unwanted: Unwanted) -> dict[str, Any]:
        """Do what ``request`` asks for and return the result's fields; raises whatever goes wrong."""
        jobs: dict[object, Callable[[dict[str, Any], Report, Unwanted], dict[str, Any]]] = {
            "segment": self._segment_array,
            "segment_file": self._segment_file,
            "generate": self._generate,
            "save_pair": _save_pair,
            "find_cases": _find_cases,
            "verify": _verify,
            "import_package": _import_package,
            "devices": lambda *_: {"devices": list_devices()},
            "check_device": lambda request, *_: check_device(request.get("device", "auto")),
        }
        if request.get("job") not in jobs:
            raise JobError(f"The worker has no job {request.get('job')!r}: restart Slicer after an update.")
        if request["job"] != "find_cases":
            report(Progress(0, 100, "load", 0.0))
            while not self._loaded.wait(0.05):
                _stop_if(unwanted)
        return jobs[request["job"]](request, report, unwanted)

    def _segment_array(self, request: dict[str, Any], report: Report, unwanted: Unwanted) -> dict[str, Any]:
        import numpy as np

        from ..image.grid import Volume

        began = time.perf_counter()
        array = np.asarray(np.load(request["image"], mmap_mode="r", allow_pickle=False))
        segmenter = self._segmenter(request)
        result = _segment(segmenter, Volume(array, np.array(request["affine"])), request, report, unwanted)
        with _room_on_disk(), open(request["out"], "wb") as file:
            np.save(file, result.labels.array)  # not mapped: writing to a full disk would be a crash
        return {"labels": request["out"], **_summary(segmenter, result, request), "seconds": _since(began)}

    def _segment_file(self, request: dict[str, Any], report: Report, unwanted: Unwanted) -> dict[str, Any]:
        """Read, label and write one case, as the command line does it; nothing is written unless all of it is."""
        from ..image.cases import read_case
        from ..results.report import (
            CaseReport,
            PackageRecord,
            existing_results,
            grid_record,
            software_versions,
            write_case,
        )

        began = time.perf_counter()
        report(Progress(0, 100, "read", 0.0))
        case = _case(Path(request["source"]))
        out, name = Path(request["out"]), request.get("name") or case.name
        existing = [] if request.get("overwrite") else existing_results(out, name)
        if existing:
            raise JobError(f"{existing[0]} exists already: choose another folder, or allow replacing.")
        volume = read_case(case)
        reading = _since(began)
        _stop_if(unwanted)
        segmenter = self._segmenter(request)
        result = _segment(segmenter, volume, request, report, unwanted)
        _stop_if(unwanted)
        report(Progress(100, 100, "write", _since(began)))
        package = segmenter.package
        record = CaseReport(
            case=name,
            source=case.path.resolve().name,
            package=PackageRecord(name=package.manifest.name, version=package.manifest.version, sha256=package.sha256),
            device=result.device,
            quality=request.get("quality", "full"),
            heart_found=result.heart_found,
            volumes_ml={structure: round(volume_ml, 2) for structure, volume_ml in result.volumes_ml.items()},
            warnings=[*case.notes, *result.warnings],
            seconds={"read": reading, **result.seconds},
            grid=grid_record(volume),
            software=software_versions(),
        )
        files = write_case(out, Path(request["aside"]), result.labels, record)
        summary = _summary(segmenter, result, request)
        summary["warnings"] = record.warnings
        return {"name": name, "files": [str(file) for file in files], **summary, "seconds": _since(began)}

    def _segmenter(self, request: dict[str, Any]) -> Segmenter:
        from ..packages.store import locate_package
        from ..segmentation.segmenter import Segmenter
        from ..torch_device import resolve_device

        folder = locate_package(request.get("package"))
        return self._model(folder, Segmenter, resolve_device(request.get("device", "auto")))

    def _model(self, folder: Path, make: Callable[[ModelPackage, str], Model], device: str) -> Model:
        """The package's networks, from the last time if none of its files has changed since."""
        from ..packages.store import open_package

        files = tuple(sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in os.scandir(folder)))
        key = (make, str(folder), files, device)
        model = self._models.pop(key, None) or make(open_package(folder), device)
        while len(self._models) >= MAX_LOADED:
            self._models.popitem(last=False)
        self._models[key] = model
        return model

    # --- pairs ---

    def _generate(self, request: dict[str, Any], report: Report, unwanted: Unwanted) -> dict[str, Any]:
        """Draw one pair into the job's folder, and every few steps a picture of what it looks like by then."""
        import numpy as np

        began = time.perf_counter()
        folder = Path(request["folder"])

        def preview(step: int, total: int, image: np.ndarray) -> None:
            file = folder / f"preview-{step}.pgm"
            with _room_on_disk():
                file.write_bytes(_grey_picture(image))
            report(Preview(step, total, str(file)))

        generator = self._generator(request)
        with _gpu_left_to_others():
            pair = self._drawn(generator, request, progress=report, cancelled=unwanted, preview=preview)
        for name, volume in (("image", pair.image), ("labels", pair.labels)):
            with _room_on_disk(), open(folder / f"{name}.npy", "wb") as file:
                np.save(file, np.asfortranarray(volume.array))  # as Slicer lays voxels out
        return {"affine": pair.image.affine.tolist(), "provenance": pair.provenance, "device": generator.device,
                "seconds": _since(began)}  # fmt: skip

    def _drawn(self, generator: Generator, request: dict[str, Any], **watched: Any) -> Pair:
        """The pair, drawn until one may be kept unless ``check`` is false."""
        from ..generation.acceptance import Judge, draw
        from ..packages.store import DEFAULT_PACKAGE, known_packages

        judge = None
        if request.get("check", True):
            there = DEFAULT_PACKAGE in known_packages("segmenter")
            judge = Judge(self._segmenter({"device": generator.device}) if there else None)
        number = (request["seed"], request["index"])
        return draw(generator, judge, *number, request.get("conditions"), steps=request.get("steps"), **watched)

    def _generator(self, request: dict[str, Any]) -> Generator:
        from ..generation.generator import Generator
        from ..packages.store import DEFAULT_GENERATOR, known_packages, locate_package
        from ..torch_device import resolve_device

        name = request.get("package")
        if name is None and DEFAULT_GENERATOR not in known_packages("generator"):
            raise JobError("No generator package comes with this version: import one under Models & device.")
        return self._model(
            locate_package(name or DEFAULT_GENERATOR), Generator, resolve_device(request.get("device", "auto"))
        )


def _stop_if(unwanted: Unwanted) -> None:
    if unwanted():
        raise Cancelled


def _since(began: float) -> float:
    return time.perf_counter() - began


def _segment(
    segmenter: Segmenter, volume: Volume, request: dict[str, Any], report: Report, unwanted: Unwanted
) -> Segmentation:
    with _gpu_left_to_others():
        quality = request.get("quality", "full")
        return segmenter.segment(volume, quality=quality, progress=report, cancelled=unwanted)


@contextlib.contextmanager
def _gpu_left_to_others() -> Iterator[None]:
    """Give back the GPU's memory that torch keeps for later: Slicer draws on the same GPU."""
    import torch

    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _summary(segmenter: Segmenter, result: Segmentation, request: dict[str, Any]) -> dict[str, Any]:
    manifest = segmenter.package.manifest
    return {
        "warnings": result.warnings,
        "device": result.device,
        "quality": request.get("quality", "full"),
        "heart_found": result.heart_found,
        "volumes_ml": result.volumes_ml,
        "stage_seconds": result.seconds,
        "network_seconds": result.network_seconds,
        "package": {"name": manifest.name, "version": manifest.version, "sha256": segmenter.package.sha256},
    }


@contextlib.contextmanager
def _room_on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise JobError("The disk that holds temporary files is full: free some space and try again.") from error


# --- pairs ---------------------------------------------------------------------------------------------------------


def _grey_picture(image: np.ndarray) -> bytes:
    """An axial slice (I, J; HU; RAS) as a PGM file, seen from the feet: the patient's right is on the left."""
    import numpy as np

    from ..anatomy import HEART_WINDOW

    share = (image.T[::-1, ::-1] - HEART_WINDOW.low) / HEART_WINDOW.width
    grey = np.rint(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8)
    return f"P5 {grey.shape[1]} {grey.shape[0]} 255\n".encode() + grey.tobytes()


def _save_pair(request: dict[str, Any], report: Report, unwanted: Unwanted) -> dict[str, Any]:
    """Write a pair's arrays and provenance as the files that training takes."""
    import numpy as np

    from ..image.grid import Volume
    from ..results.pairs import write_pair

    image, labels = (np.load(request[name], mmap_mode="r", allow_pickle=False) for name in ("image", "labels"))
    affine, out = np.array(request["affine"]), Path(request["out"])
    write_pair(out, Path(request["aside"]), Volume(image, affine), Volume(labels, affine), request["provenance"])
    return {"out": str(out)}


# --- files and packages --------------------------------------------------------------------------------------------


def _case(source: Path) -> Case:
    """The one case that ``source`` is."""
    from ..image.cases import Refused, find_cases

    found = find_cases([source])
    own = [case for case in found if not isinstance(case, Refused) and case.path == source]
    if len(own) == 1:
        return own[0]
    if len(found) != 1:
        raise JobError(f"{source.name} holds {len(found)} scans: choose one of them.")
    if isinstance(found[0], Refused):
        raise JobError(found[0].reason)
    return found[0]


def _find_cases(request: dict[str, Any], report: Report, unwanted: Unwanted) -> dict[str, Any]:
    """The cases in a folder, each with a name of its own, and what cannot be one, with the reason."""
    from ..image.cases import Refused, find_cases

    found = find_cases([Path(request["source"])])
    return {
        "cases": [{"name": c.name, "source": str(c.path)} for c in found if not isinstance(c, Refused)],
        "refused": [{"name": c.name, "reason": c.reason} for c in found if isinstance(c, Refused)],
    }


def _verify(request: dict[str, Any], report: Report, unwanted: Unwanted) -> dict[str, Any]:
    from ..packages.store import locate_package
    from ..packages.weights import verify_package

    return _package_record(verify_package(locate_package(request.get("package"))))


def _import_package(request: dict[str, Any], report: Report, unwanted: Unwanted) -> dict[str, Any]:
    """Install a package for this user, from a zip or folder, after checking all of it."""
    from ..packages.archive import import_package
    from ..packages.store import user_packages_dir

    return _package_record(import_package(request["source"], user_packages_dir(), request.get("replace", False)))


def _package_record(package: ModelPackage) -> dict[str, Any]:
    manifest = package.manifest
    return {"name": manifest.name, "version": manifest.version, "sha256": package.sha256,
            "size_bytes": package.size_bytes}  # fmt: skip


# --- what went wrong -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """An error in one sentence for the user. After one that was not ``expected`` the worker should not go on."""

    kind: str
    message: str
    expected: bool = False


def explain(error: Exception) -> Explanation:
    """What to tell the user, and whether the process is still sound."""
    if isinstance(error, UserError):
        return Explanation(error.kind, str(error), expected=True)
    if isinstance(error, ImportError):
        library = (error.name or "a library").split(".")[0]
        what = "is missing" if isinstance(error, ModuleNotFoundError) else "cannot be loaded"
        return Explanation("missing", f"The Python library {library} {what}: install what the module needs.")
    if type(error).__name__ == "OutOfMemoryError":
        return Explanation("memory", "The GPU's memory is full: close other programs, or choose the device CPU.")
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return Explanation(
            "memory", "There is not enough memory for this scan: close other programs, or crop it to the chest."
        )
    first_line = (str(error).strip().splitlines() or [""])[0]
    if _is_of_gpu(error):
        return Explanation("device", f"The GPU failed ({first_line}): try again, or choose the device CPU.")
    return Explanation("internal", f"An unforeseen error, please report it: {type(error).__name__}: {first_line}")


def _is_of_gpu(error: Exception) -> bool:
    """torch has a class of its own for this since 2.8 only."""
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        word in text for word in ("CUDA error", "cuDNN", "CUBLAS", "CUDA driver")
    )
