"""Packages with random changes are refused with one sentence, or installed complete."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from CardiacLDMLib.packages.archive import export_package
from CardiacLDMLib.packages.manifest import MANIFEST
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.packages.weights import verify_package
from tests.support.package_attacks import (
    SEGMENTER,
    check_refused,
    cli,
    content,
    rehash,
)

fuzz = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


def flipped(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    changed = bytearray(data)
    for where, bits in changes:
        changed[int(where * len(data))] ^= bits
    return bytes(changed)


def import_outcome(source: Path, models: Path) -> bool:
    """Import through the command line and return whether a complete package was installed; else check the refusal."""
    result = cli("import", source, "--models", models)
    if result.exit_code == 0:
        (installed,) = models.iterdir()
        verify_package(installed)
        return True
    check_refused(result, models, "")
    return False


@fuzz
@given(changes=flips, keep=st.floats(0, 1) | st.just(1.0))
def test_fuzzed_zip_is_refused_or_unchanged(tiny: Path, changes: list[tuple[float, int]], keep: float) -> None:
    """Some bytes of a zip have no meaning (dates, system); an installed package equals the original, byte by byte."""
    with tempfile.TemporaryDirectory() as folder:
        source = export_package(open_package(tiny), Path(folder))
        data = flipped(source.read_bytes(), changes)
        source.write_bytes(data[: int(keep * len(data))])
        if import_outcome(source, Path(folder) / "models"):
            assert content(Path(folder) / "models" / "tiny") == content(tiny)


@fuzz
@given(changes=flips, name=st.sampled_from([SEGMENTER, "locator.safetensors", "README.md"]))
def test_fuzzed_files_are_refused(tiny: Path, changes: list[tuple[float, int]], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(tiny, Path(folder) / "tiny"))
        data = flipped((source / name).read_bytes(), changes)
        (source / name).write_bytes(data)
        installed = import_outcome(source, Path(folder) / "models")
        assert installed == (data == (tiny / name).read_bytes())  # two flips may cancel


@fuzz
@given(changes=flips, header=st.booleans())
def test_fuzzed_weights_with_their_hash(tiny: Path, changes: list[tuple[float, int]], header: bool) -> None:
    """With a valid hash, only the header and the tensors show a fault: refused with a sentence, or complete."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(tiny, Path(folder) / "tiny"))
        data = (source / SEGMENTER).read_bytes()
        length = 8 + int.from_bytes(data[:8], "little") if header else len(data)
        (source / SEGMENTER).write_bytes(flipped(data[:length], changes) + data[length:])
        rehash(source)
        import_outcome(source, Path(folder) / "models")


@fuzz
@given(changes=flips)
def test_fuzzed_manifest(tiny: Path, changes: list[tuple[float, int]]) -> None:
    """The hash of the manifest identifies a package: another text is another package."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(tiny, Path(folder) / "tiny"))
        (source / MANIFEST).write_bytes(flipped((source / MANIFEST).read_bytes(), changes))
        if import_outcome(source, Path(folder) / "models"):
            (installed,) = (Path(folder) / "models").iterdir()
            assert (open_package(installed).sha256 == open_package(tiny).sha256) == (content(source) == content(tiny))


@settings(fuzz, max_examples=50)
@given(data=st.data())
def test_manifest_with_any_value_replaced(tiny: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(tiny, Path(folder) / "tiny"))
        manifest = json.loads((source / MANIFEST).read_text())
        at, key = data.draw(st.sampled_from(list(places(manifest))))
        at[key] = data.draw(json_values)
        (source / MANIFEST).write_text(json.dumps(manifest))
        import_outcome(source, Path(folder) / "models")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key inside a JSON value."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    return [place for key in keys for place in [(value, key), *places(value[key])]]
