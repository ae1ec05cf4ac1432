"""``cardiacldm generate`` as users run it: pairs, continuing, several processes, bad input, stopping and killing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from cardiacldm_training.cases.readers.layouts import find_cases
from cardiacldm_training.cli import app
from cardiacldm_training.commands import generate
from cardiacldm_training.results import pair_files, pair_pictures
from CardiacLDMLib.generation import acceptance
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.image.files import read_volume
from CardiacLDMLib.progress import Cancelled
from CardiacLDMLib.segmentation.findings import Finding
from tests.support.generator_package import GRID, write_tiny_generator
from tests.support.gpus import Card, pretend_gpus
from tests.support.package import write_tiny_package

SEED = ("--seed", 5, "--condition", "sex=female")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("packages") / "tiny-generator")


@pytest.fixture(scope="module")
def four(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs of one call."""
    out = tmp_path_factory.mktemp("pairs") / "four"
    assert run(package, 4, out, *SEED).exit_code == 0
    return out


def run(package: Path, count: int, out: Path, *options: object) -> Any:
    """Without checks: pairs of a network with random weights are never accepted."""
    return checked(package, count, out, "--no-check", *options)


def checked(package: Path, count: int, out: Path, *options: object) -> Any:
    arguments = ["generate", "--package", package, "--count", count, "--out", out, "--device", "cpu", *options]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_without_a_segmenter_labels_and_image_alone_are_checked(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    assert checked(package, 1, out, *SEED, "--segmenter", "none").exit_code == 1
    reasons = (out / "pair_0000.rejected.json").read_text()
    assert "LV open" in reasons
    assert "agreement" not in reasons
    assert checked(package, 1, out, *SEED, "--no-check").exit_code == 2  # another check is another folder


def test_a_gpu_that_cannot_be_used_is_named(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, Card("Tesla M40", computes=False))
    result = run(package, 1, tmp_path / "auto", *SEED, "--device", "auto")
    assert result.exit_code == 0
    assert result.output.count("Tesla M40") == 1
    assert json.loads((tmp_path / "auto" / "pair_0000" / "provenance.json").read_text())["device"] == "cpu"
    refused = run(package, 1, tmp_path / "cuda", *SEED, "--device", "cuda")
    assert refused.exit_code == 2
    assert "Tesla M40" in refused.output


def started(package: Path, count: int, out: Path, *options: object) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    options = ("--device", "cpu", "--no-check", *options)
    arguments = ["generate", "--package", package, "--count", count, "--out", out, *options]
    command = [sys.executable, "-m", "cardiacldm_training.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed in the end, if it is still there."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def pairs(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.is_dir())


# --- pairs ---------------------------------------------------------------------------------------------------------


def test_pairs_are_cases_for_training_with_their_provenance(four: Path, tmp_path: Path) -> None:
    assert pairs(four) == [f"pair_000{n}" for n in range(4)]
    cases = find_cases(four)
    assert [case.name for case in cases] == pairs(four)
    image, labels = read_volume(cases[1].image), read_volume(cases[1].labels)
    assert image.array.dtype == np.int16
    assert image.grid.same_as(labels.grid)
    assert image.array.shape == GRID
    record = json.loads((four / "pair_0001" / "provenance.json").read_text())
    assert record["synthetic"] is True
    assert (record["seed"], record["index"], record["conditions"]) == (5, 1, {"sex": "female"})
    assert str(tmp_path.parent) not in (four / "generation.json").read_text()


def test_pictures_say_that_they_are_synthetic(four: Path) -> None:
    overview = sitk.GetArrayFromImage(sitk.ReadImage(str(four / "pair_0000" / "overview.png")))[..., :3].astype(int)
    sheet = sitk.GetArrayFromImage(sitk.ReadImage(str(four / "contact_sheet.png")))[..., :3].astype(int)
    amber = [255, 180, 84]
    assert (np.abs(overview[4:24, 4:90] - amber).max(axis=-1) < 40).sum() > 20
    assert (np.abs(sheet[2:18, 2:80] - amber).max(axis=-1) < 40).sum() > 20
    tile = 4 * pair_pictures.SMALL_PIXELS + pair_pictures.GAP_PIXELS
    assert sheet.shape[1] == 3 * tile
    assert not (four / "contact_sheet_2.png").exists()


def test_a_sheet_has_pages(four: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pair_files, "SHEET_PAIRS", 3)
    for folder in four.glob("pair_*"):
        (tmp_path / folder.name).symlink_to(folder)
    written = pair_files.write_sheets(tmp_path, 4)
    assert [path.name for path in written] == ["contact_sheet.png", "contact_sheet_2.png"]


# --- continuing, and several processes -----------------------------------------------------------------------------


def test_it_goes_on_where_it_stopped_with_the_same_bytes(four: Path, package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(package, 2, out, *SEED).exit_code == 0
    first = out / "pair_0000" / "ct.nii.gz"
    written = first.stat().st_mtime_ns
    result = run(package, 4, out, *SEED)
    assert result.exit_code == 0
    assert "pair_0000" not in result.output
    assert first.stat().st_mtime_ns == written
    assert contents(out) == contents(four)
    assert run(package, 4, out, *SEED).exit_code == 0  # nothing to do


def test_several_processes_draw_the_same_pairs(four: Path, package: Path, tmp_path: Path) -> None:
    with ended(started(package, 4, tmp_path / "out", *SEED, "--devices", 2)) as process:
        assert process.wait(250) == 0
    assert contents(tmp_path / "out") == contents(four)


def test_killed_it_leaves_whole_pairs_and_goes_on(four: Path, package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ended(started(package, 1000, out, *SEED, "--yes")) as process:
        deadline = time.monotonic() + 250
        while not (out / "pair_0001").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    left = pairs(out)
    assert "pair_0001" in left
    for name in left:
        if not name.startswith("."):
            assert sorted(path.name for path in (out / name).iterdir()) == sorted(pair_files.FILES)
    (out / ".part-pair_0003").mkdir(exist_ok=True)  # as if killed while writing
    (out / ".part-pair_0003" / "ct.nii.gz").write_bytes(b"half")
    (out / "pair_0000" / "ct.nii.gz").write_bytes(b"cut short")
    again = run(package, 4, out, *SEED)
    assert again.exit_code == 0
    assert "pair_0000" in again.output
    expected = contents(four)
    assert {name: data for name, data in contents(out).items() if name in expected} == expected
    assert not list(out.glob(".part-*"))


def test_other_settings_are_refused(four: Path, package: Path) -> None:
    before = contents(four)
    for options, message in (
        (("--seed", 6, "--condition", "sex=female"), "seed is 5, not 6"),
        (("--seed", 5), "'female'"),
        ((*SEED, "--steps", 4), "steps is 3, not 4"),
    ):
        result = run(package, 4, four, *options)
        assert result.exit_code == 2
        assert message in result.output
    assert contents(four) == before


def test_one_run_at_a_time(four: Path, package: Path) -> None:
    with (four / "generation.json").open("rb") as file:
        assert pair_files._take_lock(file.fileno())
        result = run(package, 4, four, *SEED)
    assert result.exit_code == 2
    assert "Another run" in result.output


# --- checked pairs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("packages") / "tiny")


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that accepts pair 0 at once, pair 1 at the third attempt, pair 2 never, pair 3 at the second one."""
    first = {0: 0, 1: 2, 2: 99, 3: 1}

    def verdict(self: acceptance.Judge, pair: Any, *rest: Any) -> acceptance.Verdict:
        record = pair.provenance
        faults = [Finding("missing", ("LA",)), Finding("agreement", value=0.1, limit=0.75)][: 1 + record["attempt"] % 2]
        return acceptance.Verdict(faults if record["attempt"] < first[record["index"]] else [], 0.9)

    monkeypatch.setattr(acceptance.Judge, "verdict", verdict)


def test_rejected_pairs_are_drawn_again_and_counted(
    picky: None, package: Path, segmenter: Path, tmp_path: Path
) -> None:
    out, options = tmp_path / "out", ("--segmenter", segmenter, "--steps", 1)
    assert checked(package, 2, out, *options).exit_code == 0
    assert json.loads((out / "acceptance.json").read_text()) == {
        "accepted": 2, "drawn": 4, "rejected": 2, "rules": {"agreement": 1, "missing": 2}, "remarks": {},
        "never_accepted": [],
    }  # fmt: skip
    result = checked(package, 4, out, *options)
    assert result.exit_code == 1
    for fact in ("Generated 16, rejected 13", "81%", "agreement 6, missing 13", "3 of 4 pairs", "accepted: pair_0002"):
        assert fact in result.output
    assert pairs(out) == ["pair_0000", "pair_0001", "pair_0003"]
    assert json.loads((out / "pair_0001" / "provenance.json").read_text())["attempt"] == 2
    assert "tiny 1.0 (SHA-256" in json.loads((out / "generation.json").read_text())["check"]
    before = contents(out)
    result = checked(package, 4, out, *options)  # nothing to do, and no better than before
    assert result.exit_code == 1
    assert "pair_0002 (" not in result.output
    assert contents(out) == before
    all_at_once = tmp_path / "again"
    assert checked(package, 4, all_at_once, *options).exit_code == 1
    assert contents(all_at_once) == before


def test_pairs_of_another_check_are_not_mixed(
    picky: None, package: Path, segmenter: Path, four: Path, tmp_path: Path
) -> None:
    result = checked(package, 4, four, *SEED, "--segmenter", segmenter)
    assert result.exit_code == 2
    assert "tiny 1.0" in result.output
    result = checked(package, 1, tmp_path / "out", "--segmenter", package)
    assert result.exit_code == 2
    assert "tiny-generator" in result.output
    assert "--train" in run(package, 1, tmp_path / "out", "--train", four).output
    assert checked(package, 1, tmp_path / "out", "--train", tmp_path).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_copies_of_training_cases_are_rejected(
    package: Path, segmenter: Path, four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training cases are the pairs that it generates: each first attempt is a copy."""
    monkeypatch.setattr(acceptance, "label_faults", lambda volume: [])
    monkeypatch.setattr(acceptance, "image_findings", lambda image, labels: ([], []))
    monkeypatch.setattr(acceptance.Judge, "_agreement", lambda *of_what: 1.0)
    options = ("--segmenter", segmenter, "--train", four, "--cache", tmp_path / "cache")
    result = checked(package, 2, tmp_path / "out", *SEED, *options)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "pair_0000" / "provenance.json").read_text())["acceptance"]
    assert record["replicas"]["training_cases"] == 4
    assert record["rejected"][0][0].startswith("replica: ")
    assert "0.000" in record["rejected"][0][0]
    assert json.loads((tmp_path / "out" / "acceptance.json").read_text())["rules"]["replica"] >= 2
    assert not (four / ".prepared").exists()


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (("--condition", "age=40"), "'age'"),
        (("--condition", "sex=other"), "'other'"),
        (("--condition", "female"), "name=value"),
        (("--condition", "sex=male", "--condition", "sex=female"), "sex"),
        (("--steps", 0), "from 1 to"),
        (("--solver", "ddpm"), "'ddpm'"),
        (("--device", "tpu"), "'tpu'"),
        (("--seed", -1), "--seed"),
    ],
)
def test_bad_options_are_refused_before_anything_is_made(
    package: Path, tmp_path: Path, options: tuple[object, ...], fact: str
) -> None:
    result = run(package, 1, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert fact in result.output
    assert not (tmp_path / "out").exists()


def test_a_package_of_the_wrong_kind_none_and_a_damaged_one(package: Path, tmp_path: Path) -> None:
    result = run(write_tiny_package(tmp_path / "tiny"), 1, tmp_path / "out")
    assert result.exit_code == 2
    assert "tiny is a segmenter" in result.output
    assert "'nowhere'" in run(Path("nowhere"), 1, tmp_path / "out").output
    assert not (tmp_path / "out").exists()


def test_no_pairs_at_all_and_a_file_for_a_folder(package: Path, tmp_path: Path) -> None:
    result = run(package, 0, tmp_path / "out")
    assert result.exit_code == 2
    assert "--count" in result.output
    (tmp_path / "file").write_text("x")
    assert "file is a file" in run(package, 1, tmp_path / "file").output
    result = run(package, 1, tmp_path / "file" / "out")
    assert result.exit_code == 2
    assert "out " in result.output


def test_a_pair_that_lost_a_file_is_named_and_generated_again(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(package, 1, out).exit_code == 0
    (out / "pair_0000" / "labels.nii.gz").unlink()
    result = run(package, 1, out)
    assert result.exit_code == 0
    assert "pair_0000" in result.output
    assert "labels.nii.gz" in result.output
    assert (out / "pair_0000" / "labels.nii.gz").is_file()
    (out / "generation.json").write_text("{")
    assert "generation.json" in run(package, 1, out).output


def test_huge_counts_say_first_what_they_take(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(package, 4_000_000_000, tmp_path / "huge")
    assert result.exit_code == 2
    assert "3,999,999,999 more" in result.output
    assert pairs(tmp_path / "huge") == ["pair_0000"]
    monkeypatch.setattr(generate, "LONG_SECONDS", 0.0)
    result = run(package, 2, tmp_path / "long")
    assert result.exit_code == 2
    assert "--yes" in result.output
    assert run(package, 2, tmp_path / "long", "--yes").exit_code == 0
    assert pairs(tmp_path / "long") == ["pair_0000", "pair_0001"]


def test_a_full_disk_leaves_whole_pairs(
    four: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "out", pair_files.write_figure

    def full(figure: Any, path: Path) -> None:
        if "pair_0002" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(figure, path)

    with monkeypatch.context() as patched:
        patched.setattr(pair_files, "write_figure", full)
        result = run(package, 4, out, *SEED)
    assert result.exit_code == 1
    for fact in ("Error: pair_0002 ", os.strerror(errno.ENOSPC), "2 of 4 pairs"):
        assert fact in result.output
    assert pairs(out) == ["pair_0000", "pair_0001"]
    assert run(package, 4, out, *SEED).exit_code == 0
    assert contents(out) == contents(four)


def test_stopped_it_says_how_far_it_came(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Generator.generate

    def stopped(self: Generator, seed: int, index: int, *arguments: Any, **options: Any) -> Any:
        if index == 1:
            raise Cancelled
        return draw(self, seed, index, *arguments, **options)

    monkeypatch.setattr(Generator, "generate", stopped)
    result = run(package, 3, tmp_path / "out")
    assert result.exit_code == 130
    assert "Stopped. 1 of 3 pairs" in result.output
    assert pairs(tmp_path / "out") == ["pair_0000"]
