"""Names of the values that conditions take, in the order that networks and shares use."""

from __future__ import annotations

#: Contrast phases: where the contrast medium is when the scan is taken.
PHASES = ("arterial", "dual", "venous", "none")
#: Implants and foreign bodies; none of them is labelled.
IMPLANTS = ("none", "leads", "valve", "stent", "wires", "clips")
#: The virtual cohort's scanner styles, its values of ``scan_location``. Hospitals have names of their own.
SCANNER_STYLES = ("heart_centre", "university", "chest_clinic", "emergency", "community", "screening")
