"""Packages that the tests here share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.generator_package import write_tiny_generator
from tests.support.package import write_tiny_package


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid package that no test changes."""
    return write_tiny_package(tmp_path_factory.mktemp("packages") / "tiny")


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid generator package that no test changes."""
    return write_tiny_generator(tmp_path_factory.mktemp("generators") / "tiny-generator")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A valid package to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "source" / "tiny"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
