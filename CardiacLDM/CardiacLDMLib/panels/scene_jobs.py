"""One segmentation of a volume of the scene: voxels to the worker, labels back into the scene, never holding the window."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk

from .. import __version__, scene
from ..client import ClientError, Failure, SegmentationReply, WorkerClient
from ..volume import Volume, VolumeError
from .process import Sliced

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

    from ..segmenter import Progress

#: Slices of labels that are looked through in one step: some milliseconds.
SLICES_PER_STEP = 8


@dataclass(frozen=True)
class Settings:
    """How to segment: package name or folder (None: the one shipped), device, and ``fast``, ``full`` or ``flips``."""

    package: str | None = None
    device: str = "auto"
    quality: str = "full"


@dataclass(frozen=True)
class Listener:
    """Who is told. Exactly one of the last three is called, once, when the job has ended."""

    progress: Callable[[Progress], None]
    done: Callable[[vtkMRMLSegmentationNode], None]
    failed: Callable[[Failure], None]
    cancelled: Callable[[], None]


class SceneJob:
    """Segments ``volume`` into ``target``, or into a new segmentation node without one.

    The job is cancelled when its volume or target is removed or the scene is closed. Raises :class:`VolumeError` for a
    volume that cannot be placed in the world, and what the client raises when it cannot take a job.
    """

    def __init__(
        self,
        client: WorkerClient,
        volume: vtkMRMLScalarVolumeNode,
        target: vtkMRMLSegmentationNode | None,
        settings: Settings,
        listener: Listener,
    ) -> None:
        self._client, self._volume, self._target = client, volume, target
        self._settings, self._listener = settings, listener
        self._import: Sliced | None = None
        self._ended = False
        self._scene = slicer.mrmlScene
        self._tags = [
            self._scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, lambda *_: self.cancel()),
            self._scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._node_goes()),
        ]
        try:
            self._submit()
        except Exception:
            self._end()
            raise

    @property
    def running(self) -> bool:
        """Whether the job has not ended yet."""
        return not self._ended

    def cancel(self) -> None:
        """Stop the job; the listener's ``cancelled`` is called, at once or when the worker has stopped."""
        if self._import is not None:
            self._import.stop()
            self._cancelled()
        elif not self._ended:
            self._client.cancel()

    # --- the worker's part ---

    def _submit(self) -> None:
        self._client.segment(
            scene.volume_from_node(self._volume),
            package=self._settings.package,
            device=self._settings.device,
            quality=self._settings.quality,
            on_progress=self._progress,
            on_done=self._labelled,
            on_failed=self._failed,
            on_cancelled=self._cancelled,
        )

    def _progress(self, progress: Progress) -> None:
        if not self._ended:
            self._listener.progress(progress)

    def _failed(self, failure: Failure) -> None:
        if not self._ended:
            self._end()
            self._listener.failed(failure)

    def _cancelled(self) -> None:
        if not self._ended:
            self._end()
            self._listener.cancelled()

    def _node_goes(self) -> Callable[..., None]:
        """An observer that cancels the job when one of its nodes is removed."""

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def removed(_scene: Any, _event: str, node: Any) -> None:
            if node is self._volume or (node is not None and node is self._target):
                self.cancel()

        return removed

    def _end(self) -> None:
        self._ended = True
        for tag in self._tags:
            self._scene.RemoveObserver(tag)

    # --- the scene's part ---

    def _labelled(self, reply: SegmentationReply) -> None:
        if not self._ended:
            self._import = Sliced(self._bring_in(reply), self._brought_in)

    def _bring_in(self, reply: SegmentationReply) -> Iterator[None]:
        """Put the labels into the scene. Nothing is there before the last step, all of it after."""
        part = None
        for part in cropped(reply.labels):
            yield
        assert part is not None
        self._scene.SaveStateForUndo()
        if self._target is None:
            name = f"{self._volume.GetName()} heart"
            self._target = scene.segmentation_from_labels(self._scene, part, name, self._volume)
        else:
            scene.replace_labels(self._target, part, self._volume)
        scene.set_provenance(self._target, _record(reply))
        flags = scene.flags_for(reply.volumes_ml, touching(reply))
        scene.volumes_table(self._scene, self._target, reply.volumes_ml, flags)

    def _brought_in(self, error: Exception | None) -> None:
        target = self._target
        self._end()
        if error is not None:
            raise error
        self._listener.done(target)
