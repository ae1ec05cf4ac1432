"""Jobs of the worker whose labels come into the scene, while the window keeps responding."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import vtk
from slicer.i18n import tr as _

from ... import __version__, anatomy
from ...image.grid import Volume
from ...progress import Progress, Quality
from ...worker.job import Failure, JobListener
from .. import segmentations, volumes
from ..placing import remarks_on_place
from .process import Dispatcher, Sliced

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

    from ...worker.messages import FoundCase, OpenedCase, Request, ResultFacts, SegmentedVolume

#: Slices of labels that one step searches. A step takes some milliseconds.
SLICES_PER_STEP = 8


@dataclass(frozen=True)
class Settings:
    """Settings of a segmentation. ``package``: a name or folder, None for the one that ships."""

    package: str | None = None
    device: str = "auto"
    quality: Quality = "full"


@dataclass(frozen=True)
class Listener:
    """Callbacks of a job here. ``done``, ``failed`` or ``cancelled`` is called once, at its end."""

    progress: Callable[[Progress], None]
    done: Callable[[vtkMRMLSegmentationNode], None]
    failed: Callable[[Failure], None]
    cancelled: Callable[[], None]


class _Job:
    """A job whose reply is put into the scene. It is cancelled when the scene is closed."""

    def __init__(self, dispatcher: Dispatcher, scene: vtkMRMLScene, request: Request[Any], listener: Listener) -> None:
        self._dispatcher, self._scene, self._listener = dispatcher, scene, listener
        self._import: Sliced | None = None
        self._result: vtkMRMLSegmentationNode | None = None
        self._ended = False
        done = JobListener[Any](
            done=self._replied, failed=self._failed, cancelled=self._cancelled, progress=self._progress
        )
        self._dispatcher.submit(request, done)
        self._tags = [self._scene.AddObserver(self._scene.StartCloseEvent, lambda *_: self.cancel())]

    @property
    def running(self) -> bool:
        """Whether the job has not ended yet."""
        return not self._ended

    def cancel(self) -> None:
        """Stop the job. The listener's ``cancelled`` is called, now or when the worker has stopped.

        A job whose result is in the scene already is done at the next turn of the event loop.
        """
        if self._ended or self._result is not None:
            return
        if self._import is not None:
            self._import.stop()
            self._cancelled()
        elif not self._dispatcher.cancel():
            self._cancelled()

    def _into_scene(self, reply: Any) -> Generator[None, None, vtkMRMLSegmentationNode]:
        """Put the reply into the scene in steps; return the segmentation."""
        raise NotImplementedError

    def _replied(self, reply: Any) -> None:
        if not self._ended:
            self._import = Sliced(self._steps(reply), self._imported)

    def _steps(self, reply: Any) -> Iterator[None]:
        self._result = yield from self._into_scene(reply)
        yield  # what the listener does takes some time too

    def _imported(self, error: Exception | None) -> None:
        if error is not None:
            self._failed(Failure(_("The labels cannot be shown: {why}").format(why=error), "", "internal"))
        elif self._result is None or not self._scene.IsNodePresent(self._result):  # the scene was closed
            self._cancelled()
        elif self._end():
            self._listener.done(self._result)

    def _progress(self, progress: Progress) -> None:
        if not self._ended:
            self._listener.progress(progress)

    def _failed(self, failure: Failure) -> None:
        if self._end():
            self._listener.failed(failure)

    def _cancelled(self) -> None:
        if self._end():
            self._listener.cancelled()

    def _end(self) -> bool:
        """End the job; return false if it had ended already."""
        if self._ended:
            return False
        self._ended = True
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._dispatcher.report_end()
        return True


class SceneJob(_Job):
    """Segments ``volume`` into ``target``, or into a new segmentation node without one.

    The job is cancelled when its volume or target is removed or the scene is closed. Raises :class:`VolumeError` for a
    volume that cannot be segmented, :class:`JobError` for invalid settings, and :class:`ClientError` while another job
    runs.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        volume: vtkMRMLScalarVolumeNode,
        target: vtkMRMLSegmentationNode | None,
        settings: Settings,
        listener: Listener,
    ) -> None:
        from ...worker.messages import SegmentVolume, explain_invalid_values

        self._volume, self._target = volume, target
        with explain_invalid_values():
            request = SegmentVolume(
                image=volumes.volume_from_node(volume),
                package=settings.package,
                device=settings.device,
                quality=settings.quality,
            )
        super().__init__(dispatcher, volume.GetScene(), request, listener)
        self._tags.append(self._scene.AddObserver(self._scene.NodeAboutToBeRemovedEvent, self._removal_observer()))

    def _removal_observer(self) -> Callable[..., None]:
        """Return an observer that cancels the job when one of its nodes is removed."""

        @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
        def removed(_scene: Any, _event: str, node: Any) -> None:
            if node is not None and (node is self._volume or node is self._target):
                self.cancel()

        return removed

    def _into_scene(self, reply: SegmentedVolume) -> Generator[None, None, vtkMRMLSegmentationNode]:
        box, at_edge = yield from find_labels(reply.labels.array)
        part = crop_to_box(reply.labels, box)
        yield
        self._scene.SaveStateForUndo()
        if self._target is None:
            name = f"{self._volume.GetName()} heart"
            self._target = segmentations.segmentation_from_labels(self._scene, part, name, self._volume)
        else:
            segmentations.replace_labels(self._target, part, self._volume)
        reply = reply.model_copy(update={"warnings": [*remarks_on_place(self._volume), *reply.warnings]})
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        _add_facts(self._target, reply, at_edge, __version__, now)
        return self._target


class OpenJob(_Job):
    """Loads a scan and the results of a batch into the scene: a volume node and a segmentation node.

    ``out``: the folder of the results. Raises :class:`ClientError` while another job runs.
    """

    def __init__(
        self, dispatcher: Dispatcher, scene: vtkMRMLScene, case: FoundCase, out: Path, listener: Listener
    ) -> None:
        from ...worker.messages import OpenCase

        self._name = case.name
        request = OpenCase(source=case.source, out=out, name=case.name, study=case.study)
        super().__init__(dispatcher, scene, request, listener)

    def _into_scene(self, reply: OpenedCase) -> Generator[None, None, vtkMRMLSegmentationNode]:
        from vtkmodules.vtkCommonDataModel import vtkImageData

        voxels = vtkImageData()
        yield from volumes.set_voxels_in_steps(voxels, reply.image.array)
        box, at_edge = yield from find_labels(reply.labels.array)
        volume = volumes.add_volume_node(self._scene, voxels, reply.image.affine, self._name, heart_window=True)
        try:
            yield
            part, name = crop_to_box(reply.labels, box), f"{volume.GetName()} heart"
            node = segmentations.segmentation_from_labels(self._scene, part, name, volume)
        except BaseException:
            if self._scene.IsNodePresent(volume):
                self._scene.RemoveNode(volume)
            raise
        _add_facts(node, reply, at_edge, reply.program_version, reply.time)
        return node


def _add_facts(
    node: vtkMRMLSegmentationNode, reply: ResultFacts, at_edge: set[str], program_version: str, time: str
) -> None:
    """Add the record of how and when (UTC) the labels were made, and the table of volumes."""
    volumes.set_provenance(node, {"program": f"CardiacLDM {program_version}", "time": time, **_record(reply)})
    flags = segmentations.flags_for(reply.volumes_ml, at_edge)
    segmentations.volumes_table(node.GetScene(), node, reply.volumes_ml, flags, reply.expected_dice)


def find_labels(labels: np.ndarray) -> Generator[None, None, tuple[tuple[slice, ...], set[str]]]:
    """Return the bounding box of all labels (I, J, K; uint8), and the structures that touch an edge of the scan.

    Each step searches a few slices: the labels are mapped from a file that is stored slice by slice.
    """
    occupied = [np.zeros(size, dtype=bool) for size in labels.shape]
    at_edge = np.zeros(256, dtype=bool)
    for k in range(0, labels.shape[2], SLICES_PER_STEP):
        slab = labels[:, :, k : k + SLICES_PER_STEP]
        inside = slab != 0
        plane = inside.any(axis=2)
        occupied[0] |= plane.any(axis=1)
        occupied[1] |= plane.any(axis=0)
        occupied[2][k : k + SLICES_PER_STEP] = inside.any(axis=(0, 1))
        for face in (slab[0], slab[-1], slab[:, 0], slab[:, -1]):
            at_edge[face] = True
        yield
    for face in (labels[:, :, 0], labels[:, :, -1]):
        at_edge[face] = True
    names = {structure.name for structure in anatomy.STRUCTURES if at_edge[structure.value]}
    if not occupied[2].any():
        return (slice(0, 1),) * 3, names
    places = [np.flatnonzero(axis) for axis in occupied]
    return tuple(slice(place[0], place[-1] + 1) for place in places), names


def crop_to_box(labels: Volume, box: tuple[slice, ...]) -> Volume:
    """Return the part of ``labels`` in ``box``, with the affine matrix of that part."""
    start, stop = ([getattr(each, end) for each in box] for end in ("start", "stop"))
    return Volume(labels.array[box], labels.grid.crop(np.array(start), np.array(stop)).affine)


def _record(reply: ResultFacts) -> dict[str, str]:
    """Return the part of the provenance that the worker knows."""
    return {
        "package": reply.package.name,
        "version": reply.package.version,
        "sha256": reply.package.sha256,
        "device": reply.device,
        "quality": reply.quality,
        "seconds": f"{reply.seconds:.1f}",
        "warnings": "\n".join(reply.warnings),
    }
