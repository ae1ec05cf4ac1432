"""Reads cases in another process, so that the next one is in the scene before the reader asks for it.

The process needs no torch and is apart from that of the other tabs: a segmentation may run meanwhile. It reads and
checks one case after the other: first what the reader waits for, then the next case, then all others on request.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

import slicer

from ....errors import UserError, VolumeError
from ....image.grid import Volume
from ....review import sources
from ....review.cache import content_hash, mark_of
from ....review.worklist import Worklist
from ....worker.job import Failure, JobListener
from ... import segmentations, volumes
from ..process import Dispatcher, Sliced, later
from ..scene_jobs import crop_to_box, find_labels
from .nodes import CaseNodes, nodes_in_steps, nodes_of_scene

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

    from ....segmentation.findings import Finding
    from ....worker.messages import Request
    from ....worker.review_messages import CheckedReview, OpenedReview

#: Cases that stay in the scene: the one that is looked at, the next and the one before.
KEPT = 3
#: Seconds after which other cases leave it.
LEAVE_SECONDS = 0.3
#: Seconds after which new findings are written to the disk.
SAVE_SECONDS = 5.0


class CaseLoader:
    """Loads cases of ``worklist``. ``dispatcher``: of a process that only this uses.

    ``in_scene``: the segmentations of cases that lie in the scene already, by case. ``loaded`` is called with a case's
    name when its nodes are in the scene or it cannot be read, ``checked`` when its findings are known. ``nodes``,
    ``failures``: what became of each case.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        worklist: Worklist,
        in_scene: dict[str, vtkMRMLSegmentationNode],
        loaded: Callable[[str], None],
        checked: Callable[[str], None],
    ) -> None:
        self._worklist, self._loaded, self._checked = worklist, loaded, checked
        self._in_scene = in_scene
        self._dispatcher = dispatcher
        self.nodes: dict[str, CaseNodes] = {}
        self.failures: dict[str, str] = {}
        self.hashes: dict[str, str] = {}  # of the labels that are in the scene
        self.labels: dict[str, Volume] = {}  # these labels
        self._unchecked: dict[str, str] = {}  # cases whose labels cannot be checked, with the reason
        self._before: str | None = None
        self._current: str | None = None
        self._ahead: str | None = None
        self._all: list[str] = []  # cases that are still to be checked on request
        self._asked: list[tuple[Request[Any], JobListener[Any]]] = []
        self._running = False
        self._import: Sliced | None = None
        self._saving: Any = None  # runs while findings are not on the disk yet
        self._leaving: Any = None  # runs while cases are to leave the scene
        self._closed = False

    # --- what the panel asks for ---

    def want(self, current: str | None, ahead: str | None) -> None:
        """Load the case that is looked at, then the next one. Others leave the scene, but for the one before."""
        if current != self._current:
            self._before, self._current = self._current, current
            if current in self._in_scene:
                self.nodes.pop(current, None)  # the user may have changed it meanwhile
        self._ahead = ahead
        if self._leaving is None:
            self._leaving = later(LEAVE_SECONDS, self._drop_others)
        self.go_on()

    def _drop_others(self) -> None:
        """Take cases that are not near out of the scene: later than the reader asks for another, who must not wait."""
        self._leaving = None
        keep = {self._current, self._ahead, self._before}
        for name in [name for name in self.nodes if name not in keep and len(self.nodes) > KEPT]:
            self.drop(name)

    def ask(self, request: Request[Any], done: Callable[[Any], None], failed: Callable[[Failure], None]) -> None:
        """Carry out a request before anything else."""
        self._asked.append((request, self._listener(done, failed)))
        self.go_on()

    def corrected(self, name: str, labels_sha256: str, labels: Volume) -> None:
        """Take note of corrected labels of a case, which are in the scene: they are checked again."""
        if name in self.nodes:
            self.hashes[name], self.labels[name] = labels_sha256, labels
        self._unchecked.pop(name, None)
        self.go_on()

    def check_all(self, names: list[str]) -> None:
        """Check these cases in the background, as far as their findings are not known; none ends it."""
        self._all = [name for name in names if self.findings(name) is None and name not in self._unchecked]
        self.go_on()

    @property
    def is_of_scene(self) -> bool:
        """Whether the cases lie in the scene: they are the user's own segmentations."""
        return bool(self._in_scene)

    @property
    def left(self) -> int:
        """How many cases are still to be checked on request."""
        return len(self._all)

    def findings(self, name: str) -> list[Finding] | None:
        """Return the findings of a case, worst first; None while they are not known."""
        return self._worklist.known_findings(name)

    def why_unchecked(self, name: str) -> str:
        """Return why a case cannot be checked; empty if it can."""
        return self._unchecked.get(name, "")

    def drop(self, name: str) -> None:
        """Take a case out of the scene."""
        nodes = self.nodes.pop(name, None)
        if nodes is not None:
            nodes.remove()
        self.failures.pop(name, None)
        self.hashes.pop(name, None)
        self.labels.pop(name, None)
        self._unchecked.pop(name, None)

    def forget(self) -> None:
        """The scene is closed: its nodes are gone."""
        if self._import is not None:
            self._import.stop()
            self._import = None
            self._running = False
        self.nodes.clear()
        self.failures.clear()
        self.hashes.clear()
        self.labels.clear()
        self._before = self._current = self._ahead = None
        self._all = []

    def close(self) -> None:
        """Take all cases out of the scene and do nothing more."""
        self._closed = True
        self._asked.clear()
        if self._running:
            self._dispatcher.cancel()
        for timer in (self._saving, self._leaving):
            if timer is not None:
                timer.stop()
        self._worklist.cache.save()
        for name in list(self.nodes):
            self.drop(name)
        self.forget()

    # --- one job after the other ---

    def go_on(self) -> None:
        """Begin the next job, if none runs."""
        if self._running or self._closed or self._dispatcher.busy:
            return
        job = self._asked.pop(0) if self._asked else self._next()
        if job is None:
            return
        request, listener = job
        self._running = True
        try:
            self._dispatcher.submit(request, listener)
        except UserError as error:
            listener.failed(Failure.from_error(error))

    def _next(self) -> tuple[Request[Any], JobListener[Any]] | None:
        for name in (self._current, self._ahead):
            if name is not None and name not in self.nodes and name not in self.failures:
                if name not in self._in_scene:
                    return self._open(name)
                self._running = True
                work = self._find_in_scene(name)
                self._import = Sliced(work, lambda error, name=name: self._imported(name, error))  # type: ignore[misc]
                return None
            if name is not None and name in self.nodes and self._needs_check(name):
                return self._check(name)
        while self._all:
            name = self._all[0]
            if self._needs_check(name) and (name in self.nodes or name not in self._in_scene):
                return self._check(name)
            del self._all[0]  # its findings have become known: another case has the same labels
            later(0.0, lambda name=name: None if self._closed else self._checked(name))  # type: ignore[misc]
        return None

    def _needs_check(self, name: str) -> bool:
        return self.findings(name) is None and name not in self._unchecked

    def _ended(self) -> None:
        self._running = False
        self._dispatcher.report_end()
        self.go_on()

    def _listener(self, done: Callable[[Any], None], failed: Callable[[Failure], None]) -> JobListener[Any]:
        def end(call: Callable[[Any], None], value: Any) -> None:
            if not self._closed:
                call(value)
                self._ended()

        return JobListener(
            done=lambda reply: end(done, reply), failed=lambda failure: end(failed, failure),
            cancelled=lambda: end(lambda _unused: None, None),
        )  # fmt: skip

    # --- opening ---

    def _open(self, name: str) -> tuple[Request[Any], JobListener[Any]]:
        from ....worker.review_messages import OpenReview

        files = self.files(name)
        marks = [mark_of(paths) for paths in self._hashed(name)]

        def failed(failure: Failure) -> None:
            self.failures[name] = failure.message
            self._loaded(name)
            self._ended()

        def done(reply: OpenedReview) -> None:
            digests = (reply.labels_sha256, reply.image_sha256)
            for paths, mark, digest in zip(self._hashed(name), marks, digests, strict=True):
                if paths and digest:
                    self._worklist.cache.keep_hash(paths, mark, digest)
            self._import = Sliced(self._into_scene(name, reply), lambda error: self._imported(name, error))

        def unless_closed(call: Callable[[Any], None]) -> Callable[[Any], None]:
            return lambda value: None if self._closed else call(value)

        listener: JobListener[Any] = JobListener(
            done=unless_closed(done), failed=unless_closed(failed), cancelled=self._ended
        )
        return OpenReview(**files), listener

    def _into_scene(self, name: str, reply: OpenedReview) -> Iterator[None]:
        image = reply.image if reply.has_image else None
        is_synthetic = _is_synthetic(self._worklist[name])
        self.nodes[name] = yield from nodes_in_steps(slicer.mrmlScene, name, reply.labels, image, is_synthetic)
        self.hashes[name], self.labels[name] = reply.labels_sha256, reply.labels

    def _imported(self, name: str, error: Exception | None) -> None:
        self._import = None
        if error is not None:
            self.failures[name] = _("The case cannot be shown: {why}").format(why=error)
        self._loaded(name)
        self._ended()

    def _find_in_scene(self, name: str) -> Iterator[None]:
        """Take the nodes and the labels of a case from the scene."""
        node = self._in_scene[name]
        nodes = nodes_of_scene(node) if slicer.mrmlScene.IsNodePresent(node) else None
        if nodes is None:
            self.failures[name] = _("The segmentation or its scan is not in the scene any more.")
            return
        try:
            labels = yield from segmentations.labels_in_steps(nodes.segmentation, nodes.volume)
        except VolumeError as error:
            self.failures[name] = str(error)
            return
        yield from self.take_labels(name, labels)
        self.nodes[name] = nodes

    def take_labels(self, name: str, labels: Volume) -> Generator[None, None, str]:
        """Take note of the labels that a case of the scene has now; return their hash."""
        box, _at_edge = yield from find_labels(labels.array)
        digest = content_hash(crop_to_box(labels, box))
        yield
        self._unchecked.pop(name, None)
        self.hashes[name], self.labels[name] = digest, labels
        self._worklist.set_hash(name, digest)
        return digest

    # --- checking ---

    def _check(self, name: str) -> tuple[Request[Any], JobListener[Any]]:
        from ....worker.review_messages import CheckLabels, CheckReview

        def keep(reply: CheckedReview) -> None:
            self._keep(name, reply.findings)
            self._tell_checked(name)

        def done(reply: CheckedReview) -> None:
            path = self._worklist.labels_of(name)  # not that of a moment ago, if they were corrected meanwhile
            if path is not None and self._worklist.labels_hash(name) == reply.labels_sha256:
                self._keep(name, reply.findings)
            else:  # the file has changed meanwhile
                self._unchecked[name] = _("The labels have changed while they were checked: open the case again.")
            self._tell_checked(name)

        def failed(failure: Failure) -> None:
            self._unchecked[name] = failure.message
            self._tell_checked(name)

        if name not in self._in_scene:
            return CheckReview(**self.files(name)), self._listener(done, failed)
        image = volumes.volume_from_node(self.nodes[name].volume)
        return CheckLabels(labels=self.labels[name], image=image, has_image=True), self._listener(keep, failed)

    def _keep(self, name: str, findings: list[Finding]) -> None:
        """Remember findings, now; on the disk a little later, once for many cases."""
        self._worklist.keep(name, findings, save=False)
        self.save_later()

    def save_later(self) -> None:
        """Write new findings to the disk soon."""
        if self._saving is None:
            self._saving = later(SAVE_SECONDS, self._save)

    def _save(self) -> None:
        self._saving = None
        self._worklist.cache.save()

    def _tell_checked(self, name: str) -> None:
        if name in self._all:
            self._all.remove(name)
        self._checked(name)

    # --- files ---

    def files(self, name: str) -> dict[str, Any]:
        """Return the fields of a request for a case."""
        case = self._worklist[name]
        scan = case.scan
        return {
            "labels": self._worklist.labels_of(name),
            "image": case.image if scan is None else None,
            "source": scan.path if scan is not None else None,
            "study": scan.study if scan is not None else "",
        }

    def _hashed(self, name: str) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Return the files of the labels and of the scan."""
        labels = self._worklist.labels_of(name)
        return () if labels is None else (labels,), self._worklist[name].scan_files


def _is_synthetic(case: sources.ReviewCase) -> bool:
    """Return whether a case is a pair that was generated, or a virtual one."""
    return case.about is not None and case.about.name == sources.PROVENANCE and case.about.is_file()
