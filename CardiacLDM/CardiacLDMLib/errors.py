"""Errors that a user can act on.

Every error whose message is one sentence for the user derives from :class:`UserError`. The worker process sends its
``kind`` to the panels, which offer help by it. Any other exception is a fault of the program, of
the computer or of the installation; :func:`explain` turns it into a sentence too. Only the standard library.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import ClassVar, Literal

from .text import plural, printable, printable_line

#: ``input``: a scan, option or file that cannot be used. ``package``: a model package that cannot be used. ``exists``:
#: a package of that name is installed already. ``output``: results that cannot be written. ``rejected``: no pair passed
#: the checks. ``busy``: a job is running already. ``device``: the compute device is not available, or failed.
#: ``memory``: memory ran out. ``missing``: a Python library is absent. ``crash``: the worker process ended.
#: ``internal``: a fault of the program.
Kind = Literal[
    "input", "package", "exists", "output", "rejected", "busy", "device", "memory", "missing", "crash", "internal"
]


class UserError(ValueError):
    """An error whose message is one sentence that the user can act on.

    A ``ValueError``, so that pydantic validators may raise it. Unprintable characters, which names of files may hold,
    become question marks.
    """

    kind: ClassVar[Kind] = "input"

    def __str__(self) -> str:
        return printable_line(super().__str__())


class VolumeError(UserError):
    """A scan or label map, or a file or folder named as one, that cannot be used."""


class OutputError(UserError):
    """A file or folder that cannot be written, or holds results of another run."""

    kind: ClassVar[Kind] = "output"


class DeviceError(UserError):
    """A compute device that is not available."""

    kind: ClassVar[Kind] = "device"


class MemoryShortage(UserError):  # noqa: N818 - MemoryError is Python's own
    """A job for which the memory of the computer or of the GPU is too small."""

    kind: ClassVar[Kind] = "memory"


class SegmenterError(UserError):
    """A scan that cannot be segmented."""


class GeneratorError(UserError):
    """A request for synthetic pairs that the package cannot meet."""


class NoAcceptablePair(GeneratorError):  # noqa: N818 - an outcome, which batch runs count
    """No attempt at a pair passed the checks.

    ``rejected`` holds one list per attempt, with one sentence per fault.
    """

    kind: ClassVar[Kind] = "rejected"

    def __init__(self, index: int, rejected: list[list[str]]) -> None:
        self.rejected = rejected
        super().__init__(
            f"None of {plural(len(rejected), 'attempt')} at pair {index} was accepted; faults of the last one: "
            f"{'; '.join(rejected[-1])}."
        )


class PackageError(UserError):
    """A model package that cannot be used."""

    kind: ClassVar[Kind] = "package"


class PackageExists(PackageError):  # noqa: N818 - a question: replace it?
    """A package of that name is installed, and replacing it was not allowed."""

    kind: ClassVar[Kind] = "exists"


class JobError(UserError):
    """A request that the worker cannot carry out."""


class ClientError(UserError):
    """A job that cannot be started now."""

    kind: ClassVar[Kind] = "busy"


# --- explaining any exception --------------------------------------------------------------------------------------

#: Parts of torch's messages about a failed GPU. torch has had a class for them only since 2.8.
_GPU_WORDS = ("CUDA error", "cuDNN", "CUBLAS", "CUDA driver")
#: Parts of messages about a full GPU that have no class of their own: of torch, cuDNN and cuBLAS, which also report a
#: handle or an algorithm that they have no memory for, and of torch's allocator when it fails to describe the shortage.
_GPU_MEMORY_WORDS = (
    "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "NVML_SUCCESS",
    "CUDNN_STATUS_NOT_INITIALIZED", "find a valid cuDNN algorithm",
)  # fmt: skip
#: Parts of messages about full memory, of torch, ITK, the C++ library, Windows and the loader of libraries.
_MEMORY_WORDS = (
    "DefaultCPUAllocator", "allocate memory", "bad_alloc", "bad allocation", "not enough memory", "start new thread",
    "failed to map segment",
)  # fmt: skip


#: Errors of the operating system about a file or folder that no program can mend.
_FILE_PROBLEMS = (
    errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOSPC, errno.EROFS, errno.EIO, errno.EMFILE,
)  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """A sentence for the user about an exception. ``expected``: True for a :class:`UserError`, False for a fault."""

    kind: Kind
    message: str
    expected: bool = False


def explain(error: BaseException) -> Explanation:
    """Return the explanation of any exception. torch's exceptions are recognised without importing torch.

    An error that full memory caused is explained by that: readers see a file cut short, writers a full disk.
    """
    shortage = None if isinstance(error, MemoryShortage) else _memory_shortage(error)
    if shortage:
        return Explanation("memory", shortage)
    if isinstance(error, UserError):
        return Explanation(error.kind, str(error), expected=True)
    return _explain_fault(error)


def _explain_fault(error: BaseException) -> Explanation:
    """Return the explanation of a fault of the program, of the computer or of the installation."""
    if isinstance(error, ImportError):
        library = (error.name or "a library").split(".")[0]
        problem = "is missing" if isinstance(error, ModuleNotFoundError) else "cannot be loaded"
        return Explanation("missing", f"The Python library {library} {problem}: install the packages that are needed.")
    if isinstance(error, OSError) and error.errno in _FILE_PROBLEMS and isinstance(error.filename, str):
        return Explanation("input", f"{printable(os.path.basename(error.filename))} cannot be used: {error.strerror}.")
    line = printable_line(first_line(error))
    if isinstance(error, RuntimeError) and _says(error, _GPU_WORDS):
        return Explanation("device", f"The GPU failed ({line}): try again, or choose the device CPU.")
    return Explanation("internal", f"An unforeseen error, please report it: {type(error).__name__}: {line}")


def _memory_shortage(error: BaseException | None) -> str | None:
    """Return a sentence if full memory raised or caused ``error``, else None."""
    while error is not None:
        if is_gpu_memory_error(error):
            return "The GPU's memory is full: close other programs, or choose the device CPU."
        full = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        if full or (isinstance(error, RuntimeError | ImportError) and _says(error, _MEMORY_WORDS)):
            return "The computer's memory is full: close other programs, or crop a large scan to the chest."
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def is_gpu_memory_error(error: BaseException) -> bool:
    """Return whether a GPU's memory was too small, whichever library says so. torch's class for it is one of several.

    A name of the class is enough: Slicer's process has no torch.
    """
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _says(error, _GPU_MEMORY_WORDS)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(word in str(error) for word in words)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message; empty if it has none."""
    return (str(error).strip().splitlines() or [""])[0]
