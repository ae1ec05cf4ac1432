"""Measure one case: labels, texture, tone, features, contrast, agreement and the checks of acceptance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from CardiacLDMLib.generation.acceptance import agreement_faults, label_faults
from CardiacLDMLib.generation.appearance import image_findings
from CardiacLDMLib.image.labels import agreement
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.progress import Say
from CardiacLDMLib.segmentation.segmenter import Segmenter

from . import contrast, features, labels
from . import texture as noise
from . import tone as brightness
from .case_record import CaseRecord
from .cases import CaseSet, Pair


@dataclass(frozen=True)
class CaseMeasures:
    """All measures of one case."""

    name: str
    labels: labels.LabelFindings
    texture: noise.Texture
    tone: np.ndarray  # see tone.measure
    features: Mapping[str, np.ndarray]  # by kind, each (F,)
    blood_hu: dict[str, float]
    brightest_hu: float
    dice: dict[str, float] | None
    faults: frozenset[str]  # rules for which the pair would be rejected
    remarks: frozenset[str]  # rules of mere remarks on its image
    corrupted: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)  # features after each corruption

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the structures; NaN without a segmentation."""
        return float(np.mean(list(self.dice.values()))) if self.dice else float("nan")

    def record(self) -> CaseRecord:
        """Return the measures for report.json."""
        return CaseRecord(
            case=self.name,
            volumes_ml={name: round(ml, 2) for name, ml in self.labels.volumes_ml.items()},
            cut=sorted(self.labels.cut),
            broken=sorted(self.labels.broken),
            speckle=round(self.labels.speckle, 6),
            sd_hu={name: round(sd, 2) for name, sd in self.texture.sd_hu.items()},
            dice=self.dice and {name: round(dice, 4) for name, dice in self.dice.items()},
            blood_hu=self.blood_hu,
            brightest_hu=self.brightest_hu,
        )


class Examiner:
    """Measures cases with a segmenter package: by its features of the image and its labels of the image.

    Features are kept in ``folder`` for the next report if there is one. Raises PackageError for a package that is no
    segmenter, SegmenterError for a missing device.
    """

    def __init__(self, package: ModelPackage, device: str, folder: Path | None = None) -> None:
        self.package = package
        self.segmenter = Segmenter(package, device)
        self.features = features.FeatureReader(package, device, folder)

    def examine(self, pair: Pair, segment: bool = True, corrupt: bool = False) -> CaseMeasures:
        """Measure one case, its image also after each known corruption if ``corrupt``.

        Raises VolumeError for empty labels, SegmenterError for a grid that is too small.
        """
        dice = None
        if segment:
            dice = agreement(pair.labels, self.segmenter.segment(pair.image_volume, quality="fast").labels.array)
        label_measures = labels.examine(pair)
        in_image, remarks = image_findings(pair.image_volume, pair.labels_volume)
        faults = label_faults(pair.labels_volume) + in_image
        if dice:
            faults += agreement_faults(float(np.mean(list(dice.values()))))
        return CaseMeasures(
            pair.name, label_measures, noise.measure(pair), brightness.measure(pair),
            self.features.read(pair.image_volume), contrast.blood_hu(pair), contrast.brightest_hu(pair), dice,
            frozenset(fault.rule for fault in faults), frozenset(remark.rule for remark in remarks),
            self.features.read_corrupted(pair.image_volume) if corrupt else {},
        )  # fmt: skip

    def examine_all(
        self, source: CaseSet, segmented: int, items: str, say: Say, corrupt: bool = False
    ) -> list[CaseMeasures]:
        """Measure all cases of ``source`` and segment ``segmented`` of them, evenly chosen."""
        indices = set(np.linspace(0, len(source) - 1, min(segmented, len(source))).astype(int).tolist())
        measures = []
        for n in range(len(source)):
            measures.append(self.examine(source[n], segment=n in indices, corrupt=corrupt))
            if (n + 1) % max(len(source) // 5, 1) == 0:
                say(f"  {n + 1} of {len(source)} {items} examined")
        return measures
