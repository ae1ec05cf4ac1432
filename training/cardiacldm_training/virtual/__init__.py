"""The virtual cohort: synthetic anatomy (``anatomy``, ``body``) and a virtual scanner (``scanner``)."""

from ..errors import AnatomyError, CohortError
from .cohort import PRESETS, Case, CohortSettings, make_case, write_case, write_cohort

__all__ = [
    "PRESETS", "AnatomyError", "Case", "CohortError", "CohortSettings", "make_case", "write_case", "write_cohort",
]  # fmt: skip
