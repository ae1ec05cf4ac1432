"""The structure of the code: layers, import circles, length of files and functions."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "CardiacLDMLib": ROOT / "CardiacLDM" / "CardiacLDMLib",
    "cardiacldm_training": ROOT / "training" / "cardiacldm_training",
}
#: The rooms of each package, lowest first. A module may import modules of its own room and of lower rooms. A name
#: stands for the module or folder of that name and for all within it, unless a longer name fits.
LAYERS = {
    "CardiacLDMLib": (
        ("", "anatomy", "errors", "files", "plain_paths", "progress", "tables", "text", "torch_device"),
        ("image",), ("networks",),
        ("postprocess",), ("packages",), ("results",), ("segmentation",), ("generation",), ("review",), ("worker",),
        ("slicer",), ("slicer.panels",),
    ),
    "cardiacldm_training": (
        ("", "errors"), ("results",), ("cases",), ("virtual",), ("virtual.heart",), ("virtual.body",),
        ("virtual.scanner",), ("virtual.cohort",), ("virtual.report",), ("stages",), ("evaluation",),
        ("evaluation.fidelity",), ("cards",), ("export",), ("pipeline",), ("commands",), ("cli", "demo", "step"),
    ),
}  # fmt: skip
MAX_LINES, MAX_FUNCTION_LINES = 400, 50
#: Functions that are longer because they are lists of options with their help texts.
OPTION_LISTS = {
    "commands.cohort.cohort", "commands.fidelity.fidelity", "commands.generate.generate", "commands.pipeline.pipeline",
    "commands.segment.segment", "commands.train.segmenter", "commands.train_generator.diffusion",
}  # fmt: skip


@cache
def modules(package: str) -> dict[str, Path]:
    """Dotted name within the package -> file; the package itself is ""."""
    found = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports anywhere, also within functions and for types."""
    known = modules(package)
    return {name: _imported(package, name, path) & set(known) - {name} for name, path in known.items()}


def _imported(package: str, name: str, path: Path) -> set[str]:
    here = name.split(".") if name else []
    folder = here if path.name == "__init__.py" else here[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
            found |= {".".join(target[1:]) for target in targets if target[0] == package}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
            elif (node.module or "").split(".")[0] == package:
                base = (node.module or "").split(".")[1:]
            else:
                continue
            within = {".".join([*base, alias.name]) for alias in node.names} & set(modules(package))
            found |= within or {".".join(base)}
    return found


def layer(package: str, module: str) -> int:
    """The number of the room that a module is in; the longest name that fits decides."""
    fitting = [
        (len(name), number)
        for number, names in enumerate(LAYERS[package])
        for name in names
        if module == name or (name and module.startswith(f"{name}."))
    ]
    assert fitting, f"{package}.{module} is in no room of LAYERS"
    return max(fitting)[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_a_higher_room(package: str) -> None:
    upward = [
        f"{module} -> {target}"
        for module, targets in imports(package).items()
        for target in sorted(targets)
        if layer(package, target) > layer(package, module)
    ]
    assert not upward


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_circle(package: str) -> None:
    circles = [sorted(circle) for circle in strongly_connected(imports(package)) if len(circle) > 1]
    assert not circles


def strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        rest = [start]
        while rest:
            for target in graph[rest.pop()] - seen:
                seen.add(target)
                rest.append(target)
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {frozenset({name} | {other for other in reach[name] if name in reach[other]}) for name in graph}
    return [set(group) for group in groups]


def test_the_runtime_never_imports_training() -> None:
    for path in modules("CardiacLDMLib").values():
        assert "cardiacldm_training" not in path.read_text(), path


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_long(package: str) -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules(package).items()}
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_is_long(package: str) -> None:
    found = {}
    for name, path in modules(package).items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES and f"{name}.{node.name}" not in OPTION_LISTS:
                    found[f"{name}.{node.name}"] = lines
    assert not found
