"""The eight structures: label values, SNOMED CT codes, colours, neighbours and volume limits.

Facts only, no third-party import: Slicer, the command line and training all read this table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Structure:
    """One labelled structure.

    ``volume_limits_ml`` flags a suspicious adult volume (first limits, to be calibrated on reference labels); ``None``
    where the volume depends on the scan range (great vessels).
    """

    name: str
    value: int
    title: str
    snomed_code: str
    snomed_meaning: str
    colour: tuple[int, int, int]
    volume_limits_ml: tuple[float, float] | None = None


STRUCTURES: tuple[Structure, ...] = (
    Structure("LA", 1, "Left atrium", "82471001", "Left atrium", (216, 101, 79), (25.0, 350.0)),
    Structure("LV", 2, "Left ventricle", "87878005", "Left ventricle", (192, 33, 52), (40.0, 350.0)),
    Structure("RA", 3, "Right atrium", "73829009", "Right atrium", (103, 170, 222), (30.0, 400.0)),
    Structure("RV", 4, "Right ventricle", "53085002", "Right ventricle", (41, 98, 180), (60.0, 450.0)),
    Structure("MYO", 5, "Left ventricular myocardium", "74281007", "Myocardium", (214, 168, 122), (50.0, 350.0)),
    Structure("AO", 6, "Aorta", "15825003", "Aorta", (235, 196, 58)),
    Structure("PA", 7, "Pulmonary artery", "81040000", "Pulmonary artery", (92, 184, 150)),
    Structure("LAA", 8, "Left atrial appendage", "33626005", "Left auricular appendage", (176, 92, 190), (1.0, 40.0)),
)

BACKGROUND = 0
NUM_CLASSES = len(STRUCTURES) + 1
NAMES: tuple[str, ...] = tuple(s.name for s in STRUCTURES)
VALUE: dict[str, int] = {s.name: s.value for s in STRUCTURES}
BY_VALUE: dict[int, Structure] = {s.value: s for s in STRUCTURES}

#: Name of the terminology in Resources/term.json, by which Slicer finds a segment's codes.
TERMINOLOGY = "Heart structures - CardiacLDM"
#: SNOMED CT category of every structure.
CATEGORY_CODE, CATEGORY_MEANING = "123037004", "Anatomical Structure"


def terminology_entry(structure: Structure) -> str:
    """Return a structure's SNOMED CT codes as Slicer writes them in a segment's terminology tag."""
    category = f"SCT^{CATEGORY_CODE}^{CATEGORY_MEANING}"
    kind = f"SCT^{structure.snomed_code}^{structure.snomed_meaning}"
    return "~".join((TERMINOLOGY, category, kind, "^^", "", "^^", "^^"))  # no modifier, no anatomic region


#: Labels as colours (red, green, blue; 0 to 1), for a network that takes three channels instead of nine. A blurred
#: border between two neighbours passes through mixtures of their colours: this choice keeps the mixtures of classes
#: that touch away from the colour of a third one. The background touches everything and sits in the middle.
PALETTE: dict[int, tuple[float, float, float]] = {
    BACKGROUND: (0.5, 0.5, 0.5),
    VALUE["LA"]: (0.0, 1.0, 1.0),
    VALUE["LV"]: (0.0, 0.0, 1.0),
    VALUE["RA"]: (1.0, 0.0, 1.0),
    VALUE["RV"]: (1.0, 0.0, 0.0),
    VALUE["MYO"]: (0.0, 0.0, 0.0),
    VALUE["AO"]: (1.0, 1.0, 1.0),
    VALUE["PA"]: (1.0, 1.0, 0.0),
    VALUE["LAA"]: (0.0, 1.0, 0.0),
}

#: Chambers, wall and appendage: wholly inside any complete heart scan. The great vessels always leave it.
HEART: tuple[str, ...] = ("LA", "LV", "RA", "RV", "MYO", "LAA")

#: Pairs that touch in every heart (after 2 mm dilation: walls between blood pools are background in most labels).
REQUIRED_CONTACTS: tuple[tuple[str, str], ...] = (
    ("LV", "MYO"), ("LV", "LA"), ("LV", "AO"), ("RA", "RV"), ("RV", "PA"), ("LA", "LAA"),
)  # fmt: skip

#: Pairs that never touch, since myocardium, septum or another chamber lies between them.
FORBIDDEN_CONTACTS: tuple[tuple[str, str], ...] = (
    ("LV", "RV"), ("LV", "RA"), ("LA", "RV"), ("RA", "LAA"), ("LV", "PA"),
)  # fmt: skip
