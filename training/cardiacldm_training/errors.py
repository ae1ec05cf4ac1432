"""Errors of the training package that a user can act on; see :mod:`CardiacLDMLib.errors`."""

from __future__ import annotations

from CardiacLDMLib.errors import UserError


class ConfigError(UserError):
    """Options or a configuration of a run that cannot be used."""


class DatasetError(UserError):
    """A folder of cases or of generated pairs that cannot be used."""


class TrainingError(UserError):
    """A training run that cannot start or continue."""


class EvaluationError(UserError):
    """An evaluation, comparison or ablation study that cannot be made or read."""


class AnatomyError(UserError):
    """A template heart that cannot be used, or a drawn heart that is not plausible."""


class RenderingError(UserError):
    """Slicer's views cannot be rendered on this computer."""


class DemoError(UserError):
    """The demo cannot be run."""
