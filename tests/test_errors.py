"""Errors for the user: kinds, and one sentence for any exception."""

from __future__ import annotations

import errno
from typing import get_args

import pytest

from cardiacldm_training import errors as training_errors
from CardiacLDMLib import errors
from CardiacLDMLib.errors import Kind, UserError, explain


def _classes() -> list[type[UserError]]:
    found = [value for module in (errors, training_errors) for value in vars(module).values()]
    return [value for value in found if isinstance(value, type) and issubclass(value, UserError)]


@pytest.mark.parametrize("error", _classes())
def test_every_error_for_users_has_a_kind(error: type[UserError]) -> None:
    assert error.kind in get_args(Kind)
    assert issubclass(error, ValueError)  # so that pydantic validators may raise it


class OutOfMemoryError(RuntimeError):
    """torch's, which is known by its name: nothing here imports torch."""


@pytest.mark.parametrize(
    ("error", "kind", "fact"),
    [
        (errors.OutputError("a.nii could not be written."), "output", "a.nii could not be written."),
        (errors.DeviceError("no GPU"), "device", "no GPU"),
        (errors.NoAcceptablePair(3, [["a"], ["b", "c"]]), "rejected", "b; c"),
        (ModuleNotFoundError("", name="monai.networks"), "missing", "monai"),
        (ImportError("undefined symbol", name="torch._C"), "missing", "torch"),
        (OutOfMemoryError("CUDA out of memory. Tried ..."), "memory", "GPU"),
        (MemoryError(), "memory", "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), "memory", "computer"),
        (RuntimeError("itkImportImageContainer.hxx:179:\nFailed to allocate memory for image."), "memory", "computer"),
        (RuntimeError("std::bad_alloc"), "memory", "computer"),
        (RuntimeError("can't start new thread"), "memory", "computer"),
        (ImportError("_common.so: failed to map segment from shared object", name="numpy"), "memory", "computer"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory", "computer"),
        (PermissionError(errno.EACCES, "Permission denied", "/home/anna/a.csv"), "input", "a.csv"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "/home/anna/b"), "input", "b cannot"),
        (RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED"), "memory", "GPU"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "memory", "GPU"),
        (RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "memory", "GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"), "memory", "GPU"),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), "memory", "GPU"),
        (RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:995"), "memory", "GPU"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), "memory", "GPU"),
        (RuntimeError("CUDA error: device-side assert\nmore"), "device", "device-side assert"),
        (RuntimeError("the moon\nis full"), "internal", "RuntimeError: the moon"),
        (KeyError(), "internal", "KeyError"),
    ],
)
def test_any_exception_becomes_one_sentence(error: Exception, kind: str, fact: str) -> None:
    explanation = explain(error)
    assert explanation.kind == kind
    assert fact in explanation.message
    assert "\n" not in explanation.message
    assert "anna" not in explanation.message
    assert explanation.expected == isinstance(error, UserError)


def test_full_memory_is_named_also_where_a_reader_saw_a_damaged_file() -> None:
    error = errors.VolumeError("a.nii is damaged.")
    error.__cause__ = RuntimeError("Failed to allocate memory for image.")
    assert explain(error).kind == "memory"
    assert "a.nii" not in explain(error).message


@pytest.mark.parametrize(("hidden", "kind"), [(False, "memory"), (True, "internal")])
def test_full_memory_is_named_also_where_a_library_failed_over_it(hidden: bool, kind: Kind) -> None:
    """As MONAI does while it is imported."""
    error = AttributeError("'str' object has no attribute '_exception'")
    error.__context__, error.__suppress_context__ = MemoryError(), hidden
    assert explain(error).kind == kind


def test_names_that_cannot_be_shown_do_not_break_a_message() -> None:
    for error in (errors.VolumeError("a\udcff\nb is empty."), OSError(2, "No such file", "a\udcff\nb")):
        explain(error).message.encode()
        assert "\n" not in explain(error).message
    assert str(errors.VolumeError("Schädel\udcff.nii")) == "Schädel?.nii"
