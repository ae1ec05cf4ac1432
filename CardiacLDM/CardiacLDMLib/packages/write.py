"""Writing a package to a folder, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PackageError, PackageExists
from ..text import called_as
from .manifest import CARD, MANIFEST, Manifest
from .store import ModelPackage, _os_errors, _sha256
from .weights import verify_package

if TYPE_CHECKING:
    import torch


#: How folders begin in which packages are put together and taken away.
PART, REMOVED = ".part-", ".removed-"


# --- writing -------------------------------------------------------------------------------------------------------


def write_package(
    folder: Path,
    manifest: Manifest,
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    card: str,
    replace: bool = False,
) -> ModelPackage:
    """Write a package to ``folder``, whole or not at all, and verify it.

    ``weights`` maps the file name each network gives to its module's ``state_dict()``; they are stored in half
    precision. The manifest's ``files`` is filled in here. An existing package is kept unless ``replace``.
    """
    from safetensors.torch import save

    from .weights import pack_weights

    folder = Path(folder)
    with _os_errors(f"{folder.name} could not be written"), _beside(folder.parent) as aside:
        content = aside / folder.name
        content.mkdir()
        for role, spec in manifest.networks.items():
            try:
                # Not save_file: it makes files that only their owner may read.
                (content / spec.weights).write_bytes(save(pack_weights(spec, weights[spec.weights])))
            except PackageError as error:
                raise PackageError(f"{folder.name} was not written: in its {role}, {error}.") from error
        (content / CARD).write_text(card, encoding="utf-8", newline="\n")
        hashes = {name: _sha256(content / name) for name in sorted(manifest.file_names())}
        # Older programs refuse an entry that they do not know, even an empty one.
        unused = {"generator"} if manifest.generator is None else None
        text = manifest.model_copy(update={"files": hashes}).model_dump_json(indent=2, exclude=unused) + "\n"
        (content / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
        package = verify_package(content)
        _put_in_place(content, folder, replace)
    return dataclasses.replace(package, folder=folder)


@contextlib.contextmanager
def _beside(parent: Path) -> Iterator[Path]:
    """A temporary folder in ``parent``, so that renaming out of it is one step; gone afterwards."""
    with _os_errors(f"The folder {called_as(parent)} cannot be written to"):
        parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=PART, dir=parent))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(content: Path, target: Path, replace: bool) -> None:
    """Rename ``content`` to ``target`` once its files are on the disk; an old package goes to the temporary folder."""
    for path in content.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    old = content.parent / "replaced"
    if os.path.lexists(target):
        if not replace:
            raise PackageExists(f"A package named {target.name} is there already: use --replace to replace it.")
        if not (target / MANIFEST).is_file():
            raise PackageError(f"{target.name} exists and is not a package: it is left alone.")
        target.rename(old)
    try:
        content.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
