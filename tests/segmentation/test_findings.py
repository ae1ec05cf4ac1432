"""Remarks on labels: which there are, and that each rule has words with its facts."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.segmentation.findings import (
    TRACE_ML,
    Finding,
    Rule,
    clause,
    cut_off,
    findings,
    flag,
    sentence,
    volume_findings,
)


def test_vessels_that_leave_the_scan_are_no_finding() -> None:
    labels = np.zeros((40, 40, 40), dtype=np.uint8)
    labels[5:30, 5:30, 20:] = anatomy.VALUE["AO"]
    labels[5:30, 5:30, :20] = anatomy.VALUE["LV"]
    labels[:, :, :3] = 0
    assert cut_off(Volume(labels, np.eye(4))) == {}
    assert cut_off(Volume(labels[:, :, 3:], np.eye(4))) == {"inferior": ["LV"]}


def test_unusual_volumes_and_missing_structures_are_findings() -> None:
    labels = np.zeros((90, 90, 90), dtype=np.uint8)
    labels[5:80, 5:80, 5:80] = anatomy.VALUE["LV"]
    volumes = {name: 0.0 for name in anatomy.NAMES} | {"LV": 421.9, "MYO": 120.0, "LA": 80.0}
    assert findings(Volume(labels, np.eye(4)), volumes) == [
        Finding("missing", ("RA", "RV", "AO", "PA", "LAA")),
        Finding("volume", ("LV",), 421.9, 350.0),
    ]


def test_volumes_of_a_cut_heart_are_not_judged() -> None:
    labels = np.zeros((30, 30, 30), dtype=np.uint8)
    labels[5:25, 5:25, :25] = anatomy.VALUE["LV"]
    volumes = dict.fromkeys(anatomy.NAMES, 100.0) | {"LV": 5.0}
    assert findings(Volume(labels, np.eye(4)), volumes) == [Finding("cut off", ("LV",), where="inferior")]
    assert volume_findings(volumes) == [Finding("volume", ("LV",), 5.0, 40.0), Finding("volume", ("LAA",), 100.0, 40.0)]
    assert volume_findings(volumes, unjudged=("LV", "LAA")) == []


def test_a_few_voxels_of_a_structure_are_remarked_on() -> None:
    labels = np.zeros((30, 30, 30), dtype=np.uint8)
    labels[5:25, 5:25, :25] = anatomy.VALUE["LV"]
    volumes = dict.fromkeys(anatomy.NAMES, 30.0) | {"LV": 0.4, "RV": 0.004, "PA": 0.03}
    remarks = findings(Volume(labels, np.eye(4)), volumes)
    assert remarks == [
        Finding("cut off", ("LV",), where="inferior"),
        Finding("trace", ("RV",), 0.004, TRACE_ML),
        Finding("trace", ("PA",), 0.03, TRACE_ML),
    ]
    assert "0.004 mL" in sentence(remarks[1])
    (small,) = [f for f in volume_findings(volumes | {"LAA": 0.02}) if f.structures == ("LAA",)]
    assert "0.02 mL" in sentence(small)


#: One finding of each rule, and the facts that its words must hold.
EXAMPLES: dict[Rule, tuple[Finding, tuple[str, ...]]] = {
    "no heart": (Finding("no heart", (), 12.0, 60.0), ("No heart",)),
    "doubt": (Finding("doubt", where="there is no lung around it"), ("heart", "no lung around it")),
    "cut off": (Finding("cut off", ("LV", "RV"), where="inferior"), ("LV and RV", "inferior")),
    "missing": (Finding("missing", ("LA", "RA", "PA")), ("LA, RA and PA",)),
    "volume": (Finding("volume", ("LV",), 421.9, 350.0), ("LV", "422 mL", "40 to 350 mL")),
    "trace": (Finding("trace", ("PA",), 0.032, 1.0), ("PA", "0.03 mL")),
    "too small": (Finding("too small", ("LA",), 1.08, 6.0), ("LA", "1.1 mL", "6 mL")),
    "pieces": (Finding("pieces", ("AO",), 3, 1), ("AO", "3")),
    "holes": (Finding("holes", ("RV",), 0.216, 0.0), ("RV", "0.22 mL")),
    "islands": (Finding("islands", ("RA", "LA"), 12, 10, "9 in RA, 3 in LA"), ("12", "10", "9 in RA")),
    "contact": (Finding("contact", ("LV", "AO"), limit=2.0), ("LV and AO",)),
    "forbidden contact": (Finding("forbidden contact", ("LV", "RV"), limit=2.0), ("LV and RV",)),
    "order": (Finding("order", ("RA", "LV"), where="right of"), ("RA", "LV", "right of")),
    "LV open": (Finding("LV open", ("LV",), 0.123, 0.1), ("LV", "12.3%", "10%")),
    "agreement": (Finding("agreement", value=0.1, limit=0.75), ("0.10", "0.75")),
    "replica": (Finding("replica", value=0.1234, limit=0.5), ("0.123", "0.500")),
    "plate": (Finding("plate", value=0.31, limit=0.1), ("31%", "10%")),
    "seam": (Finding("seam", value=123.4, limit=100.0), ("123 HU", "100 HU")),
    "surroundings": (Finding("surroundings", value=-620.0, limit=-700.0, where="lung"), ("lung", "-620 HU", "-700 HU")),
    "bone": (Finding("bone", value=0.2, limit=0.13), ("20%", "13%")),
    "lattice": (Finding("lattice", value=1.42, limit=1.2), ("1.42", "1.2")),
    "fat": (Finding("fat", value=0.02, limit=0.05), ("2%", "5%")),
    "lung vessels": (Finding("lung vessels", value=0.004, limit=0.01), ("0.4%", "1.0%")),
    "own labels": (Finding("own labels", ("RA",), 0.488, 0.2), ("RA", "0.51")),
    "difference": (Finding("difference", ("LAA",), 4.23, 2.0, "short of"), ("LAA", "4.2 mL", "short of")),
    "moved": (Finding("moved", ("LA",), 5.26, 2.0), ("LA", "5.3 mm")),
    "surface": (Finding("surface", ("MYO",), 2.94, 1.0, "outside"), ("MYO", "2.9 mm", "outside")),
    "mirrored": (Finding("mirrored", ("PA",), 0.3, 0.1), ("PA", "0.70")),
    "blood": (Finding("blood", ("LV",), 62.0, 30.0), ("LV", "62 HU")),
    "pools": (Finding("pools", ("AO",), 0.31, 0.2), ("AO", "31%")),
    "tissue": (Finding("tissue", ("LA",), 3.4, 1.0, "lung"), ("LA", "3.4 mL", "lung")),
    "border": (Finding("border", ("MYO",), 0.42, 0.3, "outside"), ("MYO", "42%")),
    "unlabelled": (Finding("unlabelled", ("LA",), 5.1, 2.0), ("LA", "5.1 mL")),
    "jump": (Finding("jump", ("RV",), 0.4, 0.2), ("RV", "40%")),
    "shift": (Finding("shift", ("RV",), 7.1, 4.0), ("RV", "7.1 mm")),
    "appendage": (Finding("appendage", ("LAA",), 14.0, 9.0), ("LAA", "vein")),
    "ragged": (Finding("ragged", ("AO",), 0.123, 0.05), ("AO", "12.3%")),
}


@pytest.mark.parametrize("rule", get_args(Rule))
def test_every_rule_has_words_with_its_facts(rule: Rule) -> None:
    finding, facts = EXAMPLES[rule]
    assert finding.rule == rule
    assert all(fact in sentence(finding) for fact in facts)
    assert sentence(finding) == f"{clause(finding)}."


def test_a_part_of_a_heart_is_not_called_none() -> None:
    part = sentence(Finding("no heart", (), 12.0, 60.0, "inferior"))
    assert part != sentence(Finding("no heart", (), 12.0, 60.0))
    assert "No heart" not in part
    assert "inferior edge " in part
    assert "inferior and left edges" in sentence(Finding("no heart", (), 12.0, 60.0, "inferior, left"))


def test_the_two_sides_of_a_border_have_their_own_words() -> None:
    inside, outside = (sentence(Finding("border", ("RV",), 0.4, 0.2, where)) for where in ("inside", "outside"))
    assert inside != outside


def test_flags_are_short() -> None:
    small, large = Finding("volume", ("LV",), 5.0, 40.0), Finding("volume", ("LV",), 500.0, 350.0)
    assert ("small" in flag(small), "large" in flag(large)) == (True, True)
    for finding in (small, large, Finding("missing", ("LV",)), Finding("cut off", ("LV",))):
        assert len(flag(finding)) < 30
        assert "LV" not in flag(finding)
