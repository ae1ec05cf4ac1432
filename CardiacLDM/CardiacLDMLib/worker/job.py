"""A job as the client sees it: its listener, its state and its failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import Kind, UserError
from ..progress import Preview, Progress
from .arrays import ArrayUpload
from .job_folder import JobFolder

if TYPE_CHECKING:
    from .messages import Request

ReplyT = TypeVar("ReplyT")


@dataclass(frozen=True)
class Failure:
    """Why a job failed: one sentence for the user, the end of the worker's output, and the kind of the error."""

    message: str
    details: str
    kind: Kind

    @classmethod
    def from_error(cls, error: UserError) -> Failure:
        """Return the failure of a job that could not begin: the error's sentence and kind, no details."""
        return cls(str(error), "", error.kind)


def ignore(*_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class JobListener(Generic[ReplyT]):
    """Callbacks of a job. Exactly one of ``done``, ``failed`` and ``cancelled`` is called, once, at its end.

    ``preview`` must read the picture's file at once: it is deleted with the job.
    """

    done: Callable[[ReplyT], None]
    failed: Callable[[Failure], None]
    cancelled: Callable[[], None] = ignore
    progress: Callable[[Progress], None] = ignore
    preview: Callable[[Preview], None] = ignore


@dataclass(eq=False)
class Job:
    """A job that was submitted. ``WorkerClient.cancel`` stops it.

    ``sent``: the request was sent to the worker. ``has_answered``: an event of this job has arrived. ``failure``: kind
    and sentence of a failure, while the worker that reported it is still ending.
    """

    number: int
    request: Request[Any]
    listener: JobListener[Any] = field(repr=False)
    folder: JobFolder | None = field(repr=False, default=None)
    uploads: list[ArrayUpload] = field(repr=False, default_factory=list)
    sent: bool = False
    has_answered: bool = False
    cancelling: bool = False
    failure: tuple[Kind, str] | None = None

    def message(self) -> dict[str, Any]:
        """Return the message that asks the worker for this job."""
        aside: Path | None = self.request.aside
        return {
            "id": self.number,
            "job": self.request.job,
            "fields": self.request.plain_fields(),
            "volumes": {name: volume.affine.tolist() for name, volume in self.request.volumes().items()},
            "folder": None if self.folder is None else self.folder.path,
            "aside": aside,
        }
