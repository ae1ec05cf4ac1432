"""The virtual cohort: synthetic anatomy (``anatomy``, ``body``) and a virtual scanner (``scanner``)."""

from .anatomy import AnatomyError
from .cohort import Case, CohortSettings, make_case, write_case, write_cohort

__all__ = ["AnatomyError", "Case", "CohortSettings", "make_case", "write_case", "write_cohort"]
