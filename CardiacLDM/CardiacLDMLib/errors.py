"""Errors that a user can act on.

Every error whose message is one sentence for the user derives from :class:`UserError`. Its ``kind`` is a word of
:data:`Kind`; it travels from the worker process to the panels, where it decides what is offered next. An exception that
is no ``UserError`` is a fault of the program.
"""

from __future__ import annotations

from typing import ClassVar, Literal

#: ``input``: a scan, option or file that cannot be used. ``package``: a model package that cannot be used. ``exists``:
#: a package of that name is installed already. ``output``: results that cannot be written. ``rejected``: no pair passed
#: the checks. ``busy``: a job is running already. ``device``: the GPU failed. ``memory``: memory ran out. ``missing``:
#: a Python library is absent. ``crash``: the worker process ended. ``internal``: a fault of the program.
Kind = Literal[
    "input", "package", "exists", "output", "rejected", "busy", "device", "memory", "missing", "crash", "internal"
]


class UserError(ValueError):
    """An error whose message is one sentence that the user can act on.

    A ``ValueError``, so that pydantic validators may raise it.
    """

    kind: ClassVar[Kind] = "input"


class VolumeError(UserError):
    """A volume that cannot be used."""


class OutputError(UserError):
    """A file or folder that cannot be written."""

    kind: ClassVar[Kind] = "output"


class InputError(UserError):
    """A file or folder, named as input, that cannot be used."""


class SegmenterError(UserError):
    """A scan that cannot be segmented."""


class DeviceError(UserError):
    """A compute device that is not available."""


class GeneratorError(UserError):
    """A request for a synthetic pair that the package or this computer cannot meet."""


class NoAcceptablePair(GeneratorError):  # noqa: N818 - an outcome that a caller may count and go on after
    """No attempt at a pair passed the checks.

    ``rejected`` holds, for each attempt, one sentence per fault.
    """

    kind: ClassVar[Kind] = "rejected"

    def __init__(self, index: int, rejected: list[list[str]]) -> None:
        self.rejected = rejected
        super().__init__(
            f"Pair {index} was drawn {len(rejected)} times and never accepted; the last time: "
            f"{'; '.join(rejected[-1])}."
        )


class PackageError(UserError):
    """A model package that cannot be used."""

    kind: ClassVar[Kind] = "package"


class PackageExists(PackageError):  # noqa: N818 - a question rather than an error: replace it?
    """A package of that name is installed, and was not to be replaced."""

    kind: ClassVar[Kind] = "exists"


class JobError(UserError):
    """A request that the worker cannot carry out."""


class ClientError(UserError):
    """A job that cannot be started now."""

    kind: ClassVar[Kind] = "busy"
