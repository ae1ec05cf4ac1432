"""Plans of experiments: what they may say, and what is refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cardiacldm_training.errors import EvaluationError
from cardiacldm_training.evaluation.experiment.plan import Folders, Plan, Virtual, read_plan
from cardiacldm_training.evaluation.experiment.runs import network_config, pretraining_config

from .conftest import MakePlan

PUBLISHED = Path(__file__).parents[4] / "docs" / "results" / "paper-table-plan.json"


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda p: p.update(seeds=[1]), ["seeds"]),
        (lambda p: p.update(seeds=[1, 1]), ["seeds"]),
        (lambda p: p["protocols"]["equal"].update(arms=["baseline", "sll"]), ["arm", "'sll'", "ssl"]),
        (lambda p: p["protocols"]["equal"].update(baseline="none"), ["protocols.equal", "'none'"]),
        (lambda p: p["protocols"]["equal"].update(epochs=3), ["steps", "epochs"]),
        (lambda p: p["protocols"]["equal"].pop("steps"), ["steps", "epochs"]),
        (lambda p: p["protocols"]["equal"].update(arms=["baseline", "baseline"]), ["twice"]),
        (lambda p: p["arms"]["mix"].update(mix="pears"), ["set", "'pears'"]),
        (lambda p: p["arms"]["ssl"].update(pretraining="other"), ["pre-training", "'other'"]),
        (lambda p: p["primary"].update(test="train"), ["test set", "'train'"]),
        (lambda p: p["primary"].update(structure="aorta"), ["structure", "'aorta'"]),
        (lambda p: p.update(tests=[]), ["tests"]),
        (lambda p: p.update(speed=1), ["speed"]),
        (lambda p: p["network"].update(patch=[16, 16]), ["network.patch"]),
        (lambda p: p.pop("primary"), ["primary"]),
        (lambda p: p.update(seeds=[0, 2**64]), ["seeds.1"]),
        (lambda p: p["arms"]["mix"].update(share=float("inf")), ["arms.mix.share"]),
        (lambda p: p["arms"]["baseline"].update(train=["test"]), ["'test'"]),
        (lambda p: p["protocols"]["equal"].update(steps=10**12), ["protocols.equal.steps"]),
        (lambda p: p["network"].update(batch=10**9), ["network.batch"]),
        (lambda p: p["network"].update(spacing_mm=1000), ["network.spacing_mm"]),
        (lambda p: p["pretrainings"]["own"].update(mask={"kind": "paper", "sides": [9, 8]}), ["own", "sides"]),
        (lambda p: p["pretrainings"]["own"].update(mask={"kind": "paper", "probability": 0}), ["own", "probability"]),
    ],
)
def test_a_wrong_plan_is_named(
    write_plan: MakePlan, change: Callable[[dict[str, Any]], object], facts: list[str]
) -> None:
    with pytest.raises(EvaluationError) as caught:
        read_plan(write_plan(change))
    text = str(caught.value)
    assert all(fact in text for fact in ("plan.json", *facts)), text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seeds": [0], "seeds": [1]}', "\x00"])
def test_what_is_no_plan_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=r"plan\.json"):
        read_plan(path)
    with pytest.raises(EvaluationError, match=r"none\.json"):
        read_plan(tmp_path / "none.json")


def test_paths_are_relative_to_the_plan(write_plan: MakePlan, tmp_path: Path) -> None:
    virtual = {"kind": "virtual", "cases": 2, "seed": 1, "anatomies": "hearts"}
    sets = {"train": {"kind": "folders", "folders": ["here", "/there"]}, "validation": virtual, "test": virtual}
    plan = read_plan(write_plan(lambda p: p["sets"].update(sets)))
    train, validation = plan.sets["train"], plan.sets["validation"]
    assert isinstance(train, Folders)
    assert isinstance(validation, Virtual)
    assert train.folders == (tmp_path / "here", Path("/there"))
    assert validation.anatomies == tmp_path / "hearts"


def test_budgets_become_settings(plan: Plan) -> None:
    equal = network_config(plan, plan.protocols["equal"], cases=4)
    assert (equal.steps, equal.validate_every, equal.frozen_steps, equal.encoder_rate) == (6, 3, 2, 0.5)
    by_epochs = plan.protocols["equal"].model_copy(update={"steps": None, "epochs": 300, "patience": 10})
    paper = network_config(plan, by_epochs, cases=7)
    assert (paper.steps, paper.validate_every, paper.patience) == (300 * 4, 4, 10)  # batches of two
    masked = pretraining_config(plan, "own")
    assert (masked.steps, masked.validate_every, masked.mask.kind) == (4, 2, "mae")


def test_the_published_plan_can_be_read() -> None:
    plan = read_plan(PUBLISHED)
    assert len(plan.seeds) == 6
    assert {type(source) for source in plan.sets.values()} == {Virtual, Folders}
    assert plan.sets_of(plan.arms["SSL(generated) -> mix"]) == {"train", "pairs", "validation", "virtual", "real"}
    assert plan.sets_of(plan.arms["baseline"]) == {"train", "validation", "virtual", "real"}
