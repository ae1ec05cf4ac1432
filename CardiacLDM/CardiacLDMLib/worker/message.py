"""The base of the messages between Slicer and its worker: see :mod:`.messages`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from ..image.grid import Volume

#: A path. In JSON it is a string.
FilePath = Annotated[Path, Field(strict=False)]


class Message(BaseModel):
    """Base of requests and replies. Unknown fields and fields of the wrong type are refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True)

    @classmethod
    def volume_names(cls) -> list[str]:
        """Return the names of the fields that hold a volume."""
        return [name for name, field in cls.model_fields.items() if field.annotation is Volume]

    def volumes(self) -> dict[str, Volume]:
        """Return the volumes by field name."""
        return {name: getattr(self, name) for name in self.volume_names()}

    def plain_fields(self) -> dict[str, Any]:
        """Return all other fields. They fit JSON except for paths."""
        return self.model_dump(exclude=set(self.volume_names()))


class Reply(Message):
    """The result of a job."""


ReplyT = TypeVar("ReplyT", bound=Reply)


class Request(Message, Generic[ReplyT]):
    """A job for the worker, answered by a ``ReplyT``. ``job`` is its name in a message."""

    job: ClassVar[str]

    @property
    def aside(self) -> Path | None:
        """The temporary folder in which the results are made. The client removes it when the job has ended."""
        return None

    @classmethod
    def reply_type(cls) -> type[ReplyT]:
        """Return the type of the reply."""
        parents = (parent for parent in cls.__mro__ if issubclass(parent, Request))
        types = (parent.__pydantic_generic_metadata__["args"] for parent in parents)
        return cast("type[ReplyT]", next(each[0] for each in types if each))

    def read_reply(self, fields: Mapping[str, Any], volumes: Mapping[str, Volume]) -> ReplyT:
        """Return the reply with these fields and volumes; raise ``ValueError`` where it does not fit this request."""
        return self.reply_type().model_validate({**fields, **volumes})
