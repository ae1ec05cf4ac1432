"""The record of a package that foretells how good its labels are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.packages.manifest import MANIFEST, Manifest
from CardiacLDMLib.packages.store import find_package, open_package
from tests.packages.test_manifest import SCHEMA
from tests.support.package_attacks import edit, set_manifest
from tests.support.phantom_package import RECORD, write_phantom_package


def test_it_is_kept_as_it_was_written(tmp_path: Path) -> None:
    folder = write_phantom_package(tmp_path / "phantom")
    assert open_package(folder).manifest.expected_dice == RECORD
    manifest = json.loads((folder / MANIFEST).read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(manifest)
    assert Manifest.model_validate(manifest).expected_dice == RECORD


def test_a_package_without_it_has_no_entry(tiny: Path) -> None:
    assert "expected_dice" not in json.loads((tiny / MANIFEST).read_text())
    assert open_package(tiny).manifest.expected_dice is None


def test_the_shipped_segmenter_has_it_at_the_default_quality() -> None:
    record = find_package(None).manifest.expected_dice
    assert record is not None
    assert {"fast", "full"} <= set(record.qualities)


def _line(**changes: Any) -> dict[str, Any]:
    record = RECORD.model_dump(mode="json")
    record["qualities"]["full"] |= changes
    return record


BAD = {
    "no quality": ({**_line(), "qualities": {}}, "qualities"),
    "unknown quality": ({**_line(), "qualities": {"best": _line()["qualities"]["full"]}}, "qualities"),
    "structure missing": (_line(constants={"LA": 0.0}), "constants"),
    "another structure": (_line(constants=dict.fromkeys((*NAMES, "SVC"), 0.0)), "constants"),
    "slope that falls": (_line(slope=-1.0), "slope"),
    "no number": (_line(low=float("nan")), "low"),
    "constant without end": (_line(constants=dict.fromkeys(NAMES, 1e9)), "constants"),
    "interval upside down": (_line(low=0.4, high=-0.5), "low must be below"),
    "nothing said of the data": ({**_line(), "fitted_on": ""}, "fitted_on"),
    "unknown entry": ({**_line(), "confidence": 0.9}, "confidence"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_refused(kind: str, copy: Path) -> None:
    record, fact = BAD[kind]
    set_manifest(expected_dice=record)(copy)
    with pytest.raises(PackageError, match=fact):
        open_package(copy)


def test_a_generator_with_it_is_refused(tiny_generator: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "tiny-generator"))
    edit(folder, lambda manifest: manifest.update(expected_dice=_line()))
    with pytest.raises(PackageError, match="expected_dice"):
        open_package(folder)
