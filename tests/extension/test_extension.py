"""The Slicer extension: what CMake packages is what there is, and what the Extensions Index asks for is there."""

from __future__ import annotations

import ast
import json
import re
import struct
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from CardiacLDMLib.slicer import dependencies

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "CardiacLDM"
#: Not to be imported by what Slicer loads at start-up: a fresh Slicer has none of them.
NOT_IN_SLICER = {"torch", "monai", "pydantic", "safetensors", "cc3d", "nibabel", "scipy"}
RAW = "https://raw.githubusercontent.com/CardiacLDM/SlicerCardiacLDM/main/"


def cmake_values(path: Path) -> dict[str, list[str]]:
    """What each ``set`` of a CMake file sets, with variables put in; comments left out."""
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
    """Files of the module's folders, relative to it; what Python and systems leave behind is not counted."""
    found = set()
    for folder in folders:
        for path in (MODULE / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.name != ".DS_Store":
                found.add(path.relative_to(MODULE).as_posix())
    return found


def test_every_script_is_packaged_and_exists() -> None:
    there = {name for name in files_under("CardiacLDMLib", "Testing") if not name.endswith("CMakeLists.txt")}
    assert set(LISTS["MODULE_PYTHON_SCRIPTS"]) == {"CardiacLDM.py"} | there


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
    """The fields of schema 1.0.2, which allows no others."""
    assert INDEX["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert set(INDEX) == {
        "$schema", "build_dependencies", "build_subdirectory", "category", "scm_revision", "scm_url", "tier",
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


def test_the_clone_is_small_and_its_lines_end_as_git_wants_them() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(["git", "ls-files", "--eol", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    entries = [entry.split("\t", 1) for entry in listed.stdout.split("\0") if entry]
    assert not [name for kinds, name in entries if "crlf" in kinds or "mixed" in kinds]
    working = sum((ROOT / name).stat().st_size for _, name in entries if (ROOT / name).is_file())
    # What a clone would be sent: the packs at hand may hold an object twice, or objects of no commit.
    sent = subprocess.run(
        ["git", "pack-objects", "--revs", "--stdout", "-q"], cwd=ROOT, input=b"HEAD\n", capture_output=True, check=True
    ).stdout
    assert working + len(sent) < 80 * 2**20
    assert (ROOT / "LICENSE").is_file()


def file_scope_imports(path: Path) -> set[str]:
    """Modules that are imported when the file is, by full name; not those in functions or for type checking."""
    package = (
        ["CardiacLDMLib", *path.relative_to(MODULE / "CardiacLDMLib").parts[:-1]] if path.stem != "CardiacLDM" else []
    )
    found: set[str] = set()
    body = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if not _for_types(node)]
    for top in body:
        for node in (top, *getattr(top, "body", ())) if isinstance(top, (ast.If, ast.Try, ast.With)) else (top,):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parent = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*parent, *([node.module] if node.module else [])])
                found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def source_of(module: str) -> Path | None:
    path = MODULE / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def test_nothing_that_slicer_loads_at_start_up_needs_what_it_lacks() -> None:
    """The module, the panels, and all that they import at file scope."""
    waiting = [path for path in (MODULE / "CardiacLDM.py", *(MODULE / "CardiacLDMLib" / "panels").glob("*.py"))
               if path.is_file()]  # fmt: skip
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        names = file_scope_imports(path)
        assert not {name.split(".")[0] for name in names} & NOT_IN_SLICER, path.name
        waiting += [source for name in names if (source := source_of(name)) is not None]
    assert len(seen) > 5


def test_what_is_asked_for_is_what_the_project_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {requirement.name: requirement.specifier for requirement in map(Requirement, project["dependencies"])}
    for requirement in dependencies.required():
        assert requirement.specifier == ranges[requirement.name]
    assert dependencies.required()[0] is dependencies.TORCH


@pytest.mark.parametrize("words", [
    "## What it does", "## Modules", "## Install", "## Tutorial", "## Hardware and times", "## Troubleshooting",
    "## Licence", "## Citation", "## Privacy", "Nothing leaves your machine", "docs/install.md",
])  # fmt: skip
def test_readme_has_what_the_index_asks_for(words: str) -> None:
    assert words in (ROOT / "README.md").read_text(encoding="utf-8")
