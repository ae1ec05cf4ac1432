"""The entry by which a package asks for refined borders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.packages.manifest import MANIFEST
from CardiacLDMLib.packages.store import find_package, open_package
from tests.support.package_attacks import edit, set_manifest


def test_the_shipped_package_asks_for_it_and_others_need_not(tiny: Path) -> None:
    borders = find_package(None).manifest.borders
    assert borders is not None
    assert 0.0 < borders.weight <= 1.0
    assert "borders" not in json.loads((tiny / MANIFEST).read_text())
    assert open_package(tiny).manifest.borders is None


@pytest.mark.parametrize("entry", [{}, {"weight": 0.0}, {"weight": 2.0}, {"weight": 0.5, "width": 3}])
def test_a_bad_entry_is_refused(entry: dict[str, float], copy: Path) -> None:
    set_manifest(borders=entry)(copy)
    with pytest.raises(PackageError, match="borders"):
        open_package(copy)


def test_a_generator_with_it_is_refused(tiny_generator: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "tiny-generator"))
    edit(folder, lambda manifest: manifest.update(borders={"weight": 0.25}))
    with pytest.raises(PackageError, match="borders"):
        open_package(folder)
