"""Slicer's real scene for the tests of this folder."""

from __future__ import annotations

from typing import Any

import pytest

from cardiacldm_training.results import views


@pytest.fixture(scope="module")
def app() -> Any:
    return views.slicer_app()


@pytest.fixture
def mrml(app: Any) -> Any:
    app.scene.Clear(True)
    return app.scene
