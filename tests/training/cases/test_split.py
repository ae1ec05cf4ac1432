"""The split into training and held-out cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardiacldm_training.cases import split, store
from cardiacldm_training.errors import TrainingError


def test_split_is_stable_and_depends_on_names_only(tmp_path: Path) -> None:
    cases = [store.PreparedCase(f"c/case_{n:04d}", tmp_path, "", 6.0) for n in range(400)]
    train_cases, held_out = split.split(cases, 0.1)
    assert len(train_cases) + len(held_out) == 400
    assert 20 <= len(held_out) <= 60
    fewer = {case.name for case in split.split(cases[:300], 0.1)[1]}
    assert fewer >= {case.name for case in held_out} & {case.name for case in cases[:300]}
    two = split.split(cases[:2], 0.1)
    assert [len(part) for part in two] == [1, 1]
    with pytest.raises(TrainingError, match="at least two"):
        split.split(cases[:1], 0.1)
