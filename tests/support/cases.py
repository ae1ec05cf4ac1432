"""Cases for tests: random voxels, and the only case or refusal of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from CardiacLDMLib.image.cases import Case, Refused, find_cases


def hu_values(shape: tuple[int, int, int] = (12, 10, 8), seed: int = 0) -> np.ndarray:
    """Return random Hounsfield units (int16)."""
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


def only_case(path: Path, **options: object) -> Case:
    """Return the only case in ``path``."""
    (case,) = find_cases([path], **options)  # type: ignore[arg-type]
    assert isinstance(case, Case), case
    return case


def refusal(path: Path, **options: object) -> str:
    """Return the reason why ``path`` holds no case."""
    (case,) = find_cases([path], **options)  # type: ignore[arg-type]
    assert isinstance(case, Refused), case
    return case.reason
