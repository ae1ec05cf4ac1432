"""The virtual cohort: synthetic anatomy (``anatomy``, ``body``) and a virtual scanner (``scanner``)."""

from .cohort import PRESETS, Case, CohortError, CohortSettings, make_case, write_case, write_cohort
from .templates import AnatomyError

__all__ = [
    "PRESETS", "AnatomyError", "Case", "CohortError", "CohortSettings", "make_case", "write_case", "write_cohort",
]  # fmt: skip
