"""Mixtures of cases: shares, origins that depend on seed and number alone, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cardiacldm_training.cases.mixture import Group, Mixture
from cardiacldm_training.cases.store import PreparedCase
from cardiacldm_training.errors import ConfigError


def cases(name: str, count: int) -> list[PreparedCase]:
    return [PreparedCase(f"{name}{n}", Path(name), name, 3.0) for n in range(count)]


def test_origins_have_their_shares_and_depend_on_seed_and_number_alone() -> None:
    mixture = Mixture([Group("real", cases("real", 3)), Group("generated", cases("generated", 50), 3.0)])
    origins = np.array([mixture.origin(7, 1, n) for n in range(4000)])
    assert (origins == 1).mean() == pytest.approx(0.75, abs=0.02)  # whatever the numbers of cases
    assert [mixture.origin(7, 1, n) for n in range(50, 60)] == origins[50:60].tolist()
    assert (origins != [mixture.origin(8, 1, n) for n in range(4000)]).any()
    assert (origins != [mixture.origin(7, 2, n) for n in range(4000)]).any()


def test_every_case_is_drawn_from_its_group() -> None:
    mixture = Mixture([Group("real", cases("real", 3)), Group("generated", cases("generated", 5), 2.0)])
    drawn = [mixture.draw(np.random.default_rng(n), 7, 1, n).name for n in range(400)]
    assert set(drawn) == {case.name for group in mixture.groups for case in group.cases}
    assert [name.startswith("generated") for name in drawn] == [mixture.origin(7, 1, n) == 1 for n in range(400)]
    assert len(mixture) == 8


def test_a_single_group_is_drawn_as_before_there_were_mixtures() -> None:
    group = cases("real", 9)
    for n in range(20):
        expected = group[int(np.random.default_rng(n).integers(9))]
        assert Mixture([Group("cases", group)]).draw(np.random.default_rng(n), 7, 1, n) is expected


def test_pairs_of_another_anatomy_are_refused(tmp_path: Path) -> None:
    def labelled(name: str, structures: range) -> list[PreparedCase]:
        points = np.full((8, 2, 3), -1, dtype=np.int16)
        points[list(structures)] = 0
        (tmp_path / name).mkdir(exist_ok=True)
        np.save(tmp_path / name / "points.npy", points)
        return [PreparedCase(name, tmp_path / name, name, 3.0)]

    real, same, fewer = (labelled(str(n), range(n)) for n in (7, 8, 5))
    Mixture([Group("real cases", real), Group("pairs", same)]).check_anatomy()
    Mixture([Group("real cases", real)]).check_anatomy()
    with pytest.raises(ConfigError, match="The pairs have no AO, PA"):
        Mixture([Group("real cases", real), Group("pairs", fewer)]).check_anatomy()


@pytest.mark.parametrize(
    "groups",
    [[], [Group("real", [])], [Group("real", cases("a", 1)), Group("generated", cases("b", 1), 0.0)],
     [Group("real", cases("a", 1)), Group("generated", [])]],
)  # fmt: skip
def test_mixtures_without_cases_or_shares_are_refused(groups: list[Group]) -> None:
    with pytest.raises(ConfigError):
        Mixture(groups)
