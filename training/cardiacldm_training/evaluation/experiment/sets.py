"""The sets of cases of an experiment: virtual ones are made, all are prepared on the network's grid."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from CardiacLDMLib.files import write_json
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import plural

from ...cases import store
from ...errors import EvaluationError
from ...virtual.cohort import CohortSettings, write_cohort
from .plan import Plan, Source, Virtual

COHORTS, PREPARED, DIGESTS = "cohorts", "prepared", "sets.json"


@dataclass(frozen=True)
class Sets:
    """The prepared cases of each set, by its name."""

    cases: Mapping[str, list[store.PreparedCase]]

    def first(self, names: Sequence[str], count: int | None) -> list[store.PreparedCase]:
        """Return the first ``count`` cases of sets together; None: all. Raises EvaluationError if they have fewer."""
        cases = [case for name in names for case in self.cases[name]]
        if count is not None and len(cases) < count:
            text = " and ".join(map(repr, names))
            raise EvaluationError(f"The set {text} has {plural(len(cases), 'case')}, but {count} are needed.")
        return cases[:count]


def prepare_sets(plan: Plan, names: Collection[str], out: Path, workers: int, say: Say) -> Sets:
    """Make and prepare the named sets of a plan.

    Raises :class:`EvaluationError` for a case that cannot be used, too few cases, a case of a test that is in another
    set too, and cases that changed since the experiment began; DatasetError, AnatomyError.
    """
    prepared = {}
    for name, source in plan.sets.items():
        if name in names:
            folders = _make_cohort(name, source, out, workers, say) if isinstance(source, Virtual) else source.folders
            prepared[name] = _prepare(name, source, folders, plan.network.spacing_mm, out, workers)
            say(f"{name}: {plural(len(prepared[name].cases), 'case')}.")
    _refuse_known_tests(plan.tests, prepared)
    _keep_digests({name: part.digest for name, part in prepared.items()}, out)
    return Sets({name: part.cases for name, part in prepared.items()})


def _make_cohort(name: str, source: Virtual, out: Path, workers: int, say: Say) -> tuple[Path, ...]:
    """Write a virtual cohort, or what it lacks. Sets of the same settings share their cases."""
    settings, started = CohortSettings(**source.model_dump(exclude={"kind", "cases"})), time.monotonic()
    digest = hashlib.sha256(json.dumps(settings.record(), sort_keys=True).encode()).hexdigest()
    folder = out / COHORTS / f"{source.appearance}-{source.seed}-{digest[:8]}"
    failed = write_cohort(settings, source.cases, folder, workers)
    if failed:
        raise EvaluationError(f"The cohort {name!r} lacks {plural(len(failed), 'case')}: {failed[0]}")
    say(f"Cohort {name}: {plural(source.cases, 'case')}, {time.monotonic() - started:.0f} s.")
    return (folder,)


def _prepare(
    name: str, source: Source, folders: tuple[Path, ...], spacing_mm: float, out: Path, workers: int
) -> store.Prepared:
    files = store.gather(folders, out / PREPARED)
    count = source.cases or len(files)
    if len(files) < count:
        raise EvaluationError(f"The set {name!r} has {plural(len(files), 'case')}, but the plan needs {count}.")
    prepared = store.prepare(files[:count], spacing_mm, workers=workers)
    if prepared.skipped:
        case, reason = prepared.skipped[0]
        raise EvaluationError(f"The case {case} of the set {name!r} cannot be used: {reason}")
    empty = [case.name for case in prepared.cases if (case.points[:, 0, 0] < 0).all()]
    if empty:
        raise EvaluationError(
            f"The case {empty[0]} of the set {name!r} cannot be used: its labels are too small for {spacing_mm:g} mm."
        )
    return prepared


def _refuse_known_tests(tests: Collection[str], prepared: Mapping[str, store.Prepared]) -> None:
    """Raise :class:`EvaluationError` for a case of a test that is in another set too, perhaps by another name."""
    tested = {case.key: name for name in tests if name in prepared for case in prepared[name].cases}
    for name, part in prepared.items():
        known = [case for case in part.cases if name not in tests and case.key in tested]
        if known:
            raise EvaluationError(
                f"The case {known[0].name} of the set {name!r} is in the set {tested[known[0].key]!r} too: what is "
                "tested must be new to the networks."
            )


def _keep_digests(digests: Mapping[str, str], out: Path) -> None:
    """Store the digests of sets. Raises :class:`EvaluationError` if one is not what it was."""
    path = out / DIGESTS
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} is damaged: choose another folder.") from error
    for name, digest in digests.items():
        if known.get(name, digest) != digest:
            raise EvaluationError(f"The cases of {name!r} are not those that {out} began with: choose another folder.")
    write_json(path, {**known, **digests})
