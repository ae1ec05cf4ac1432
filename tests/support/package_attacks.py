"""Changes to a package that must be refused, and the command line that must refuse them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from cardiacldm_training.cli import app
from CardiacLDMLib.files import sha256
from CardiacLDMLib.packages.manifest import MANIFEST

Attack = Callable[[Path], None]
SEGMENTER = "segmenter.safetensors"


def cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["package", *map(str, arguments)])


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below ``folder`` by relative path, hidden and temporary files included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_refused(result: Result, models: Path, fact: str) -> None:
    """Check for one sentence that names ``fact``, exit code 2, an empty ``models`` and no exception."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert fact in result.stderr
    check_one_sentence(result.stderr)
    assert not models.is_dir() or list(models.iterdir()) == []


def check_one_sentence(text: str) -> None:
    assert text.startswith("Error: ")
    assert text.endswith(".\n")
    assert text.count("\n") == 1
    assert len(text) < 400
    assert text[:-1].isprintable()


def zipped(folder: Path, path: Path) -> Path:
    """Zip every file in ``folder`` without any check."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"tiny/{file.name}")
    return path


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest as parsed."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def rehash(folder: Path) -> None:
    """Write the present hashes of its files into the manifest, as an attacker would."""
    edit(folder, lambda m: m.update(files={name: sha256(folder / name) for name in m["files"]}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / SEGMENTER)
    change(tensors)
    save_file(tensors, folder / SEGMENTER)
    rehash(folder)


def spec(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["networks"]["segmenter"]


def set_arguments(**changes: Any) -> Attack:
    return lambda folder: edit(folder, lambda m: spec(m)["arguments"].update(changes))


def set_spec(**changes: Any) -> Attack:
    return lambda folder: edit(folder, lambda m: spec(m).update(changes))


def set_manifest(**changes: Any) -> Attack:
    return lambda folder: edit(folder, lambda m: m.update(changes))


def set_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Attack:
    return lambda folder: edit_weights(folder, change)


def write(name: str, data: bytes) -> Attack:
    def attack(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return attack


def both(*attacks: Attack) -> Attack:
    def attack(folder: Path) -> None:
        for one in attacks:
            one(folder)

    return attack


def flip(name: str, offset: int) -> Attack:
    def attack(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[offset] ^= 0x10
        (folder / name).write_bytes(data)

    return attack


def cut(name: str, keep: int) -> Attack:
    return lambda folder: os.truncate(folder / name, keep)


def remove(name: str) -> Attack:
    return lambda folder: (folder / name).unlink()


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.ndim > 1)


def with_value(value: float) -> Attack:
    return set_tensors(lambda t: t[first(t)].view(-1).__setitem__(3, value))


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    return buffer.getvalue()


def list_extra(folder: Path) -> None:
    (folder / "model.pt").write_bytes(pickled())
    edit(folder, lambda m: m["files"].update({"model.pt": sha256(folder / "model.pt")}))


def set_generator(**changes: Any) -> Attack:
    return lambda folder: edit(folder, lambda m: m["generator"].update(changes))


def set_sampling(**changes: Any) -> Attack:
    return lambda folder: edit(folder, lambda m: m["generator"]["sampling"].update(changes))


def set_step(step: str, **settings: Any) -> Attack:
    return set_generator(postprocess=[{"step": step, **settings}])


def set_both(**changes: Any) -> Attack:
    return lambda folder: edit(folder, lambda m: [spec.update(changes) for spec in m["networks"].values()])


def set_network(role: str, **changes: Any) -> Attack:
    return lambda folder: edit(folder, lambda m: m["networks"][role].update(changes))
