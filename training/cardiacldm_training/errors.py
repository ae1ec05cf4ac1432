"""Errors of the training package that a user can act on; see :mod:`CardiacLDMLib.errors`."""

from __future__ import annotations

from CardiacLDMLib.errors import OutputError, UserError

__all__ = [
    "AblationError", "AnatomyError", "CohortError", "ConfigError", "DatasetError", "DemoError", "EvaluationError",
    "FidelityError", "OutputError", "PairsError", "RenderingError", "TrainingError",
]  # fmt: skip


class ConfigError(UserError):
    """A configuration of a run that cannot be used."""


class DatasetError(UserError):
    """A folder of labelled cases that cannot be used."""


class TrainingError(UserError):
    """A training run that cannot start or continue."""


class EvaluationError(UserError):
    """An evaluation that cannot be made or read."""


class AblationError(UserError):
    """A plan of an ablation study that cannot be carried out."""


class FidelityError(UserError):
    """Generated pairs or reference cases that cannot be compared."""


class PairsError(UserError):
    """A folder of generated pairs that cannot be used."""


class CohortError(UserError):
    """A virtual cohort that cannot be made."""


class AnatomyError(UserError):
    """A template heart that cannot be used, or a drawn heart that is not plausible."""


class RenderingError(UserError):
    """Slicer's views cannot be rendered on this computer."""


class DemoError(UserError):
    """The demo cannot be run."""
