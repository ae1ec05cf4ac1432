"""Drawing pairs into the scene, and saving them as files: one job of the worker after the other, the window lives on.

The next pair is asked for before the one that came is brought in: so no other job comes between, and the worker waits
for nobody. What came before a cancellation or a failure stays.
"""

from __future__ import annotations

import datetime
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

import slicer

from .... import __version__
from ....errors import ClientError, VolumeError
from ....image.grid import Volume
from ....progress import Preview, Progress
from ....results.pairs import pair_name
from ....worker.job import Failure, JobListener
from ... import pairs, segmentations, volumes
from ...pairs import SyntheticPair
from ..process import Dispatcher, Sliced, later
from ..scene_jobs import looked_through, part_of

if TYPE_CHECKING:
    from ....worker.messages import GeneratedPair, SavedPair

#: More pairs than any scene could hold.
MAX_COUNT = 100_000


@dataclass(frozen=True)
class PairSettings:
    """What to draw: pairs 0 to ``count`` - 1 of ``seed``.

    ``package``: name or folder, None for the one that ships; ``steps``: None for the package's own. With ``check`` a
    pair is drawn again until it may be kept.
    """

    package: str | None = None
    count: int = 1
    seed: int = 0
    steps: int | None = None
    conditions: Mapping[str, str | float] = field(default_factory=dict)
    device: str = "auto"
    check: bool = True


@dataclass(frozen=True)
class PairListener:
    """Who is told. Exactly one of the last three is called, once, when the last pair that came is in the scene.

    ``done`` hears of the pairs that were never accepted, a sentence each.
    """

    progress: Callable[[int, Progress], None]
    preview: Callable[[Preview], None]
    pair: Callable[[SyntheticPair], None]
    done: Callable[[list[str]], None]
    failed: Callable[[Failure], None]
    cancelled: Callable[[], None]


class PairsJob:
    """Draws pairs into the scene that is open; ``pairs`` are those that are there.

    Cancelled when the scene is closed. Raises :class:`ClientError` for a count that cannot be, and while another job
    runs.
    """

    def __init__(self, dispatcher: Dispatcher, settings: PairSettings, listener: PairListener) -> None:
        if not 1 <= settings.count <= MAX_COUNT:
            raise ClientError(_("Ask for 1 to {most} pairs, not {n}.").format(most=MAX_COUNT, n=settings.count))
        self.pairs: list[SyntheticPair] = []
        self._dispatcher, self._settings, self._listener = dispatcher, settings, listener
        self._scene = slicer.mrmlScene
        self._folder = pairs.unused_folder(self._scene, _("Synthetic pairs, seed {n}").format(n=settings.seed))
        self._run = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self._index, self._reached, self._began = 0, 0.0, time.monotonic()
        self._rejected: list[str] = []
        self._arrived: deque[GeneratedPair] = deque()
        self._import: Sliced | None = None
        self._outcome: Callable[[], None] | None = None  # what is told once all that arrived is in the scene
        self._ended = False
        self._submit()
        self._tag = self._scene.AddObserver(self._scene.StartCloseEvent, lambda *_: self._scene_goes())

    @property
    def running(self) -> bool:
        """Whether the job has not ended yet."""
        return not self._ended

    def cancel(self) -> None:
        """Stop; ``cancelled`` is called when the worker has stopped and the pairs that came are in the scene."""
        if not self._ended and self._outcome is None and not self._dispatcher.cancel():
            self._stop(self._listener.cancelled)  # the pair had not begun: nobody else will say so

    # --- the worker's part ---

    def _submit(self) -> None:
        from ....worker.messages import GeneratePair, invalid_values_explained

        settings = self._settings
        with invalid_values_explained():
            request = GeneratePair(
                seed=settings.seed, index=self._index, package=settings.package, steps=settings.steps,
                conditions=dict(settings.conditions), check=settings.check, device=settings.device,
            )  # fmt: skip
        listener = JobListener(
            done=self._drawn, failed=self._failed, cancelled=lambda: self._stop(self._listener.cancelled),
            progress=self._progress, preview=self._preview,
        )  # fmt: skip
        self._dispatcher.submit(request, listener)

    def _progress(self, progress: Progress) -> None:
        """Of all pairs. It never falls, also where a pair is drawn again."""
        if self._ended or self._outcome is not None:
            return
        self._reached = max(self._reached, self._index + progress.step / progress.total)
        seconds = time.monotonic() - self._began
        total = 100 * self._settings.count
        self._listener.progress(self._index, Progress(int(100 * self._reached), total, progress.stage, seconds))

    def _preview(self, preview: Preview) -> None:
        if not self._ended:
            self._listener.preview(preview)

    def _drawn(self, reply: GeneratedPair) -> None:
        if not self._ended:
            self._arrived.append(reply)
            self._next()
            self._bring_in_next()

    def _failed(self, failure: Failure) -> None:
        if failure.kind == "rejected":
            self._rejected.append(failure.message)
            self._next()
        else:
            self._stop(lambda: self._listener.failed(failure))

    def _next(self) -> None:
        self._index += 1
        if self._index == self._settings.count:
            self._stop(lambda: self._listener.done(self._rejected))
            return
        try:
            self._submit()
        except ClientError as error:
            failure = Failure(str(error), "", "internal")
            self._stop(lambda: self._listener.failed(failure))

    # --- the scene's part ---

    def _bring_in_next(self) -> None:
        if self._import is None and self._arrived and not self._ended:
            self._import = Sliced(self._bring_in(self._arrived.popleft()), self._brought_in)

    def _bring_in(self, reply: GeneratedPair) -> Iterator[None]:
        """Put a pair into the scene. Nothing is there before the last step, all of it after."""
        box, _at_edge = yield from looked_through(reply.labels.array)
        number = f"{reply.provenance['seed']}-{reply.provenance['index']:04d}"
        names = (self._folder, _("Synthetic {number}").format(number=number))
        record = {**_record(reply), "run": self._run}
        yield
        pair = yield from pairs.pair_in_steps(self._scene, reply.image, part_of(reply.labels, box), record, names)
        self.pairs.append(pair)
        yield
        self._listener.pair(pair)

    def _brought_in(self, error: Exception | None) -> None:
        self._import = None
        if error is not None:
            self._arrived.clear()
            failure = Failure(_("The pair cannot be shown: {why}").format(why=error), "", "internal")
            self._dispatcher.cancel()
            self._outcome = lambda: self._listener.failed(failure)
        self._bring_in_next()
        self._end_if_all_is_in()

    # --- ends ---

    def _stop(self, outcome: Callable[[], None]) -> None:
        """No further pair is drawn."""
        self._outcome = self._outcome or outcome
        self._end_if_all_is_in()

    def _end_if_all_is_in(self) -> None:
        if self._outcome is not None and self._import is None and not self._arrived and not self._ended:
            self._ended = True
            self._scene.RemoveObserver(self._tag)
            self._dispatcher.ended()
            self._outcome()

    def _scene_goes(self) -> None:
        self._arrived.clear()
        if self._import is not None:
            self._import.stop()
            self._import = None
        if self._outcome is not None or not self._dispatcher.cancel():
            self._outcome = self._listener.cancelled
            self._end_if_all_is_in()


def _record(reply: GeneratedPair) -> dict[str, str]:
    """What both nodes of a pair say of their origin."""
    origin = reply.provenance
    acceptance = origin.get("acceptance", {})
    return {
        "program": f"CardiacLDM {__version__}",
        "package": origin["package"]["name"],
        "version": origin["package"]["version"],
        "sha256": origin["package"]["sha256"],
        **{name: str(origin[name]) for name in ("seed", "index", "attempt", "steps", "guidance", "solver")},
        "conditions": json.dumps(origin["conditions"]),
        "drawn_conditions": json.dumps(origin.get("drawn_conditions", {})),
        "agreement": str(acceptance.get("agreement", "")),
        "device": reply.device,
        "seconds": f"{reply.seconds:.1f}",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "notice": origin.get("notice", ""),
        "provenance": json.dumps(origin),
    }


# --- saving --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SaveListener:
    """Who is told. Exactly one of the last two is called, once, with how many pairs were written."""

    progress: Callable[[Progress], None]
    done: Callable[[int], None]
    failed: Callable[[int, str], None]


class SaveJob:
    """Writes pairs as they are in the scene now to ``out``: a folder each, as ``cardiacldm generate`` names them.

    Pairs of several runs go to a folder for each run. A pair is whole or absent; the first that cannot be written ends
    the job. Raises :class:`ClientError` while another job runs.
    """

    def __init__(self, dispatcher: Dispatcher, pairs: list[SyntheticPair], out: Path, listener: SaveListener) -> None:
        self._dispatcher, self._listener = dispatcher, listener
        self._waiting = deque(zip(folders_for(pairs, out), pairs, strict=True))
        self._count, self._written = len(pairs), 0
        self._began, self._ended = time.monotonic(), False
        self._next()

    def cancel(self) -> None:
        """Stop; the pair that is being written is finished, or is not there."""
        if not self._ended and not self._dispatcher.cancel():
            self._fail(_("Cancelled."))

    def _next(self) -> None:
        if not self._waiting:
            self._end(lambda: self._listener.done(self._written))
            return
        folder, pair = self._waiting.popleft()
        if not all(slicer.mrmlScene.IsNodePresent(node) for node in (pair.volume, pair.segmentation)):
            self._count -= 1
            self._next()  # it was removed meanwhile
            return
        self._listener.progress(Progress(self._written, self._count, "write", time.monotonic() - self._began))
        self._write(pair, folder)

    def _write(self, pair: SyntheticPair, folder: Path) -> None:
        from ....worker.messages import SavePair

        try:
            image, labels = voxels_of(pair)
        except VolumeError as error:
            why = str(error)
            later(0.0, lambda: self._fail(why))  # never from within the constructor
            return
        request = SavePair(image=image, labels=labels, provenance=pair.provenance, out=folder)
        listener = JobListener(done=self._done, failed=self._failed, cancelled=lambda: self._fail(_("Cancelled.")))
        self._dispatcher.submit(request, listener)

    def _done(self, _reply: SavedPair) -> None:
        self._written += 1
        try:
            self._next()
        except ClientError as error:
            self._fail(str(error))

    def _failed(self, failure: Failure) -> None:
        self._fail(failure.message)

    def _fail(self, why: str) -> None:
        self._end(lambda: self._listener.failed(self._written, why))

    def _end(self, tell: Callable[[], None]) -> None:
        if not self._ended:
            self._ended = True
            self._dispatcher.ended()
            tell()


def voxels_of(pair: SyntheticPair) -> tuple[Volume, Volume]:
    """CT and labels as they are in the scene now, on the CT's grid."""
    return volumes.volume_from_node(pair.volume), segmentations.labels_from_segmentation(pair.segmentation, pair.volume)


def folders_for(pairs: list[SyntheticPair], out: Path) -> list[Path]:
    """A folder for each pair; pairs of several runs are kept apart."""
    keys = [(volumes.provenance(pair.volume).get("run", ""), pair.provenance.get("seed", 0)) for pair in pairs]
    runs = {key: f"seed_{key[1]}" for key in keys}
    if len(runs) > 1:
        numbered = {key: f"run_{number}_{name}" for number, (key, name) in enumerate(runs.items(), start=1)}
        parents = [out / numbered[key] for key in keys]
    else:
        parents = [out] * len(pairs)
    return [
        parent / pair_name(pair.provenance.get("index", number))
        for number, (parent, pair) in enumerate(zip(parents, pairs, strict=True))
    ]
