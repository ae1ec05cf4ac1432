"""Several readers: who sees what, and where they disagree."""

from __future__ import annotations

from CardiacLDMLib.anatomy import NAMES
from CardiacLDMLib.review.readers import accepted, blinded, disagreements, judgement, readers_of, versions, visible
from CardiacLDMLib.review.verdicts import Verdict

OLD, NEW, THIRD = "a" * 64, "b" * 64, "c" * 64


def said(reader: str, kind: str, structure: str = "", labels: str = OLD, case: str = "one", **more: str) -> Verdict:
    return Verdict(case, reader, kind, labels, structure=structure, **more)  # type: ignore[arg-type]


def opinions(verdicts: list[Verdict]) -> dict[str, str | None]:
    return {each.reader: each.outcome for each in blinded(verdicts, "one")}


# --- one reader ----------------------------------------------------------------------------------------------------


def test_a_case_is_done_as_a_whole_or_by_all_its_structures() -> None:
    parts = [said("Ann", "accept", name) for name in NAMES]
    assert not judgement(parts[:-1], "Ann", "one").is_done
    done = judgement([*parts, said("Ann", "fix", "LA")], "Ann", "one")
    assert done.is_done
    assert done.outcome == "fix"
    assert judgement([said("Ann", "reject")], "Ann", "one").outcome == "reject"
    assert judgement([said("Bob", "reject")], "Ann", "one").outcome is None


def test_the_last_verdict_counts_and_an_undone_one_does_not() -> None:
    first, second = said("Ann", "accept"), said("Ann", "reject")
    assert judgement([first, second], "Ann", "one").outcome == "reject"
    undo = said("Ann", "undo", undoes=second.id)
    assert judgement([first, second, undo], "Ann", "one").outcome == "accept"


def test_what_a_verdict_says_of_a_structure() -> None:
    accepted = judgement([said("Ann", "accept")], "Ann", "one")
    assert accepted.of("LAA") == "accept"
    rejected = judgement([said("Ann", "reject")], "Ann", "one")
    assert rejected.of("LAA") is None
    one_fault = judgement([said("Ann", "fix", "LAA"), said("Ann", "fix")], "Ann", "one")
    assert [one_fault.of(name) for name in ("", "LAA", "LV")] == ["fix", "fix", "accept"]


def test_verdicts_on_earlier_labels_do_not_count_for_later_ones() -> None:
    verdicts = [said("Ann", "fix", "LA"), said("Ann", "fix"), said("Ann", "accept", labels=NEW)]
    now = judgement(verdicts, "Ann", "one")
    assert (now.labels_sha256, now.outcome, now.structures) == (NEW, "accept", {})


# --- blinding ------------------------------------------------------------------------------------------------------


def test_verdicts_of_others_are_hidden_until_both_are_done() -> None:
    bob = [said("Bob", "fix", "LA"), said("Bob", "fix")]
    assert visible(bob, "Ann", "one") == []
    half = [*bob, said("Ann", "accept", "LA")]
    assert {v.reader for v in visible(half, "Ann", "one")} == {"Ann"}
    done = [*half, said("Ann", "accept")]
    assert {v.reader for v in visible(done, "Ann", "one")} == {"Ann", "Bob"}
    assert visible(done, "Ann", "two") == []
    assert visible([said("Ann", "accept"), bob[0]], "Ann", "one")[1:] == []  # Bob is not done


def test_verdicts_are_hidden_again_after_an_undo() -> None:
    own = said("Ann", "accept")
    verdicts = [said("Bob", "fix"), own, said("Ann", "undo", undoes=own.id)]
    assert visible(verdicts, "Ann", "one") == []


def test_what_is_said_after_seeing_another_verdict_is_not_blinded() -> None:
    verdicts = [said("Ann", "fix"), said("Ann", "accept"), said("Bob", "reject"), said("Ann", "reject")]
    assert opinions(verdicts) == {"Ann": "accept", "Bob": "reject"}
    third = [*verdicts, said("Cyd", "fix")]
    assert opinions(third) == {"Ann": "accept", "Bob": "reject", "Cyd": "fix"}
    assert readers_of(third) == ["Ann", "Bob", "Cyd"]


# --- disagreements -------------------------------------------------------------------------------------------------


def test_disagreements_are_listed_with_their_outcome() -> None:
    verdicts = [said("Ann", "fix", "LA"), said("Ann", "fix"), said("Bob", "accept")]
    found = {each.structure: each for each in disagreements(verdicts)}
    assert set(found) == {"", "LA"}
    assert found["LA"].opinions == {"Ann": "fix", "Bob": "accept"}
    assert found["LA"].settled is None
    settled = disagreements([*verdicts, said("Ann", "settled", "LA", outcome="fix")])
    assert {each.structure: each.settled for each in settled} == {"": None, "LA": "fix"}
    assert disagreements(verdicts, "Cyd") == []
    assert len(disagreements(verdicts, "Bob")) == 2


def test_readers_are_compared_on_the_labels_that_both_saw() -> None:
    verdicts = [said("Ann", "fix"), said("Ann", "accept", labels=NEW), said("Bob", "accept")]
    (found,) = disagreements(verdicts)
    assert found.opinions == {"Ann": "fix", "Bob": "accept"}
    assert set(found.labels.values()) == {OLD}
    apart = [said("Ann", "fix"), said("Bob", "accept", labels=NEW)]
    assert disagreements(apart) == []


def test_readers_who_accepted_different_corrections_disagree() -> None:
    verdicts = [said("Ann", "fix"), said("Bob", "fix")]
    verdicts += [said("Ann", "accept", labels=NEW), said("Bob", "accept", labels=THIRD)]
    (found,) = disagreements(verdicts)
    assert found.labels == {"Ann": NEW, "Bob": THIRD}
    assert len(accepted(versions(verdicts, "one"))) == 2
    settled = [*verdicts, said("Bob", "settled", labels=NEW, outcome="accept")]
    assert disagreements(settled) == []
    assert [each.labels_sha256 for each in accepted(versions(settled, "one"))] == [NEW]
