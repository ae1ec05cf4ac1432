"""``cardiacldm package``: show, verify, import and export model packages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from CardiacLDMLib.text import plural, size_text

from .common import make_console, report_errors

if TYPE_CHECKING:
    from rich.table import Table

    from CardiacLDMLib.packages.manifest import Manifest
    from CardiacLDMLib.packages.store import ModelPackage

app = typer.Typer(no_args_is_help=True, help="Show, verify, import and export model packages.")

PackageArgument = Annotated[
    str | None, typer.Argument(metavar="[PACKAGE]", help="Name, folder or zip; without it, the package that ships.")
]


@app.command()
@report_errors()
def show(package: PackageArgument = None) -> None:
    """Show the card of a package: what it does, what it was trained on, its figures, its licence."""
    with _open(package) as opened:
        _print_card(opened)


@app.command()
@report_errors()
def verify(package: PackageArgument = None) -> None:
    """Verify a package: manifest, hashes, and every tensor of every network."""
    from CardiacLDMLib.packages.weights import load_networks

    with _open(package) as opened:
        with make_console().status("Checking every tensor"):
            load_networks(opened)
        manifest = opened.manifest
        files = plural(len(manifest.files), "file")
        typer.echo(f"{manifest.name} {manifest.version} is whole: {files}, {size_text(opened.size_bytes)}.")


@app.command("import")
@report_errors()
def import_(
    source: Annotated[Path, typer.Argument(help="Zip or folder of a package.", show_default=False)],
    models: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Install there; without it, among this user's packages.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an installed package of that name.")] = False,
) -> None:
    """Verify a package and install it; nothing is installed if anything is wrong."""
    from CardiacLDMLib.packages.archive import import_package
    from CardiacLDMLib.packages.store import user_packages_dir

    with make_console().status("Checking every tensor"):
        opened = import_package(source, models or user_packages_dir(), replace)
    manifest = opened.manifest
    typer.echo(f"Installed {manifest.name} {manifest.version} ({size_text(opened.size_bytes)}).")
    command = {"segmenter": "segment", "generator": "generate"}[manifest.kind]
    typer.echo(f"Use it with: cardiacldm {command} --package {opened.folder if models else manifest.name}")


@app.command()
@report_errors()
def export(
    package: Annotated[str, typer.Argument(help="Name or folder of a package.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="[ZIP]", help="The zip to write, or a folder for it.")] = Path("."),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite a file of that name.")] = False,
) -> None:
    """Write a package as a zip, to be imported elsewhere."""
    from CardiacLDMLib.packages.archive import export_package
    from CardiacLDMLib.packages.store import find_package

    path = export_package(find_package(package), out, overwrite)
    typer.echo(f"Wrote {path} ({size_text(path.stat().st_size)}).")


@contextlib.contextmanager
def _open(package: str | None) -> Iterator[ModelPackage]:
    """Open a package by name or folder, or from a zip, which is unpacked to a temporary folder."""
    from CardiacLDMLib.packages.archive import unpacked
    from CardiacLDMLib.packages.store import find_package, open_package

    if package is not None and os.path.isfile(package):
        with unpacked(Path(package)) as content:
            yield open_package(content, Path(package).name)
    else:
        yield find_package(package)


def _print_card(package: ModelPackage) -> None:
    from rich.table import Table
    from rich.text import Text

    manifest, training = package.manifest, package.manifest.training
    cases = plural(training.cases, "case")
    rows = {
        "Package": f"{manifest.name} {manifest.version} ({manifest.kind}, {size_text(package.size_bytes)})",
        "What it does": manifest.summary,
        "Structures": ", ".join(f"{s.name} {s.value}" for s in manifest.structures),
        "Trained on": f"{training.data} ({cases}, {training.date}, code {training.code_version})",
        "Intended use": manifest.intended_use,
        "Licence": manifest.licence,
        "Attribution": "\n".join(manifest.attribution),
        "SHA-256": package.sha256,
    }
    card = Table.grid(padding=(0, 2))
    if manifest.generator is not None:
        rows["Conditions"] = "\n".join(f"{name}: {values}" for name, values in manifest.generator.conditions().items())
    for label, value in rows.items():
        if value:
            card.add_row(Text(label, "bold"), Text(value))
    console = make_console(stderr=False)
    console.print(Text(manifest.title, "bold underline"))
    console.print(card)
    console.print(_figures(manifest) if manifest.figures else "No measured figures.")
    console.print(_networks(manifest))


def _figures(manifest: Manifest) -> Table:
    rows = [(f.name, f"{f.value:g} {f.unit}".strip(), f.on, str(f.cases), str(f.date)) for f in manifest.figures]
    return _table("Figures", ("Figure", "Value", "Measured on", "Cases", "Date"), rows)


def _networks(manifest: Manifest) -> Table:
    rows = [
        (name, spec.architecture, f"{spec.spacing_mm:g} mm", " x ".join(map(str, spec.patch)),
         f"{spec.window_hu[0]:g} to {spec.window_hu[1]:g} HU", str(manifest.training.steps.get(name, "")))
        for name, spec in manifest.networks.items()
    ]  # fmt: skip
    return _table("Networks", ("Network", "Architecture", "Spacing", "Patch", "Window", "Steps"), rows)


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """Make a table of plain text: text from a package is never markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
