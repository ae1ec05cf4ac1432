"""Rules of the house that hold for the project as a whole: imports, dependencies, what is packaged, what it says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from CardiacLDMLib import __version__

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "CardiacLDM" / "CardiacLDMLib"
TRAINING = ROOT / "training" / "cardiacldm_training"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: What the runtime may import in a Slicer: Slicer's own, and what its requirements and the PyTorch extension add.
IN_SLICER = {"numpy", "SimpleITK", "packaging", "torch", "monai", "safetensors", "pydantic", "cc3d"}
#: Slicer and Qt only at the edge.
EDGE = {"vtk", "vtkmodules", "slicer", "qt", "ctk", "PyTorchUtils"}


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, TYPE_CHECKING included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def pinned() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lines: list[str]) -> dict[str, str]:
    """Normalised name -> version range, extras left out."""
    matches = [re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*(.*)", line) for line in lines if line and line[0] != "#"]
    return {normal(match[1]): match[2] for match in matches if match}


@pytest.mark.parametrize("path", sorted(RUNTIME.rglob("*.py")), ids=lambda p: str(p.relative_to(RUNTIME)))
def test_runtime_imports_only_what_a_slicer_has(path: Path) -> None:
    other = imports(path) - set(sys.stdlib_module_names) - IN_SLICER - EDGE - {"CardiacLDMLib"}
    assert not other, f"{path.name} imports {sorted(other)}"
    if "slicer" not in path.relative_to(RUNTIME).parts:
        assert not imports(path) & EDGE


def test_what_slicer_imports_at_start_up_is_light() -> None:
    code = (
        "import sys, CardiacLDMLib.anatomy, CardiacLDMLib.image.grid, CardiacLDMLib.slicer.segmentations;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "monai", "SimpleITK", "pydantic", "cc3d", "vtk", "slicer", "matplotlib"}


def test_training_leaves_slicer_to_the_edge() -> None:
    users = {path.name for path in TRAINING.rglob("*.py") if imports(path) & (EDGE | {"trame_slicer"})}
    assert users == {"views.py"}


def test_every_folder_with_code_is_a_package() -> None:
    """setuptools finds packages by their ``__init__.py``."""
    for root in (RUNTIME, TRAINING):
        for path in root.rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_every_dependency_is_pinned_within_its_range() -> None:
    from packaging.specifiers import SpecifierSet

    project = PROJECT["project"]
    wanted = requirements(
        [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    )
    pins = pinned()
    for name, versions in wanted.items():
        assert SpecifierSet(versions).contains(pins[name], prereleases=True), name
    assert not [name for name, version in pins.items() if not re.fullmatch(r"[\w.]+", version)]


def test_slicers_requirements_are_the_projects() -> None:
    ranges = requirements(PROJECT["project"]["dependencies"])
    lines = (ROOT / "CardiacLDM" / "Resources" / "requirements.txt").read_text().splitlines()
    slicer = requirements(lines)
    assert slicer == {name: ranges[name] for name in slicer}
    assert not set(slicer) & {"torch", "numpy", "simpleitk", "vtk"}  # pip must not replace what Slicer brings
    assert all("<" in versions for versions in slicer.values())


def test_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__


def test_readme_shows_pictures_and_links_that_exist_and_says_what_it_is_not() -> None:
    text = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for words in ("make demo", "make test", "not a medical device", "Armato", "Apache"):
        assert words in text
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if not line.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make test"]


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=cwd, capture_output=True, text=True, check=False, env=environment)


def test_make_test_runs_every_check() -> None:
    plan = make("-n", "test").stdout
    for command in ("ruff check .", "ruff format --check .", "-m mypy", "-m pytest"):
        assert command in plan


def test_make_demo_passes_the_users_ct_on() -> None:
    assert '--ct "my scans/a.nii.gz"' in make("-n", "demo", "CT=my scans/a.nii.gz").stdout
    assert "--ct" not in make("-n", "demo").stdout


@pytest.mark.parametrize(
    ("module", "message"), [("ensurepip", "sudo apt install python3-venv"), ("version", "Python 3.11 or newer")]
)
def test_set_up_says_what_is_missing(tmp_path: Path, module: str, message: str) -> None:
    """A Python that is too old, or one without venv (Debian's own), in an empty checkout."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$2" in *{module}*) exit 1;; esac\nexit 0\n')
    python.chmod(0o755)
    done = make("test", f"PYTHON={python}", cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stdout
    assert not (tmp_path / ".venv").exists()
