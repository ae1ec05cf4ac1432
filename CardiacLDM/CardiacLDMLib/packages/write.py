"""Write a model package to a folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PackageError, PackageExists
from ..files import move_folder, output_errors, sha256, sweep, temporary_folder
from .manifest import CARD, MANIFEST, Manifest
from .store import ModelPackage
from .weights import pack_weights, verify_package

if TYPE_CHECKING:
    import torch


def write_package(
    folder: Path,
    manifest: Manifest,
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    card: str,
    replace: bool = False,
) -> ModelPackage:
    """Write a package to ``folder``, verify it and return it. After an error nothing is left behind.

    ``weights`` maps the file name of each network to its ``state_dict()``, which is stored in half precision. ``card``:
    the text of README.md. The manifest's ``files`` is filled in. Raises :class:`PackageError`, :class:`PackageExists`
    for an existing package unless ``replace``, and ``OutputError``.
    """
    from safetensors.torch import save

    folder = Path(folder)
    sweep(folder.parent)
    with output_errors(folder), temporary_folder(folder.parent) as temporary:
        content = temporary / folder.name
        content.mkdir()
        for role, spec in manifest.networks.items():
            try:
                # save_file would make files that only their owner may read.
                (content / spec.weights).write_bytes(save(pack_weights(spec, weights[spec.weights])))
            except PackageError as error:
                raise PackageError(f"{folder.name} was not written: in its {role}, {error}.") from error
        (content / CARD).write_text(card, encoding="utf-8", newline="\n")
        hashes = {name: sha256(content / name) for name in sorted(manifest.file_names())}
        unused = {name for name in ("generator", "borders", "expected_dice") if getattr(manifest, name) is None}
        text = manifest.model_copy(update={"files": hashes}).model_dump_json(indent=2, exclude=unused) + "\n"
        (content / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
        package = verify_package(content)
        install_folder(content, folder, replace)
    return dataclasses.replace(package, folder=folder)


def install_folder(content: Path, target: Path, replace: bool) -> None:
    """Move the folder ``content`` of a verified package to ``target`` (see :func:`CardiacLDMLib.files.move_folder`).

    Raises :class:`PackageExists` if a package is there and ``replace`` is False, :class:`PackageError` if something
    else is there.
    """
    if os.path.lexists(target):
        if not replace:
            raise PackageExists(f"A package named {target.name} is there already: use --replace to replace it.")
        if not (target / MANIFEST).is_file():
            raise PackageError(f"{target.name} exists and is not a package: it is left alone.")
    move_folder(content, target, replace=replace)
