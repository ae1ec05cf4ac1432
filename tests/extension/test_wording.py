"""The wording of what users see, in one file: tests/data/wording.txt.

Everywhere else tests assert kinds and facts, so that prose can improve; here a change of prose is seen and agreed to::

    python -m tests.extension.test_wording > tests/data/wording.txt
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "tests" / "data" / "wording.txt"
SOURCES = (ROOT / "CardiacLDM", ROOT / "training")
#: Calls whose first text is shown to a user: errors, translated texts of the panels, what a command prints.
SHOWN = re.compile(r"(\w+Error|PackageExists|_|echo|print|say|_say)$")


def text_of(node: ast.AST | None) -> str | None:
    """A string or f-string with ``{}`` for each value; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def texts_in(path: Path) -> Iterator[str]:
    """What the code in a file says to users: errors, panel texts, help of options, descriptions of commands."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if SHOWN.match(name) and node.args:
                yield text_of(node.args[0]) or ""
            yield from (text_of(keyword.value) or "" for keyword in node.keywords if keyword.arg in ("help", "reason"))
        elif isinstance(node, ast.FunctionDef) and path.parent.name == "commands":
            parameters = ast.unparse(node.args)
            if "typer." in parameters:
                yield ast.get_docstring(node) or ""


def panel_texts(path: Path) -> Iterator[str]:
    """Labels, tooltips and titles of a form."""
    for element in ElementTree.parse(path).iter("string"):
        yield element.text or ""


def wording() -> list[str]:
    """Every text once, in alphabetical order, each on one line."""
    texts = {text for source in SOURCES for path in source.rglob("*.py") for text in texts_in(path)}
    texts |= {text for path in SOURCES[0].rglob("*.ui") for text in panel_texts(path)}
    lines = {" ".join(text.split()) for text in texts}
    return sorted(line for line in lines if re.search(r"[A-Za-z]{2}.*\s", line))


def test_users_see_the_agreed_wording() -> None:
    agreed = SNAPSHOT.read_text().splitlines()
    now = wording()
    assert not sorted(set(now) - set(agreed)), "new or changed texts: see this file's docstring"
    assert not sorted(set(agreed) - set(now)), "texts that are gone: see this file's docstring"


if __name__ == "__main__":
    print("\n".join(wording()))
