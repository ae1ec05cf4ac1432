"""The blind test: a page of shuffled slices that names no case, keeps answers and scores them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.errors import EvaluationError
from cardiacldm_training.evaluation.fidelity import blind, blind_page
from cardiacldm_training.evaluation.fidelity.cases import CaseSet, View, open_case_set
from CardiacLDMLib.image.files import write_volume
from CardiacLDMLib.image.grid import Volume

VIEW = View((32, 32, 24), 3.0)
#: HU of the body by kind: a slice tells its kind by its grey.
LEVELS = {"real": 300, "virtual": 100, "generated": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two cases of each kind, whose names and folders tell a patient."""
    root = tmp_path_factory.mktemp("sets")
    for kind, level in LEVELS.items():
        for n in range(2):
            folder = root / f"{kind}_Doe" / f"Jane_{n}"
            folder.mkdir(parents=True)
            hu = np.full(VIEW.grid, level + 5 * n, np.int16)
            hu[:6] = hu[-6:] = -850  # lungs
            labels = np.zeros(VIEW.grid, np.uint8)
            labels[10:20, 10:20, 8:16] = 2
            write_volume(Volume(hu, VIEW.affine), folder / "ct.nii.gz")
            write_volume(Volume(labels, VIEW.affine), folder / "labels.nii.gz")
    return {kind: root / f"{kind}_Doe" for kind in LEVELS}


def data_of(page: str) -> tuple[dict[str, object], list[str]]:
    """What the page holds, and the kind of each slice."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found.group(1))
    return data, base64.b64decode(data["key"]).decode().split()


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["fidelity", "blind", *map(str, arguments)])
    return done.exit_code, done.output


def options(folders: dict[str, Path], *kinds: str) -> list[object]:
    return [word for kind in kinds for word in (f"--{kind}", folders[kind])]


def test_the_page_holds_as_many_slices_of_each_kind_and_no_name(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "test.html"
    code, output = run(*options(folders, *LEVELS), "--count", 4, "--out", out, "--seed", 3)
    assert code == 0, output
    text = out.read_text()
    data, truth = data_of(text)
    assert {kind: truth.count(kind) for kind in LEVELS} == dict.fromkeys(LEVELS, 4)
    assert truth != sorted(truth)
    assert data["kinds"] == ["real", "virtual", "generated"]
    for word in ("Doe", "Jane", str(folders["real"].parent), "://"):
        assert word not in text
    slices = data["slices"]
    assert isinstance(slices, list)
    greys: dict[str, set[int]] = {}
    for n, (kind, picture) in enumerate(zip(truth, slices, strict=True)):
        (tmp_path / f"{n}.png").write_bytes(base64.b64decode(picture))
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{n}.png")))
        assert pixels.shape[:2] == (blind.PIXELS, blind.PIXELS)
        greys.setdefault(kind, set()).add(int(pixels[blind.PIXELS // 2, blind.PIXELS // 2].max()))
    assert not greys["real"] & greys["virtual"]  # each slice is what the page takes it for
    assert not greys["real"] & greys["generated"]


def test_the_same_seed_makes_the_same_test(folders: dict[str, Path]) -> None:
    sets = {kind: open_case_set([folders[kind]], VIEW, None) for kind in ("virtual", "generated")}
    first = blind.make_blind_test(sets, 3, seed=1)
    assert blind.make_blind_test(sets, 3, seed=1) == first
    assert blind.make_blind_test(sets, 3, seed=2) != first
    assert 'id="real"' not in first  # no button for a kind that is not among them


def test_a_set_without_a_slice_to_show_is_named(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "LEAST_BODY", 1.1)
    sets: dict[str, CaseSet] = {"virtual": open_case_set([folders["virtual"]], VIEW, None)}
    with pytest.raises(EvaluationError, match="virtual_Doe"):
        blind.make_blind_test(sets, 1, seed=0)


def test_the_page_may_run_its_own_script_only() -> None:
    page = blind_page.blind_page([b"a", b"b"], ["real", "virtual"], ["real", "virtual"], "All <alike>.")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in page
    assert "default-src 'none'" in page
    assert "All &lt;alike&gt;." in page
    for name in re.findall(r'at\("(\w+)"\)', script):
        assert f'id="{name}"' in page


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to run the script of the page")
def test_answers_are_counted_and_saved() -> None:
    program = (
        blind_page.SCORE
        + """
    const answers = { 0: { answer: "real", seconds: 2 }, 1: { answer: "real", seconds: 1 } };
    const truth = ["real", "generated", "virtual"];
    console.log(JSON.stringify([score(answers, truth, ["real", "virtual", "generated"]), table(answers, truth)]));
    """
    )
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    found, table = json.loads(done.stdout)
    assert (found["right"], found["said"]) == (1, 2)
    assert found["counts"]["generated"] == {"real": 1, "virtual": 0, "generated": 0}
    assert table.splitlines() == ["slice,answer,truth,seconds", "1,real,real,2", "2,real,generated,1", "3,,virtual,"]


def test_one_kind_is_no_test(folders: dict[str, Path], tmp_path: Path) -> None:
    code, output = run(*options(folders, "real"), "--out", tmp_path / "a.html")
    assert code == 2
    assert "--virtual" in output
    assert not (tmp_path / "a.html").exists()
