"""The Slicer extension: the CMake lists match the tree, and the entry of the Extensions Index is complete."""

from __future__ import annotations

import ast
import json
import re
import shutil
import struct
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from CardiacLDMLib.slicer import dependencies

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "CardiacLDM"
#: A fresh Slicer has none of these: the code that it loads at start-up must not import them.
NOT_IN_SLICER = {"torch", "monai", "pydantic", "safetensors", "cc3d", "nibabel", "scipy"}
#: Limit for a clone of depth 1. Slicer's index allows 100 MB.
CLONE_LIMIT_BYTES = 60_000_000
RAW = "https://raw.githubusercontent.com/CardiacLDM/SlicerCardiacLDM/main/"


def cmake_values(path: Path) -> dict[str, list[str]]:
    """Return the values of each ``set`` in a CMake file, with variables expanded and comments ignored."""
    text = re.sub(r"^\s*#.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    values: dict[str, list[str]] = {}
    for name, body in re.findall(r"\bset\((\w+)\s+((?:\"[^\"]*\"|[^)])*)\)", text):
        words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', body)]
        values[name] = [re.sub(r"\$\{(\w+)\}", lambda match: " ".join(values[match[1]]), word) for word in words]
    return values


LISTS = cmake_values(MODULE / "CMakeLists.txt")
EXTENSION = cmake_values(ROOT / "CMakeLists.txt")
INDEX = json.loads((ROOT / "CardiacLDM.json").read_text(encoding="utf-8"))


def files_under(*folders: str) -> set[str]:
    """Return the files in the module's folders, relative to the module. Caches and ``.DS_Store`` are ignored."""
    names = set()
    for folder in folders:
        for path in (MODULE / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.name != ".DS_Store":
                names.add(path.relative_to(MODULE).as_posix())
    return names


def test_every_script_is_packaged_and_exists() -> None:
    scripts = {name for name in files_under("CardiacLDMLib", "Testing") if not name.endswith("CMakeLists.txt")}
    assert set(LISTS["MODULE_PYTHON_SCRIPTS"]) == {"CardiacLDM.py"} | scripts


def test_every_self_test_is_run_by_ctest() -> None:
    folder = MODULE / "Testing" / "Python"
    added = re.findall(r"slicer_add_python_unittest\(SCRIPT (\w+\.py)", (folder / "CMakeLists.txt").read_text())
    assert added == sorted(path.name for path in folder.glob("*.py"))
    assert "add_subdirectory(Testing)" in (MODULE / "CMakeLists.txt").read_text()
    assert "add_subdirectory(Python)" in (MODULE / "Testing" / "CMakeLists.txt").read_text()


def test_every_resource_is_packaged_and_exists() -> None:
    resources = LISTS["MODULE_PYTHON_RESOURCES"]
    assert set(resources) == files_under("Resources")
    for kind in ("Resources/UI/", "Resources/Icons/", "Resources/Models/"):
        assert any(name.startswith(kind) for name in resources)


def test_shipped_models_are_packaged_whole() -> None:
    for folder in (MODULE / "Resources" / "Models").iterdir():
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name in ("manifest.json", *manifest["files"]):
            assert f"Resources/Models/{folder.name}/{name}" in LISTS["MODULE_PYTHON_RESOURCES"]


def test_no_file_is_listed_twice_or_lies_outside_the_lists() -> None:
    names = [*LISTS["MODULE_PYTHON_SCRIPTS"], *LISTS["MODULE_PYTHON_RESOURCES"]]
    assert len(names) == len(set(names))
    assert {path.name for path in MODULE.iterdir() if path.name not in {"__pycache__", ".DS_Store"}} <= {
        "CMakeLists.txt", "CardiacLDM.py", "CardiacLDMLib", "Resources", "Testing",
    }  # fmt: skip


def test_the_lists_reach_slicers_macro() -> None:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    for words in ("slicerMacroBuildScriptedModule", "SCRIPTS ${MODULE_PYTHON_SCRIPTS}",
                  "RESOURCES ${MODULE_PYTHON_RESOURCES}", "WITH_GENERIC_TESTS",
                  "slicer_add_python_unittest(SCRIPT ${MODULE_NAME}.py)"):  # fmt: skip
        assert words in text
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    order = ["cmake_minimum_required(VERSION 3.28.0...3.28.0 FATAL_ERROR)", "project(CardiacLDM)",
             "find_package(Slicer REQUIRED)", "include(${Slicer_USE_FILE})", "add_subdirectory(CardiacLDM)",
             "include(${Slicer_EXTENSION_GENERATE_CONFIG})", "include(${Slicer_EXTENSION_CPACK})"]  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_entry_of_the_extensions_index() -> None:
    """Schema 1.0.2 allows no other fields. Without ``scm_revision`` the index clones with depth 1."""
    assert INDEX["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert set(INDEX) == {
        "$schema", "build_dependencies", "build_subdirectory", "category", "scm_url", "tier",
    }  # fmt: skip
    assert INDEX["category"] == "Cardiac"
    assert INDEX["build_subdirectory"] == "."
    assert INDEX["tier"] in range(1, 6)
    assert EXTENSION["EXTENSION_DEPENDS"] == INDEX["build_dependencies"] == ["PyTorch"]
    assert EXTENSION["EXTENSION_HOMEPAGE"] == [INDEX["scm_url"]]


def test_what_the_extensions_manager_shows_exists() -> None:
    assert EXTENSION["EXTENSION_CONTRIBUTORS"]
    assert 50 < len(EXTENSION["EXTENSION_DESCRIPTION"][0]) < 300
    (icon,) = EXTENSION["EXTENSION_ICONURL"]
    for address in (icon, *EXTENSION["EXTENSION_SCREENSHOTURLS"][0].split()):
        assert address.startswith(RAW)
        assert (ROOT / address.removeprefix(RAW)).is_file(), address


def test_the_icon_is_a_transparent_png_of_128_pixels() -> None:
    data = (MODULE / "Resources" / "Icons" / "CardiacLDM.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert (width, height, depth, colour) == (128, 128, 8, 6)
    assert len(data) < 50_000


def git(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def repository() -> Path:
    """Return the root of the git repository. Skip the test in a copy of the files without one, or without git."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    if git("rev-parse", "--verify", "HEAD").returncode != 0:
        pytest.skip("these files are not a git repository")
    return ROOT


def test_line_endings_are_lf(repository: Path) -> None:
    entries = [entry.split("\t", 1) for entry in git("ls-files", "--eol", "-z").stdout.split("\0") if entry]
    assert entries
    assert not [name for kinds, name in entries if "crlf" in kinds or "mixed" in kinds]


def test_a_clone_of_depth_1_is_small(repository: Path, tmp_path: Path) -> None:
    """Slicer's index clones so, and adds up all files, ``.git`` included. A shallow checkout can be cloned too."""
    clone = tmp_path / "clone"
    result = git("clone", "--quiet", "--depth", "1", repository.as_uri(), str(clone), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert git("rev-list", "--count", "HEAD", cwd=clone).stdout.strip() == "1"
    size = sum(path.stat().st_size for path in clone.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < CLONE_LIMIT_BYTES
    assert (clone / "LICENSE").is_file()


def file_scope_imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports at file scope, type checking excepted."""
    package = (
        ["CardiacLDMLib", *path.relative_to(MODULE / "CardiacLDMLib").parts[:-1]] if path.stem != "CardiacLDM" else []
    )
    names: set[str] = set()
    body = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if not _for_types(node)]
    for top in body:
        for node in (top, *getattr(top, "body", ())) if isinstance(top, (ast.If, ast.Try, ast.With)) else (top,):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parent = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*parent, *([node.module] if node.module else [])])
                names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def source_of(module: str) -> Path | None:
    path = MODULE / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def test_code_that_slicer_loads_at_start_up_needs_no_further_package() -> None:
    """Check the module, the panels, and everything that they import at file scope."""
    panels = sorted((MODULE / "CardiacLDMLib" / "slicer" / "panels").rglob("*.py"))
    assert len(panels) > 5
    waiting = [MODULE / "CardiacLDM.py", *panels]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        names = file_scope_imports(path)
        assert not {name.split(".")[0] for name in names} & NOT_IN_SLICER, path.name
        waiting += [source for name in names if (source := source_of(name)) is not None]


def test_required_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {requirement.name: requirement.specifier for requirement in map(Requirement, project["dependencies"])}
    for requirement in dependencies.required():
        assert requirement.specifier == ranges[requirement.name]
    assert dependencies.required()[0] is dependencies.TORCH


@pytest.mark.parametrize("words", [
    "## Modules", "## Install", "## Tutorial", "## Hardware and times", "## Troubleshooting",
    "## Licence", "## Citation", "## Privacy", "docs/user/install.md", "docs/user/generate.md",
])  # fmt: skip
def test_readme_has_the_sections_of_the_index(words: str) -> None:
    assert words in (ROOT / "README.md").read_text(encoding="utf-8")
