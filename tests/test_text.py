"""Text for messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from CardiacLDMLib import text


def test_names_from_outside_are_short_and_printable() -> None:
    assert text.printable("Müller\n\x1b[31m") == "Müller??[31m"
    long = text.printable("x" * 500)
    assert len(long) == text.MAX_CHARACTERS
    assert long.endswith("...")


def test_a_folder_has_a_name_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert text.base_name(Path()) == tmp_path.name
    assert text.base_name(Path("a/b.nii.gz")) == "b.nii.gz"
    assert text.base_name(Path("/")) == "/"


def test_counts_and_lists() -> None:
    assert [text.plural(n, "slice") for n in (0, 1, 2)] == ["0 slices", "1 slice", "2 slices"]
    assert [text.join_words(words) for words in (["LA"], ["LA", "LV"], ["LA", "LV", "RA"])] == [
        "LA", "LA and LV", "LA, LV and RA",
    ]  # fmt: skip


def test_a_volume_that_exists_never_reads_as_0() -> None:
    amounts = (123.4, 10.0, 9.44, 0.1, 0.0449, 0.000125, 0.0)
    assert [text.volume_text(ml) for ml in amounts] == [
        "123 mL", "10 mL", "9.4 mL", "0.1 mL", "0.04 mL", "0.0001 mL", "0 mL",
    ]  # fmt: skip


def test_sizes_and_durations_have_a_handy_unit() -> None:
    sizes = (400, 21_000, 9_644_943, 2_100_000_000, 3.2e15)
    assert [text.size_text(size) for size in sizes] == ["0 kB", "21 kB", "9.6 MB", "2.1 GB", "3,200.0 TB"]
    seconds = (0.2, 90, 600, 7200, 200_000, 7e8)
    assert [text.duration_text(s) for s in seconds] == ["0 s", "90 s", "10 minutes", "2 hours", "2 days", "22 years"]


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


class _Outer(BaseModel):
    inner: _Inner


@pytest.mark.parametrize(
    ("content", "where"),
    [({"inner": {}}, "inner.size"), ({"inner": {"size": 1, "odd\n": 2}}, "inner.odd?"), ({}, "inner")],
)
def test_the_first_problem_names_its_place(content: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _Outer.model_validate(content)
    problem = text.first_problem(refused.value)
    assert problem.startswith(f"{where}: ")
    assert "\n" not in problem


def test_the_ground_floor_imports_only_the_standard_library() -> None:
    script = (
        "import sys; from CardiacLDMLib import anatomy, errors, files, progress, text; "
        "print({'numpy', 'torch', 'pydantic', 'SimpleITK'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_unique_names_ignore_case() -> None:
    taken: set[str] = set()
    assert [text.unique_name(name, taken) for name in ("scan", "Scan", "other", "scan")] == [
        "scan", "Scan-2", "other", "scan-3",
    ]  # fmt: skip
