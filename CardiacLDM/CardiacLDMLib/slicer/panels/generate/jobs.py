"""Generate pairs into the scene, one job of the worker after the other, while the window keeps responding.

The next pair is requested before the last one is put into the scene, so that the worker never waits and no other job
comes in between. Pairs that arrived before a cancellation or failure stay.
"""

from __future__ import annotations

import datetime
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

import slicer

from .... import __version__
from ....errors import ClientError, UserError
from ....progress import Preview, Progress
from ....worker.job import Failure, JobListener
from ... import pairs
from ...pairs import SyntheticPair
from ..process import Dispatcher, Sliced
from ..scene_jobs import crop_to_box, find_labels

if TYPE_CHECKING:
    from ....worker.messages import GeneratedPair

#: Upper limit of the number of pairs: more than any scene can hold.
MAX_COUNT = 100_000


@dataclass(frozen=True)
class PairSettings:
    """Settings for pairs 0 to ``count`` - 1 of ``seed``.

    ``package``: name or folder, None for the one that ships. ``steps``: None for the package's default. With
    ``check`` a pair is generated again until it passes the checks.
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
    """Callbacks of a :class:`PairsJob`.

    ``pair`` may return steps that show the pair, with pauses for the window. ``done``, ``failed`` or ``cancelled`` is
    called once, when all pairs that arrived are in the scene. ``done`` gets a sentence for each pair that never passed
    the checks, and the worker's warnings.
    """

    progress: Callable[[int, Progress], None]
    preview: Callable[[Preview], None]
    pair: Callable[[SyntheticPair], Iterator[None] | None]
    done: Callable[[list[str]], None]
    failed: Callable[[Failure], None]
    cancelled: Callable[[], None]


class PairsJob:
    """Generates pairs into the open scene; ``pairs`` holds those that have arrived there.

    The job is cancelled when the scene is closed. Raises :class:`ClientError` for an invalid count and while another
    job runs, and :class:`JobError` for invalid settings.
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
        self._warnings: list[str] = []
        self._arrived: deque[GeneratedPair] = deque()
        self._import: Sliced | None = None
        self._outcome: Callable[[], None] | None = None  # called when all pairs that arrived are in the scene
        self._ended = False
        self._submit()
        self._tag = self._scene.AddObserver(self._scene.StartCloseEvent, lambda *_: self._scene_closes())

    @property
    def running(self) -> bool:
        """Whether the job has not ended yet."""
        return not self._ended

    def cancel(self) -> None:
        """Stop. ``cancelled`` is called when the worker has stopped and the pairs that arrived are in the scene."""
        if not self._ended and self._outcome is None and not self._dispatcher.cancel():
            self._stop(self._listener.cancelled)  # the pair had not begun: no callback follows

    # --- the worker's part ---

    def _submit(self) -> None:
        from ....worker.messages import GeneratePair, explain_invalid_values

        settings = self._settings
        with explain_invalid_values():
            request = GeneratePair(
                seed=settings.seed, index=self._index, package=settings.package, steps=settings.steps,
                conditions=dict(settings.conditions), check=settings.check, device=settings.device,
            )  # fmt: skip
        listener = JobListener(
            done=self._generated, failed=self._failed, cancelled=lambda: self._stop(self._listener.cancelled),
            progress=self._progress, preview=self._preview,
        )  # fmt: skip
        self._dispatcher.submit(request, listener)

    def _progress(self, progress: Progress) -> None:
        """Report the progress of all pairs. It never falls, not even when a pair is generated again."""
        if self._ended or self._outcome is not None:
            return
        self._reached = max(self._reached, self._index + progress.step / progress.total)
        seconds = time.monotonic() - self._began
        total = 100 * self._settings.count
        self._listener.progress(self._index, Progress(int(100 * self._reached), total, progress.stage, seconds))

    def _preview(self, preview: Preview) -> None:
        if not self._ended:
            self._listener.preview(preview)

    def _generated(self, reply: GeneratedPair) -> None:
        if not self._ended:
            self._arrived.append(reply)
            self._warnings += [warning for warning in reply.warnings if warning not in self._warnings]
            self._next()
            self._import_next()

    def _failed(self, failure: Failure) -> None:
        if failure.kind == "rejected":
            self._warnings.append(failure.message)
            self._next()
        else:
            self._stop(lambda: self._listener.failed(failure))

    def _next(self) -> None:
        self._index += 1
        if self._index == self._settings.count:
            self._stop(lambda: self._listener.done(self._warnings))
            return
        try:
            self._submit()
        except UserError as error:
            failure = Failure.from_error(error)
            self._stop(lambda: self._listener.failed(failure))

    # --- the scene's part ---

    def _import_next(self) -> None:
        if self._import is None and self._arrived and not self._ended:
            self._import = Sliced(self._import_pair(self._arrived.popleft()), self._imported)

    def _import_pair(self, reply: GeneratedPair) -> Iterator[None]:
        """Put a pair into the scene and show it."""
        box, _at_edge = yield from find_labels(reply.labels.array)
        number = f"{reply.provenance['seed']}-{reply.provenance['index']:04d}"
        names = (self._folder, _("Synthetic {number}").format(number=number))
        record = {**_record(reply), "run": self._run}
        yield
        pair = yield from pairs.pair_in_steps(self._scene, reply.image, crop_to_box(reply.labels, box), record, names)
        self.pairs.append(pair)
        yield
        yield from self._listener.pair(pair) or ()

    def _imported(self, error: Exception | None) -> None:
        self._import = None
        if error is not None:
            self._arrived.clear()
            failure = Failure(_("The pair cannot be shown: {why}").format(why=error), "", "internal")
            self._dispatcher.cancel()
            self._outcome = lambda: self._listener.failed(failure)
        self._import_next()
        self._end_if_complete()

    # --- ends ---

    def _stop(self, outcome: Callable[[], None]) -> None:
        """Generate no further pair."""
        self._outcome = self._outcome or outcome
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if self._outcome is not None and self._import is None and not self._arrived and not self._ended:
            self._ended = True
            self._scene.RemoveObserver(self._tag)
            self._dispatcher.report_end()
            self._outcome()

    def _scene_closes(self) -> None:
        self._arrived.clear()
        if self._import is not None:
            self._import.stop()
            self._import = None
        if self._outcome is not None or not self._dispatcher.cancel():
            self._outcome = self._listener.cancelled
            self._end_if_complete()


def _record(reply: GeneratedPair) -> dict[str, str]:
    """Return the provenance that both nodes of a pair carry as attributes."""
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
