"""Rules for the project as a whole: imports, dependencies, packaging, documentation, Makefile."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from CardiacLDMLib import __version__

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "CardiacLDM" / "CardiacLDMLib"
TRAINING = ROOT / "training" / "cardiacldm_training"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: Third-party modules that the runtime may import: those of Slicer, of requirements.txt and of the PyTorch extension.
IN_SLICER = {"numpy", "SimpleITK", "packaging", "torch", "monai", "safetensors", "pydantic", "cc3d"}
#: Modules of Slicer and Qt: only ``slicer/`` of the runtime and ``results/views.py`` of training may import them.
EDGE = {"vtk", "vtkmodules", "slicer", "qt", "ctk", "PyTorchUtils"}
SOURCES = [path for folder in ("CardiacLDM", "training", "tests") for path in (ROOT / folder).rglob("*.py")]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def imports(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere, also for type checking."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


def pinned() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lines: list[str]) -> dict[str, str]:
    """Return normalised name -> version range. Extras are ignored."""
    matches = [re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*(.*)", line) for line in lines if line and line[0] != "#"]
    return {normal(match[1]): match[2] for match in matches if match}


@pytest.mark.parametrize("path", sorted(RUNTIME.rglob("*.py")), ids=lambda p: str(p.relative_to(RUNTIME)))
def test_runtime_imports_only_packages_of_a_slicer(path: Path) -> None:
    other = imports(path) - set(sys.stdlib_module_names) - IN_SLICER - EDGE - {"CardiacLDMLib"}
    assert not other, f"{path.name} imports {sorted(other)}"
    if "slicer" not in path.relative_to(RUNTIME).parts:
        assert not imports(path) & EDGE


def test_start_up_imports_no_heavy_package() -> None:
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
    assert not set(slicer) & {"torch", "numpy", "simpleitk", "vtk"}  # pip must not replace Slicer's own
    assert all("<" in versions for versions in slicer.values())


def test_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert ROOT in target.parents, link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_examples_import_names_that_exist(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("CardiacLDMLib", "cardiacldm_")):
                module = importlib.import_module(node.module or "")
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_source_files_that_a_page_names_exist(page: Path) -> None:
    roots = (ROOT, ROOT / "CardiacLDM", RUNTIME, TRAINING)
    for name in re.findall(r"[\w/]+\.py\b", re.sub(r"\]\([^)]*\)", "", page.read_text(encoding="utf-8"))):
        if "/" in name:
            assert any((root / name).is_file() for root in roots), name
        else:
            assert any(path.name == name for path in SOURCES), name


def commands(page: Path) -> list[list[str]]:
    """Return the words of each ``cardiacldm`` command in a page's code blocks."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if re.match(r"(\.venv/bin/)?cardiacldm ", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_have_the_options_shown(page: Path) -> None:
    from typer.main import get_command

    from cardiacldm_training.cli import app

    for words in commands(page):
        command: Any = get_command(app)
        while hasattr(command, "commands") and not (command.invoke_without_command and words[0].startswith("-")):
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert not [word for word in words if word.startswith("--") and word not in options], command.name


def test_every_page_and_picture_of_the_docs_is_linked() -> None:
    links = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    }
    folders = ("user", "research", "results", "develop", "pictures")
    files = [path for folder in folders for path in (ROOT / "docs" / folder).iterdir()]
    assert not [path for path in files if path.is_file() and path.resolve() not in links]


def test_readme_is_short_and_has_the_required_facts() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    for words in ("make demo", "make test", "not a medical device", "Armato", "Apache", "PMLR 259:490-501"):
        assert words in text
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_docs_name_every_job_architecture_and_postprocessing_step() -> None:
    from CardiacLDMLib.networks.architectures import ARCHITECTURES
    from CardiacLDMLib.worker.messages import REQUESTS

    schema = json.loads((ROOT / "docs" / "manifest.schema.json").read_text(encoding="utf-8"))
    records = schema["$defs"].values()
    steps = [record["properties"]["step"]["const"] for record in records if "step" in record.get("properties", {})]
    assert steps
    packages = (ROOT / "docs" / "research" / "packages.md").read_text(encoding="utf-8")
    worker = (ROOT / "docs" / "develop" / "worker.md").read_text(encoding="utf-8")
    assert not [name for name in (*ARCHITECTURES, *steps) if f"| `{name}` |" not in packages]
    assert not [name for name in REQUESTS if f"`{name}`" not in worker and f'"{name}"' not in worker]


def test_the_architecture_page_names_every_room() -> None:
    text = (ROOT / "docs" / "develop" / "architecture.md").read_text(encoding="utf-8")
    for root in (RUNTIME, TRAINING):
        rooms = [path.name for path in root.iterdir() if (path / "__init__.py").is_file()]
        assert rooms
        assert not [room for room in rooms if f"{room}/" not in text]


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
