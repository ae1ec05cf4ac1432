"""The loss for labels that leave something unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from cardiacldm_training.cases import store
from cardiacldm_training.cases.readers.label_map import IGNORED
from cardiacldm_training.cases.unknown import fitting_classes
from cardiacldm_training.stages.partial_loss import partial_loss
from cardiacldm_training.stages.segmenter import SegmentationStage
from CardiacLDMLib import anatomy
from CardiacLDMLib.image.files import read_volume
from tests.support import datasets
from tests.support.training import tiny_network, write_case

LA, LV, AO, LAA = (anatomy.VALUE[name] for name in ("LA", "LV", "AO", "LAA"))


def tables(*unknown: set[str]) -> torch.Tensor:
    return torch.from_numpy(np.stack([fitting_classes(names) for names in unknown]))


def random_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 9, 4, 5, 6), generator=generator) * 3
    return logits, torch.randint(0, 9, (2, 1, 4, 5, 6), generator=generator, dtype=torch.uint8)


def test_complete_labels_have_the_usual_loss() -> None:
    logits, labels = random_batch()
    usual = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)(logits, labels)
    assert partial_loss(logits, labels, tables(set(), set())) == pytest.approx(float(usual), abs=1e-6)


def logits_of(labels: torch.Tensor, sure: float = 40.0) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels[:, 0].long(), 9).movedim(-1, 1).float() * sure


def test_unknown_structures_may_be_drawn_or_not() -> None:
    """Background may hold the appendage and more of the aorta: neither drawing nor leaving out costs anything."""
    truth = torch.zeros((1, 1, 6, 6, 6), dtype=torch.uint8)
    truth[..., :2], truth[..., 4:] = LA, AO
    drawn = truth.clone()
    drawn[:, :, 0, :, 2:4], drawn[:, :, 1, :, 2:4] = LAA, AO
    for labels in (drawn, truth):
        logits = logits_of(labels).requires_grad_()
        loss = partial_loss(logits, truth, tables({"LAA", "AO"}))
        loss.backward()
        assert loss.detach() < 1e-4
        assert torch.isfinite(logits.grad).all()
    assert partial_loss(logits_of(drawn), truth, tables(set())) > 1.0


def test_an_atrium_may_hold_an_appendage_but_is_none() -> None:
    """Some draw the appendage with the atrium: there it costs little, but a network cannot take one for the other."""
    truth = torch.zeros((1, 1, 8, 8, 8), dtype=torch.uint8)
    truth[..., :4] = LA

    def cost(part: int, label: int) -> float:
        drawn = truth.clone()
        drawn[:, :, :part, :, :4] = label
        return float(partial_loss(logits_of(drawn), truth, tables({"LAA"})))

    assert 0.0 <= cost(0, LAA) < cost(1, LAA) < 0.2 * cost(1, LV)
    assert cost(8, LAA) > 1.0


def test_wrong_structures_still_cost() -> None:
    truth = torch.zeros((1, 1, 4, 4, 4), dtype=torch.uint8)
    truth[..., :2] = LV
    for wrong in (LAA, AO, LA):  # in the place of the ventricle
        drawn = torch.where(truth == LV, torch.tensor(wrong, dtype=torch.uint8), truth)
        assert partial_loss(logits_of(drawn), truth, tables({"LAA", "AO"})) > 1.0


def test_ignored_voxels_teach_nothing() -> None:
    logits, labels = random_batch()
    logits.requires_grad_()
    labels[:, :, 1] = IGNORED
    loss = partial_loss(logits, labels, tables({"LAA"}, set()))
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, 1] == 0).all()
    assert (logits.grad[:, :, 0] != 0).any()
    everything = torch.full_like(labels, IGNORED)
    assert torch.isfinite(partial_loss(logits, everything, tables(set(anatomy.NAMES), set(anatomy.NAMES))))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[store.PreparedCase]:
    """A complete case, and one of MM-WHS's layout."""
    folder = tmp_path_factory.mktemp("cases")
    write_case(folder / "own" / "one")
    image, labels = (read_volume(folder / "own" / "one" / f"{name}.nii.gz") for name in ("ct", "labels"))
    datasets.write_mmwhs(folder / "mmwhs", image, labels)
    return store.prepare(store.gather([folder / "own", folder / "mmwhs"], folder / "cache"), 6.0).cases


def test_a_stage_trains_on_complete_and_other_cases(cases: list[store.PreparedCase]) -> None:
    stage = SegmentationStage("segmenter", tiny_network(), seed=0, train=cases, held_out=cases)
    examples = [stage.example(n) for n in range(6)]
    batch = {key: torch.from_numpy(np.stack([each[key] for each in examples])) for key in examples[0]}
    assert {float(each["fitting"][0, LAA]) for each in examples} == {0.0, 1.0}
    network = torch.nn.Conv3d(1, 9, 3, padding=1)
    loss = stage.loss(network, batch)
    loss.backward()
    assert torch.isfinite(loss)


def test_complete_cases_alone_have_the_usual_examples(cases: list[store.PreparedCase]) -> None:
    stage = SegmentationStage("segmenter", tiny_network(), seed=0, train=cases[:1], held_out=cases)
    assert set(stage.example(0)) == {"image", "labels"}
