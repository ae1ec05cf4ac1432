"""Bodies with the lungs and organs of a real trunk: fitted to the heart, never mirrored, labels untouched."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from cardiacldm_training.cli import app
from cardiacldm_training.errors import AnatomyError
from cardiacldm_training.virtual.body.body import paint_body, place_labels
from cardiacldm_training.virtual.body.canvas import Canvas
from cardiacldm_training.virtual.body.frame import BodyFrame, Landmarks, draw_frame, extend_aorta
from cardiacldm_training.virtual.body.real_trunk import VALUES, read_trunk
from cardiacldm_training.virtual.body.trunk_fit import fit_trunk
from cardiacldm_training.virtual.heart.anatomy import Heart, HeartSources, draw_heart
from cardiacldm_training.virtual.shapes import Lattice
from cardiacldm_training.virtual.tissue import Body, Tissue
from CardiacLDMLib.anatomy import HEART, VALUE
from CardiacLDMLib.files import sha256

SPACING = 4.0
#: Tissues of a drawn body that stand for structures of a trunk; lungs and sternum are cut to size below.
STAND_INS = {"pulmonary veins": "PULMONARY_VEIN", "superior vena cava": "CAVA", "inferior vena cava": "INFERIOR_CAVA",
             "aorta": "AO", "liver": "LIVER", "oesophagus": "OESOPHAGUS", "trachea": "AIRWAY", "spleen": "SPLEEN",
             "stomach": "STOMACH"}  # fmt: skip


@lru_cache
def drawn(seed: int) -> tuple[Heart, BodyFrame, Lattice]:
    rng = np.random.default_rng(seed)
    heart = draw_heart(rng, SPACING, HeartSources(), partial(extend_aorta, rng=rng))
    start = np.rint((np.array([-210.0, -170.0, -170.0]) - heart.lattice.origin) / SPACING)
    lattice = Lattice(heart.lattice.origin + start * SPACING, SPACING, (105, 85, 98))
    return heart, draw_frame(heart, rng), lattice


def trunk_labels(body: Body, lattice: Lattice, frame: BodyFrame) -> np.ndarray:
    """The trunk's label map of a drawn body."""
    out = np.zeros(body.labels.shape, dtype=np.uint8)
    x, y, z = (np.broadcast_to(lattice.axis(a), out.shape) for a in range(3))
    lung = np.isin(body.tissue, [Tissue.LUNG, Tissue.LUNG_VESSEL, Tissue.COLLAPSED_LUNG])
    upper, right = z + 0.5 * y > frame.seat + 70.0, x > frame.spine[0]
    out[lung & right] = np.where(upper, VALUES["right upper lobe"], VALUES["right lower lobe"])[lung & right]
    out[lung & right & ~upper & (y > 20.0)] = VALUES["right middle lobe"]
    out[lung & ~right] = np.where(upper, VALUES["left upper lobe"], VALUES["left lower lobe"])[lung & ~right]
    for name, tissue in STAND_INS.items():
        out[body.tissue == Tissue[tissue]] = VALUES[name]
    out[np.isin(body.labels, [VALUE[n] for n in (*HEART, "PA")])] = VALUES["heart"]
    out[body.labels == VALUE["AO"]] = VALUES["aorta"]
    bone = (
        np.isin(body.tissue, [Tissue.BONE, Tissue.MARROW]) & (abs(x - frame.middle[0]) < 24.0) & (y > frame.middle[1])
    )
    out[bone & (z < frame.top - 30.0)] = VALUES["sternum"]
    return out


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn trunk, turned by some degrees in its header, as scanned patients are."""
    heart, frame, lattice = drawn(1)
    labels = trunk_labels(paint_body(heart, lattice, frame, np.random.default_rng(1)), lattice, frame)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.06), np.sin(0.06)], [-np.sin(0.06), np.cos(0.06)]]
    affine = turned @ np.diag([SPACING] * 3 + [1.0])
    affine[:3, 3] = [-150.0, 40.0, 700.0]
    path = tmp_path_factory.mktemp("trunk") / "someone.nii.gz"
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


@pytest.fixture(scope="module")
def body(trunk_file: Path) -> Body:
    heart, frame, lattice = drawn(0)
    return paint_body(heart, lattice, frame, np.random.default_rng(0), trunk=read_trunk(trunk_file))


def test_the_heart_stays_and_the_trunk_fills_the_chest(body: Body) -> None:
    heart, frame, lattice = drawn(0)
    assert (body.labels == place_labels(heart, lattice, frame)).all()
    inside = body.tissue[body.labels > 0]
    assert not np.isin(inside, [Tissue.LUNG, Tissue.FISSURE, Tissue.LIVER, Tissue.AIRWAY, Tissue.FAT]).any()
    ml = np.bincount(body.tissue.ravel(), minlength=len(Tissue)) * SPACING**3 / 1000.0
    limits = {"LUNG": (1200, 8000), "LIVER": (400, 2800), "SPLEEN": (20, 450), "OESOPHAGUS": (5, 120),
              "AIRWAY": (10, 200), "FISSURE": (5, 200)}  # fmt: skip
    for name, (least, most) in limits.items():
        assert least < ml[Tissue[name]] < most, (name, ml[Tissue[name]])

    def middle(tissue: Tissue) -> np.ndarray:
        return np.asarray(lattice.origin + lattice.spacing * np.argwhere(body.tissue == tissue).mean(0))

    assert middle(Tissue.LIVER)[0] > middle(Tissue.SPLEEN)[0] + 50.0
    assert middle(Tissue.LUNG)[2] > middle(Tissue.LIVER)[2]


def test_lungs_reach_cage_and_heart(body: Body) -> None:
    """No broad gap of fat beside ribs or ventricles: at mid-height, lung lies within 12 mm of most of the side wall."""
    _, frame, lattice = drawn(0)
    k = int((frame.seat + 60.0 - lattice.origin[2]) / SPACING)
    lung = ndimage.binary_dilation(np.isin(body.tissue[..., k], [Tissue.LUNG, Tissue.LUNG_VESSEL]), iterations=3)
    angle = np.deg2rad(np.linspace(-50, 40, 15))
    width, front, back = (float(v[0]) for v in frame.cavity(np.array([frame.seat + 60.0])))
    for side in (1.0, -1.0):
        x = frame.middle[0] + side * (width - 3.0) * np.cos(angle)
        y = (front + back) / 2 + ((front - back) / 2 - 3.0) * np.sin(angle)
        i, j = (np.rint((v - lattice.origin[a]) / SPACING).astype(int) for a, v in enumerate((x, y)))
        assert lung[i, j].mean() > 0.8, side


def test_fissures_lie_within_the_lungs(body: Body) -> None:
    fissure = body.tissue == Tissue.FISSURE
    around = ndimage.binary_dilation(fissure) & ~fissure
    assert np.isin(body.tissue[around], [Tissue.LUNG, Tissue.LUNG_VESSEL, Tissue.PULMONARY_VEIN]).mean() > 0.6


def test_the_trunks_heart_comes_to_lie_on_the_virtual_one(trunk_file: Path) -> None:
    heart, frame, lattice = drawn(0)
    canvas, marks = Canvas(lattice), Landmarks(heart)
    fits = [fit_trunk(read_trunk(trunk_file), canvas, marks, frame, np.random.default_rng(n)) for n in range(2)]
    for fit in fits:
        ours = canvas.upsample(fit.levels["heart"]) > 0
        theirs = place_labels(heart, lattice, frame) > 0
        assert (ours & theirs).sum() > 0.6 * theirs.sum()
        right, left = (np.argwhere(fit.levels[f"{side} lung"] > 0).mean(0)[0] for side in ("right", "left"))
        assert right > left
    assert np.abs(fits[0].lung - fits[1].lung).max() > 5.0  # one trunk gives many


@pytest.mark.parametrize(
    ("change", "fact"),
    [("mirrored", "orientation"), ("no liver", "liver"), ("more values", "17"), ("small", "mm"), ("absent", "absent")],
)
def test_unusable_trunks_are_named(trunk_file: Path, tmp_path: Path, change: str, fact: str) -> None:
    image = nib.load(trunk_file)
    labels, affine = np.asarray(image.dataobj).copy(), image.affine.copy()
    if change == "mirrored":
        labels = labels[::-1]
    elif change == "no liver":
        labels[labels == VALUES["liver"]] = 0
    elif change == "more values":
        labels[0, 0, 0] = 30
    elif change == "small":
        affine[:3, :3] /= 10.0
    path = tmp_path / f"{change}.nii.gz"
    if change != "absent":
        nib.save(nib.Nifti1Image(labels, affine), path)
    with pytest.raises(AnatomyError, match=fact):
        read_trunk(path)
    result = CliRunner().invoke(app, ["cohort", "--cases", "1", "--out", str(tmp_path / "out"), "--trunk", str(path)])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_cohort_records_its_trunk(trunk_file: Path, tmp_path: Path) -> None:
    base = ["cohort", "--cases", "2", "--seed", "3", "--spacing", "4", "--workers", "1", "--trunk", str(trunk_file)]
    assert CliRunner().invoke(app, [*base, "--out", str(tmp_path / "out")]).exit_code == 0
    record = json.loads((tmp_path / "out/cohort.json").read_text())
    assert record["trunk"] == {"someone.nii.gz": sha256(trunk_file)}
    cases = [json.loads(p.read_text()) for p in (tmp_path / "out").glob("*/case.json")]
    assert {case["surroundings"] for case in cases} <= {"someone", "drawn"}
    both = CliRunner().invoke(app, [*base, "--out", str(tmp_path / "b"), "--no-surroundings"])
    assert both.exit_code == 2
    assert "--no-surroundings" in both.output
