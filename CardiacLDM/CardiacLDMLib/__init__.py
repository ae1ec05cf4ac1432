"""Runtime of CardiacLDM: open model packages, label cardiac CT, generate synthetic pairs, and show both in Slicer.

Nothing here imports the training package. Only the folder ``slicer`` imports Slicer and Qt. Modules that Slicer loads
at start-up import torch, MONAI, SimpleITK, pydantic and cc3d inside functions only.
"""

__version__ = "0.1.0"
