"""The labels that the installed package makes of the scans of a review, to compare those under review with.

Each scan is segmented once. Its labels are kept in the review folder, in a file that is named after the SHA-256 of the
scan's voxels and grid, and of the package; it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError, PackageError, VolumeError
from ..files import sweep, temporary_folder
from .cache import content_hash
from .sources import ReviewCase, package_of, read_labels

if TYPE_CHECKING:
    from ..image.grid import Volume
    from ..packages.store import ModelPackage
    from ..progress import Progress, Quality
    from ..segmentation.segmenter import Segmenter

#: Folder of these labels within the review folder.
FOLDER = "package"
#: That with which the limits of the checks were measured.
QUALITY: Quality = "fast"


def installed_package() -> ModelPackage | None:
    """Return the package to compare with, the one that ships; None without one. Its weights are not read."""
    from ..packages.store import locate_package, open_package

    try:
        return open_package(locate_package(), check_hashes=False)
    except PackageError:
        return None


def name_of(package: ModelPackage) -> str:
    """Return name and version of a package, as records of results give them."""
    return f"{package.manifest.name} {package.manifest.version}"


def can_be_compared(case: ReviewCase, labels: Path | None, package: str) -> bool:
    """Return whether there is anything to compare ``labels`` of a case with.

    That needs a scan; and the first labels may be those of the ``package`` itself (name and version).
    """
    if labels is None or not case.scan_files:
        return False
    return labels != case.labels or package_of(case) != package


def own_labels(
    image: Volume,
    package: ModelPackage,
    segmenter: Callable[[], Segmenter],
    review: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Volume | None:
    """Return the labels that a package makes of a scan: those in the review folder, otherwise made now and kept there.

    None if it finds no heart. ``segmenter`` is called only if they are to be made. Raises ``SegmenterError``,
    ``PackageError`` or ``Cancelled``.
    """
    path = review / FOLDER / f"{content_hash(image)[:32]}-{package.sha256[:16]}.labels.nii.gz"
    with contextlib.suppress(VolumeError):
        kept = read_labels(path)
        if kept.grid.same_as(image.grid, tolerance_mm=0.1):
            return kept if kept.array.any() else None
    made = segmenter().segment(image, quality=QUALITY, progress=progress, cancelled=cancelled).labels
    with contextlib.suppress(OutputError):  # a folder that is read-only stays so
        _keep(made, path)
    return made if made.array.any() else None


def _keep(labels: Volume, path: Path) -> None:
    from ..image.files import write_volume

    sweep(path.parent)
    with temporary_folder(path.parent) as part:
        write_volume(labels, part / path.name)
        (part / path.name).replace(path)
