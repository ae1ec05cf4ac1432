"""Errors for the user: kinds, and one sentence for any exception."""

from __future__ import annotations

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
        (RuntimeError("DefaultCPUAllocator: can't allocate"), "memory", "memory"),
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
    assert explanation.expected == isinstance(error, UserError)
