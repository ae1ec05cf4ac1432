"""Save synthetic pairs of the scene as files, one job of the worker after the other."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

import slicer

from ....errors import UserError
from ....image.grid import Volume
from ....progress import Progress
from ....results.pairs import pair_name
from ....worker.job import Failure, JobListener
from ... import segmentations, volumes
from ...pairs import SyntheticPair
from ..process import Dispatcher, later
from .facts import BYTES_PER_VOXEL

if TYPE_CHECKING:
    from ....worker.messages import SavedPair


@dataclass(frozen=True)
class SaveListener:
    """Callbacks of a :class:`SaveJob`. ``done`` or ``failed`` is called once, with the number of pairs written."""

    progress: Callable[[Progress], None]
    done: Callable[[int], None]
    failed: Callable[[int, str], None]


class SaveJob:
    """Writes pairs of the scene to ``out``, one folder per pair, named as by ``cardiacldm generate``.

    Pairs of several runs are written to one folder for each run. A pair is complete or absent; the first that cannot
    be written ends the job. Raises :class:`ClientError` while another job runs.
    """

    def __init__(self, dispatcher: Dispatcher, pairs: list[SyntheticPair], out: Path, listener: SaveListener) -> None:
        self._dispatcher, self._listener = dispatcher, listener
        self._waiting = deque(zip(folders_for(pairs, out), pairs, strict=True))
        self._count, self._written = len(pairs), 0
        self._began, self._ended = time.monotonic(), False
        self._next()

    def cancel(self) -> None:
        """Stop. The pair that is being written is completed, or is absent."""
        if not self._ended and not self._dispatcher.cancel():
            self._fail(_("Cancelled."))

    def _next(self) -> None:
        if not self._waiting:
            self._end(lambda: self._listener.done(self._written))
            return
        folder, pair = self._waiting.popleft()
        if not all(slicer.mrmlScene.IsNodePresent(node) for node in (pair.volume, pair.segmentation)):
            self._count -= 1
            self._next()  # the pair was removed from the scene
            return
        self._listener.progress(Progress(self._written, self._count, "write", time.monotonic() - self._began))
        self._write(pair, folder)

    def _write(self, pair: SyntheticPair, folder: Path) -> None:
        from ....worker.messages import SavePair

        try:
            image, labels = voxels_of(pair)
        except UserError as error:
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
        except UserError as error:
            self._fail(str(error))

    def _failed(self, failure: Failure) -> None:
        self._fail(failure.message)

    def _fail(self, why: str) -> None:
        self._end(lambda: self._listener.failed(self._written, why))

    def _end(self, callback: Callable[[], None]) -> None:
        if not self._ended:
            self._ended = True
            self._dispatcher.report_end()
            callback()


def voxels_of(pair: SyntheticPair) -> tuple[Volume, Volume]:
    """Return the present CT and labels of a pair, both on the CT's grid."""
    return volumes.volume_from_node(pair.volume), segmentations.labels_from_segmentation(pair.segmentation, pair.volume)


def folders_for(pairs: list[SyntheticPair], out: Path) -> list[Path]:
    """Return a folder for each pair; pairs of different runs are kept apart."""
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


def missing_space(pairs: list[SyntheticPair], out: Path) -> str:
    """Return a sentence if the pairs may not fit on the disk of ``out``, otherwise an empty text."""
    from ....text import size_text

    voxels = sum(pair.volume.GetImageData().GetNumberOfPoints() for pair in pairs if pair.volume.GetImageData())
    try:
        free = shutil.disk_usage(out).free
    except OSError as error:
        return _("{folder} cannot be written to: {why}.").format(folder=out.name, why=error.strerror or error)
    if BYTES_PER_VOXEL * voxels <= free:
        return ""
    text = _("The pairs may take {size}, but {folder} has {free} free: make room, or choose another folder.")
    return text.format(size=size_text(BYTES_PER_VOXEL * voxels), folder=out.name, free=size_text(free))
