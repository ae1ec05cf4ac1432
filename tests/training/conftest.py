"""Fixtures of the tests that train: three small cases, prepared for a generator."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardiacldm_training.cases import prepare, store
from tests.support.training import write_cases

SPACING_MM = 8.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of three labelled cases."""
    return write_cases(tmp_path_factory.mktemp("data") / "cohort", 3)


@pytest.fixture(scope="module")
def prepared(data: Path) -> store.Prepared:
    """Return the cases of ``data`` at 8 mm."""
    return prepare.prepare_cases([data], None, SPACING_MM, 1, lambda line: None)
