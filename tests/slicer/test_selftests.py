"""Run the self-tests for a real Slicer in the stand-in."""

from __future__ import annotations

import gc
import sys
import unittest
from pathlib import Path

import pytest

from tests.support.generator_package import write_tiny_generator
from tests.support.host import close_module, open_module, start_host

FOLDER = Path(__file__).parents[2] / "CardiacLDM" / "Testing" / "Python"
NAMES = sorted(path.stem for path in FOLDER.glob("*Test.py"))


@pytest.mark.parametrize("name", NAMES)
def test_selftests_pass_in_the_stand_in(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if name == "CardiacLDMGenerateTest":  # any generator will do, and a tiny one needs a fifth of the time
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        write_tiny_generator(tmp_path / "cardiacldm" / "models" / "tiny")
    host = start_host()
    host.reset()
    open_module("CardiacLDM")
    if name == "CardiacLDMGenerateTest":
        monkeypatch.setattr("CardiacLDMLib.slicer.panels.generate.facts.installed_generators", lambda: ["tiny"])
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, name, raising=False)
    result = unittest.TestResult()
    gc.collect()
    gc.freeze()  # else all objects of earlier tests are searched for garbage while the window's standstill is measured
    try:
        unittest.defaultTestLoader.loadTestsFromName(name).run(result)
    finally:
        gc.unfreeze()
        close_module("CardiacLDM")
    assert not result.errors + result.failures, "\n".join(trace for _, trace in result.errors + result.failures)
    assert result.testsRun >= 5
    assert not result.skipped
    host.check()


def test_every_self_test_is_known_to_cmake() -> None:
    listed = (FOLDER / "CMakeLists.txt").read_text()
    assert NAMES
    assert [name for name in NAMES if f"SCRIPT {name}.py" not in listed] == []
