"""What the module remembers in the scene."""

from slicer.parameterNodeWrapper import parameterNodeWrapper, parameterPack

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


@parameterPack
class SegmentSettings:
    """Choices of the Segment panel. Package: a name, empty for the one shipped; quality: fast, full or flips.

    ``outputSegmentation``: what is replaced, None for a new one. ``result``: what the panel's table shows.
    """

    inputVolume: vtkMRMLScalarVolumeNode  # noqa: N815 - Slicer's way of naming
    outputSegmentation: vtkMRMLSegmentationNode  # noqa: N815
    result: vtkMRMLSegmentationNode
    package: str = ""
    device: str = "auto"
    quality: str = "full"


@parameterPack
class GenerateSettings:
    """Choices of the Generate panel. Package: a name or folder, empty for the one shipped; steps: 0 for its own.

    ``conditions``: JSON, name to value, of those asked for.
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
    """The module's parameter node: one group of settings a panel."""

    segment: SegmentSettings
    generate: GenerateSettings
