"""The settings of the panels that are stored in the scene."""

from slicer.parameterNodeWrapper import parameterNodeWrapper, parameterPack

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


@parameterPack
class SegmentSettings:
    """Choices of the Segment panel.

    ``outputSegmentation``: the segmentation to replace, None for a new one. ``result``: the segmentation that was
    made last. ``package``: a name, empty for the one that ships. ``quality``: fast, full or flips.
    """

    inputVolume: vtkMRMLScalarVolumeNode  # noqa: N815 - Slicer's way of naming
    outputSegmentation: vtkMRMLSegmentationNode  # noqa: N815
    result: vtkMRMLSegmentationNode
    package: str = ""
    device: str = "auto"
    quality: str = "full"


@parameterPack
class GenerateSettings:
    """Choices of the Generate panel.

    ``package``: a name or folder, empty for the one that ships. ``steps``: 0 for the package's default.
    ``conditions``: JSON object, name to value.
    """

    package: str = ""
    count: int = 1
    seed: int = 1
    steps: int = 0
    conditions: str = "{}"
    check: bool = True
    device: str = "auto"


@parameterNodeWrapper
class CardiacLDMParameterNode:
    """The module's parameter node: one group of settings per panel."""

    segment: SegmentSettings
    generate: GenerateSettings
