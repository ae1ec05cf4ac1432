"""A whole pipeline: divide the cases, estimate, do the steps, report."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.files import claim_folder
from CardiacLDMLib.progress import Say
from CardiacLDMLib.results.case_files import check_folder
from CardiacLDMLib.text import size_text

from ..cases import store
from ..cases.readers.files import CaseFiles, ImageFiles
from ..cases.readers.label_map import read_label_map
from ..cases.readers.layouts import Reading, find_cases
from ..cases.splits import read_fold
from ..cases.store import full_name
from ..cases.workers import usual_workers
from ..errors import ConfigError, DatasetError, TrainingError
from ..stages import generator_presets, presets
from . import costs
from .costs import Cost
from .record import PipelineRecord, read_record, write_record
from .report import Contents, write_report
from .runner import describe_end, run_command, run_steps
from .steps import Budget, Data, Machine, Places, Settings, Step, make_steps, places_in

SPLIT_FILE = "split.json"

#: Called with the missing steps, the cost of each by name, and the sum.
Show = Callable[[Sequence[Step], Mapping[str, Cost], Cost], None]


@dataclass(frozen=True)
class Request:
    """What to make of which folder of cases, and where.

    ``split``: a file of ``cardiacldm data split``; None: it is made. ``labels_map``: see :class:`Data`.
    """

    settings: Settings
    folder: Path
    out: Path
    machine: Machine
    split: Path | None = None
    labels_map: Path | None = None


def run_pipeline(request: Request, *, resume: bool, say: Say, show: Show) -> list[Path]:
    """Do what is missing; return the folders of the packages.

    Raises ConfigError, DatasetError, OutputError, TrainingError, DeviceError, and ``Stopped``.
    """
    settings, out = request.settings, request.out.absolute()
    places = places_in(out, settings.name)
    if request.folder.absolute() in (out, *out.parents):
        raise ConfigError(f"{out.name} lies within the folder of the scans: choose one outside it.")
    check_folder(out)
    with claim_folder(out):  # two pipelines in one folder would overwrite each other
        known = read_record(out)
        if known is not None and not resume:
            raise ConfigError(f"{out.name} holds a pipeline already: add --resume, or choose another folder.")
        cases = divide(request, places)
        work = costs.budget(settings, len(cases.train))
        steps = make_steps(settings, work, cases.data, places, request.machine)
        record = PipelineRecord(settings=settings, steps=known.steps if known else {})
        expected = _expect(request, work, cases, places)
        _announce(steps, record, expected, out, show)
        write_record(record, out)
        sources = [cases.data.folder, cases.data.split, *filter(None, [cases.data.labels_map])]
        seconds = {name: cost.seconds for name, cost in expected.items()}
        ended = run_steps(steps, record, out, sources, expected=seconds, say=say)
        say(describe_end(ended))
        device = request.machine.device
        write_report(Contents(settings, places, steps, ended, len(cases.train), cases.kept_aside, device))
    own = [] if "generate" in settings.skip or settings.generator else [places.generator_package]
    return [*own, places.segmenter_package]


def _announce(
    steps: Sequence[Step], record: PipelineRecord, expected: Mapping[str, Cost], out: Path, show: Show
) -> None:
    """Show what the steps that are not done take. Raises ``OutputError`` if the disk is too small."""
    missing = [step for step in steps if step.name not in record.steps or record.steps[step.name].results is None]
    needed = costs.total(expected, [step.name for step in missing])
    show(missing, expected, needed)
    free = shutil.disk_usage(out).free
    if needed.disk_bytes > free:
        raise OutputError(
            f"The pipeline needs about {size_text(needed.disk_bytes)}, but {out.name} has {size_text(free)} free: make "
            "room, or choose another disk."
        )


# --- the cases -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Division:
    """The cases to train on, those to validate on among them, and those kept aside."""

    data: Data
    train: Sequence[ImageFiles]
    kept_aside: Sequence[CaseFiles]


def divide(request: Request, places: Places) -> Division:
    """Return the cases by part, by the split of the request or by one that is made and extended here.

    Raises DatasetError, ConfigError, and TrainingError for too few cases.
    """
    folder, split = request.folder.absolute(), request.split.absolute() if request.split else None
    labels_map = request.labels_map.absolute() if request.labels_map else None
    reading = Reading(request.settings.layout, read_label_map(labels_map) if labels_map else None)
    cases = find_cases(folder, reading)
    if split is None:
        patients = len({case.patient or case.name for case in cases})
        split = _own_split(request, folder, places.out / SPLIT_FILE, patients)
    fold = read_fold(split, 0)
    parts = [(case, fold.part(full_name(folder, case.name))) for case in cases]
    train = [case for case, part in parts if part in ("train", "validation")]
    kept = [case for case, part in parts if part == "test"]
    if len(train) < 2:
        raise TrainingError(f"Training needs at least two cases, and {folder.name} has {len(train)} for it.")
    if not kept and "evaluate" not in request.settings.skip:
        raise DatasetError(f"{split.name} keeps no case aside: make one with --test, or add --skip evaluate.")
    return Division(Data(folder, split, labels_map), train, kept)


def _own_split(request: Request, folder: Path, path: Path, patients: int) -> Path:
    """Keep a fifth of the patients aside, and divide the others into folds; extend a split that is there."""
    share = 0.0 if "evaluate" in request.settings.skip else 0.2
    folds = max(min(5, int((1 - share) * patients)), 2)
    layout = () if request.settings.layout is None else ("--layout", request.settings.layout)
    begun = ("--extend",) if path.exists() else ("--folds", str(folds), "--test", str(share))
    seed = ("--seed", str(request.settings.seed))
    if run_command(("data", "split", str(folder), *layout, "--out", str(path), *begun, *seed)):
        raise DatasetError("The cases could not be divided (see above).")
    return path


# --- what it takes -------------------------------------------------------------------------------------------------


def _expect(request: Request, work: Budget, cases: Division, places: Places) -> dict[str, Cost]:
    """Return the cost of each step by its name. The trial has a process of its own, whose memory ends with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        expected = process.submit(costs.estimate, request.settings, work, request.machine.device).result()
    reading = _cost_of_reading(request, cases, places)
    first = "autoencoder" if "autoencoder" in expected else "segmenter"
    known = expected[first]
    expected[first] = replace(
        known, seconds=known.seconds + reading.seconds, disk_bytes=known.disk_bytes + reading.disk_bytes
    )
    return expected


def _cost_of_reading(request: Request, cases: Division, places: Places) -> Cost:
    """Prepare the first case at each spacing, as training will, and return the cost of all."""
    spacings = set(presets.spacings(request.settings.preset).values())
    if "generate" not in request.settings.skip and not request.settings.generator:
        spacings.add(generator_presets.grid_of(request.settings.preset)[1])
    began, size = time.monotonic(), 0
    for files in cases.train:
        try:
            for spacing in spacings:
                entry = store.prepare_case(files, places.prepared, spacing).folder
                size += sum(path.stat().st_size for path in entry.iterdir())
        except ValueError:  # training names it
            continue
        break
    workers = request.machine.workers if request.machine.workers is not None else usual_workers()
    count = len(cases.train)
    return Cost((time.monotonic() - began) * count / max(workers, 1), float(size * count))
