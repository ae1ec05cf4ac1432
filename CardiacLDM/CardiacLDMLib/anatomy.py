"""Facts about the heart that the whole project shares, each stated once, with its source.

The eight structures with their label values, SNOMED CT codes and colours; which structures touch and how they lie to
each other; volumes to flag and smallest usable volumes; published adult measures; named windows of grey levels.
Facts only, no third-party import: Slicer, the command line and training all read this table. Volumes are in mL,
lengths in mm, grey levels in Hounsfield units (HU).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

# --- structures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Structure:
    """One labelled structure.

    ``smallest_ml``: least volume of a usable whole heart. Smaller virtual hearts are sampled again, and generated pairs
    below half of it are rejected. ``volume_limits_ml``: outside them an adult's volume is flagged as unusual, never
    rejected, since disease exceeds them; None where the volume depends on the scan range (great vessels). Both are our
    own estimates from published ranges.
    """

    name: str
    value: int
    title: str
    snomed_code: str
    snomed_meaning: str
    colour: tuple[int, int, int]
    smallest_ml: float
    volume_limits_ml: tuple[float, float] | None = None


STRUCTURES: tuple[Structure, ...] = (
    Structure("LA", 1, "Left atrium", "82471001", "Left atrium", (216, 101, 79), 12, (25.0, 350.0)),
    Structure("LV", 2, "Left ventricle", "87878005", "Left ventricle", (192, 33, 52), 25, (40.0, 350.0)),
    Structure("RA", 3, "Right atrium", "73829009", "Right atrium", (103, 170, 222), 15, (30.0, 400.0)),
    Structure("RV", 4, "Right ventricle", "53085002", "Right ventricle", (41, 98, 180), 30, (60.0, 450.0)),
    Structure("MYO", 5, "Left ventricular myocardium", "74281007", "Myocardium", (214, 168, 122), 40, (50.0, 350.0)),
    Structure("AO", 6, "Aorta", "15825003", "Aorta", (235, 196, 58), 20),
    Structure("PA", 7, "Pulmonary artery", "81040000", "Pulmonary artery", (92, 184, 150), 12),
    Structure("LAA", 8, "Left atrial appendage", "33626005", "Left auricular appendage", (176, 92, 190), 1.0,
              (1.0, 40.0)),
)  # fmt: skip

BACKGROUND = 0
NUM_CLASSES = len(STRUCTURES) + 1
NAMES: tuple[str, ...] = tuple(s.name for s in STRUCTURES)
VALUE: dict[str, int] = {s.name: s.value for s in STRUCTURES}
BY_VALUE: dict[int, Structure] = {s.value: s for s in STRUCTURES}
SMALLEST_ML: dict[str, float] = {s.name: s.smallest_ml for s in STRUCTURES}

#: Name of the terminology in Resources/term.json, by which Slicer finds a segment's codes.
TERMINOLOGY = "Heart structures - CardiacLDM"
#: SNOMED CT category of every structure.
CATEGORY_CODE, CATEGORY_MEANING = "123037004", "Anatomical Structure"


def terminology_entry(structure: Structure) -> str:
    """Return a structure's SNOMED CT codes as Slicer writes them in a segment's terminology tag."""
    category = f"SCT^{CATEGORY_CODE}^{CATEGORY_MEANING}"
    kind = f"SCT^{structure.snomed_code}^{structure.snomed_meaning}"
    return "~".join((TERMINOLOGY, category, kind, "^^", "", "^^", "^^"))  # no modifier, no anatomic region


#: Labels as colours (red, green, blue; 0 to 1), for a network that takes three channels instead of nine. At a blurred
#: border the colours of two neighbours mix. The colours are chosen so that no such mixture is the colour of a third
#: class. The background, which touches all structures, is grey.
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

# --- rules of a plausible heart ------------------------------------------------------------------------------------

#: Two structures closer than this touch, mm: the walls between blood pools are background in most label maps.
CONTACT_MM = 2.0

#: Pairs that touch in every heart.
REQUIRED_CONTACTS: tuple[tuple[str, str], ...] = (
    ("LV", "MYO"), ("LV", "LA"), ("LV", "AO"), ("RA", "RV"), ("RV", "PA"), ("LA", "LAA"),
)  # fmt: skip

#: Pairs that never touch, since myocardium, septum or another chamber lies between them.
FORBIDDEN_CONTACTS: tuple[tuple[str, str], ...] = (
    ("LV", "RV"), ("LV", "RA"), ("LA", "RV"), ("RA", "LAA"), ("LV", "PA"),
)  # fmt: skip

#: (first, second, axis, relation): the centroid of the first lies further along the RAS axis than that of the second.
CENTROID_ORDER: tuple[tuple[str, str, int, str], ...] = (
    ("RA", "LV", 0, "right of"), ("RA", "LAA", 0, "right of"), ("RA", "LA", 0, "right of"), ("RV", "LV", 1, "before"),
    ("RV", "LA", 1, "before"), ("LV", "LA", 1, "before"), ("PA", "RV", 2, "above"), ("LA", "LV", 2, "above"),
)  # fmt: skip

#: Largest share of the LV's surface that may face background in any label map: in maps with a thin myocardium the
#: plane of the mitral valve is background.
LARGEST_LV_OPENING = 0.10
#: The same for a virtual heart after its repair, which closes the mitral plane and lays myocardium around the rest.
#: It is smaller than the limit for any label map, which would otherwise reject good reference labels.
LARGEST_LV_OPENING_VIRTUAL = 0.02

# --- published measures of healthy adults --------------------------------------------------------------------------

Sex = Literal["male", "female"]


class Measure(NamedTuple):
    """Mean and standard deviation over healthy adults of one sex.

    ``unit`` is that of both. ``when``: phase of the heartbeat, empty if it does not matter.
    """

    mean: float
    sd: float
    unit: str
    source: str
    when: Literal["diastole", "systole", ""] = ""


#: Mass of 1 mL of myocardium, g: converts published masses to volumes.
MYOCARDIUM_G_PER_ML = 1.05

_VENTRICLE = "CT, end-diastolic, Kang et al. 2017 (172 patients), in Cardiovasc Diagn Ther 2020;10:1918, table 3"
_MASS = f"mass divided by {MYOCARDIUM_G_PER_ML} g/mL; {_VENTRICLE}"
_MR = "magnetic resonance, end-diastolic, Hudsmith et al. 2005 (108 volunteers)"
_ATRIUM = "CT, largest volume per body surface area, both sexes, study of 250 healthy adults (18 to 74 years)"
_SURFACE = "our estimate for adults"
_AORTA = "our estimate near CT, Framingham Heart Study: men 34.1 +- 3.9 mm, women 31.9 +- 3.5 mm"
_PULMONARY = "our estimate near CT, Truong et al. 2012, Framingham Heart Study: 25.1 +- 2.8 mm over both sexes"
#: (name, sex) -> measure. The aorta is given by sex, since men's is 2 mm wider: 34 mm would be the mean of both.
PUBLISHED: dict[tuple[str, Sex], Measure] = {
    ("LV", "male"): Measure(113.0, 26.0, "mL", _VENTRICLE, "diastole"),
    ("LV", "female"): Measure(98.0, 21.0, "mL", _VENTRICLE, "diastole"),
    ("RV", "male"): Measure(190.0, 33.0, "mL", _MR, "diastole"),
    ("RV", "female"): Measure(148.0, 35.0, "mL", _MR, "diastole"),
    ("MYO", "male"): Measure(145.0 / MYOCARDIUM_G_PER_ML, 29.0 / MYOCARDIUM_G_PER_ML, "mL", _MASS, "diastole"),
    ("MYO", "female"): Measure(108.0 / MYOCARDIUM_G_PER_ML, 20.0 / MYOCARDIUM_G_PER_ML, "mL", _MASS, "diastole"),
    ("LA index", "male"): Measure(50.6, 12.7, "mL/m2", _ATRIUM, "systole"),
    ("LA index", "female"): Measure(50.6, 12.7, "mL/m2", _ATRIUM, "systole"),
    ("body surface", "male"): Measure(1.95, 0.20, "m2", _SURFACE),
    ("body surface", "female"): Measure(1.70, 0.17, "m2", _SURFACE),
    ("aorta width", "male"): Measure(35.0, 5.0, "mm", _AORTA, "diastole"),
    ("aorta width", "female"): Measure(33.0, 5.0, "mm", _AORTA, "diastole"),
    ("pulmonary artery width", "male"): Measure(25.5, 3.0, "mm", _PULMONARY, "diastole"),
    ("pulmonary artery width", "female"): Measure(24.5, 3.0, "mm", _PULMONARY, "diastole"),
}


def volume_limits_ml(name: str, sex: Sex | None = None) -> tuple[float, float] | None:
    """Return the volumes outside which a structure of an adult is flagged; None for one without limits.

    The limits in the table hold for adults of either sex: the lower one for small women, the upper one for large men.
    If ``sex`` is known, the other limit moves by the ratio of the two published means, where there are some.
    """
    limits = BY_VALUE[VALUE[name]].volume_limits_ml
    female, male = PUBLISHED.get((name, "female")), PUBLISHED.get((name, "male"))
    if limits is None or sex is None or female is None or male is None:
        return limits
    low, high = limits
    return (low, high * female.mean / male.mean) if sex == "female" else (low * male.mean / female.mean, high)


# --- windows of grey levels ----------------------------------------------------------------------------------------


class Window(NamedTuple):
    """A range of HU for a picture or a comparison: ``low`` is black, ``high`` is white."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def level(self) -> float:
        return (self.low + self.high) / 2


#: Slice views and thumbnails: separates contrast-filled chambers from myocardium.
HEART_WINDOW = Window(-200.0, 600.0)
#: Printed pictures of segmentations and pairs.
PICTURE_WINDOW = Window(-200.0, 500.0)
#: Contact sheets of virtual and real scans: soft tissue, contrast medium and the edge of the lungs.
CHEST_WINDOW = Window(-250.0, 500.0)
#: Comparisons of whole images, from lung to bone.
FULL_WINDOW = Window(-1000.0, 1000.0)
