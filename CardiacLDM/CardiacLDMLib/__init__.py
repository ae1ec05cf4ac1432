"""Runtime of CardiacLDM: opens model packages and labels cardiac CT.

Nothing here imports the training package; only ``scene`` and ``panels`` know about Slicer and Qt, and nothing that
Slicer imports at start-up needs a third-party library.
"""

__version__ = "0.1.0"
