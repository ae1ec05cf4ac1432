"""Finding and opening packages: names, kinds, and what a changed or foreign package is refused for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.packages import store
from CardiacLDMLib.packages.archive import import_package
from CardiacLDMLib.packages.manifest import MANIFEST
from CardiacLDMLib.packages.store import find_package, open_package
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.package import write_tiny_package
from tests.support.package_attacks import (
    SEGMENTER,
    Attack,
    both,
    check_refused,
    cli,
    cut,
    edit,
    first,
    flip,
    list_extra,
    pickled,
    rehash,
    remove,
    set_arguments,
    set_manifest,
    set_spec,
    set_tensors,
    with_value,
    write,
    zipped,
)


def test_shipped_packages_come_first(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    monkeypatch.setattr(store, "shipped_packages_dir", lambda: shipped)
    write_tiny_package(shipped / store.DEFAULT_PACKAGE)
    assert find_package().folder == shipped / store.DEFAULT_PACKAGE
    import_package(tiny, store.user_packages_dir())
    assert find_package("tiny").folder == store.user_packages_dir() / "tiny"
    with pytest.raises(PackageError, match=r"'other'.*virtual-heart-v2, tiny"):
        find_package("other")
    zip_file = zipped(shipped / store.DEFAULT_PACKAGE, tmp_path / "again.zip")
    result = cli("import", zip_file)
    assert result.exit_code == 2
    assert "virtual-heart-v2" in result.stderr
    assert cli("import", zip_file, "--models", tmp_path / "elsewhere").exit_code == 0


def test_package_opens_without_torch(tiny: Path) -> None:
    code = (
        "import sys; from CardiacLDMLib.packages.store import open_package; open_package(sys.argv[1]);"
        "assert not {'torch', 'monai', 'typer', 'rich', 'SimpleITK'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tiny], check=True)


def test_a_generator_is_imported_and_shown(tiny_generator: Path, tiny: Path) -> None:
    installed = cli("import", tiny_generator)
    assert installed.exit_code == 0, installed.output
    assert "cardiacldm generate --package tiny-generator" in installed.stdout
    card = cli("show", "tiny-generator").stdout
    for expected in ("generator", "autoencoder", "diffusion", "sex: female, male", "spacing_mm: 1 to 3"):
        assert expected in card
    assert cli("import", tiny).exit_code == 0
    assert {"tiny", "tiny-generator"} <= set(store.installed_packages())
    assert "tiny-generator" not in store.installed_packages("segmenter")
    assert "tiny" not in store.installed_packages("generator")
    (store.user_packages_dir() / "tiny" / MANIFEST).write_text("{")
    assert "tiny" in store.installed_packages("segmenter")  # it is refused when it is opened


def test_a_package_of_the_other_kind_is_refused(tiny_generator: Path, tiny: Path) -> None:
    with pytest.raises(PackageError, match=r"tiny-generator.*generator"):
        Segmenter(open_package(tiny_generator), "cpu")
    with pytest.raises(PackageError, match=r"tiny.*segmenter"):
        store.require_kind(open_package(tiny), "generator")


# --- attacks on the content -------------------------------------------------------------------------------------------


HUGE = {"channels": [10**9, 10**9]}


ATTACKS: dict[str, tuple[Attack, str]] = {
    # changed, cut short, missing, left over
    "tampered weights": (flip(SEGMENTER, -1), "segmenter.safetensors"),
    "tampered card": (flip("README.md", 3), "README.md"),
    "weights cut short": (cut(SEGMENTER, 4000), "segmenter.safetensors is cut"),
    "weights cut in the header": (cut(SEGMENTER, 100), "segmenter.safetensors is cut"),
    "weights empty": (cut(SEGMENTER, 0), "segmenter.safetensors is cut"),
    "weights cut short, hash given": (both(cut(SEGMENTER, 4000), rehash), "segmenter.safetensors"),
    "weights missing": (remove(SEGMENTER), "segmenter.safetensors is missing"),
    "card missing": (remove("README.md"), "README.md is missing"),
    "unlisted file": (write("model.pt", pickled()), "model.pt"),
    "listed pickle": (list_extra, "model.pt"),
    "pickle for weights": (both(write(SEGMENTER, pickled()), rehash), "segmenter.safetensors"),
    "many files": (both(*(write(f"{n}.txt", b"x") for n in range(40))), "32 files"),
    # foreign
    "no manifest": (remove(MANIFEST), "manifest.json"),
    "foreign manifest": (write(MANIFEST, b'{"manifest_version": 3, "name": "An extension"}'), "manifest.json"),
    "manifest is a list": (write(MANIFEST, b"[1]"), "manifest.json"),
    "manifest is no JSON": (write(MANIFEST, b"schema: 1"), "JSON"),
    "manifest is no text": (write(MANIFEST, bytes(range(256))), "JSON"),
    "manifest nested deeply": (write(MANIFEST, b"[" * 100_000), "JSON"),
    "manifest huge": (write(MANIFEST, b" " * (store.MAX_MANIFEST_BYTES + 1)), "larger"),
    "newer version": (set_manifest(schema_version=3, news=1), "newer version"),
    "version as text": (set_manifest(schema_version="1"), "manifest.json"),
    "version zero": (set_manifest(schema_version=0), "schema_version"),
    # names
    "name climbs": (set_manifest(name="../evil"), "manifest.json, name"),
    "name absolute": (set_manifest(name="/etc/evil"), "manifest.json, name"),
    "name hidden": (set_manifest(name=".part-x"), "manifest.json, name"),
    "name of a device": (set_manifest(name="con"), "con "),
    "name empty": (set_manifest(name=""), "manifest.json, name"),
    "name with a line break": (set_manifest(name="tiny\n"), "manifest.json, name"),
    "weights climb": (set_spec(weights="../segmenter.safetensors"), "networks.segmenter.weights"),
    "weights are a pickle": (set_spec(weights="segmenter.pt"), "networks.segmenter.weights"),
    "weights shared": (set_spec(weights="locator.safetensors"), "share one file"),
    "hash missing": (lambda f: edit(f, lambda m: m["files"].pop(SEGMENTER)), "segmenter.safetensors"),
    "hash malformed": (set_manifest(files={SEGMENTER: "abc"}), "files.segmenter.safetensors"),
    "escape codes in the title": (set_manifest(title="\x1b[2JHello"), "manifest.json, title"),
    "unknown field": (set_manifest(_target_="os.system"), "manifest.json, _target_"),
    # architecture
    "unknown architecture": (set_spec(architecture="os.system"), "'os.system'"),
    "architecture with escape codes": (set_spec(architecture="\x1b[2J"), "networks.segmenter.architecture"),
    "channels huge": (set_arguments(**HUGE), "channels.0"),
    "levels without end": (set_arguments(channels=[8] * 1000, strides=[2] * 999), "channels"),
    "channels negative": (set_arguments(channels=[-1, 8]), "channels.0"),
    "channels as text": (set_arguments(channels=["8", 8]), "channels.0"),
    "strides too few": (set_arguments(strides=[]), "strides"),
    "unknown argument": (set_arguments(act="__import__('os')"), "act"),
    "patch huge": (set_spec(patch=[10**9] * 3), "networks.segmenter.patch.0"),
    "patch does not fit": (set_spec(patch=[33, 32, 32]), "33 x 32 x 32"),
    "spacing not a number": (set_spec(spacing_mm=float("nan")), "networks.segmenter.spacing_mm"),
    "spacing zero": (set_spec(spacing_mm=0.0), "networks.segmenter.spacing_mm"),
    "window empty": (set_spec(window_hu=[700, 700]), "window_hu"),
    "network missing": (lambda f: edit(f, lambda m: m["networks"].pop("locator")), "locator"),
    "a generator": (set_manifest(kind="generator"), "autoencoder"),
    "unknown kind": (set_manifest(kind="virus"), "manifest.json, kind"),
    # structures
    "structures missing": (lambda f: edit(f, lambda m: m["structures"].pop()), "structures"),
    "value wrong": (lambda f: edit(f, lambda m: m["structures"][0].update(value=3)), "structures"),
    "code wrong": (lambda f: edit(f, lambda m: m["structures"][0].update(snomed_code="1")), "structures"),
    # tensors
    "tensor missing": (set_tensors(lambda t: t.pop(first(t))), "is missing"),
    "tensor left over": (set_tensors(lambda t: t.update(extra=torch.zeros(3))), "tensor extra"),
    "other shape": (set_tensors(lambda t: t.update({first(t): torch.zeros(2, 3)})), "[2, 3]"),
    "no number": (with_value(float("nan")), "finite"),
    "infinite": (with_value(float("inf")), "finite"),
    "whole numbers": (set_tensors(lambda t: t.update({first(t): t[first(t)].int()})), "I32"),
    "weights of another network": (set_arguments(channels=[8, 8]), "shape"),
}  # fmt: skip


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attack(attack: str, as_zip: bool, copy: Path, tmp_path: Path, models: Path) -> None:
    change, fact = ATTACKS[attack]
    change(copy)
    source = zipped(copy, tmp_path / "tiny.zip") if as_zip else copy
    check_refused(cli("import", source, "--models", models), models, fact)


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_every_command_refuses_a_changed_package(command: str, copy: Path, tmp_path: Path, models: Path) -> None:
    flip(SEGMENTER, -1)(copy)
    rest = [models / "tiny.zip"] if command == "export" else []
    check_refused(cli(command, copy, *rest), models, "segmenter.safetensors")


def test_links_and_folders_inside_are_refused(copy: Path, tmp_path: Path, models: Path) -> None:
    (copy / "README.md").unlink()
    (copy / "README.md").symlink_to("/etc/passwd")
    check_refused(cli("import", copy, "--models", models), models, "README.md is a link")
    (copy / "README.md").unlink()
    (copy / "README.md").mkdir()
    check_refused(cli("import", copy, "--models", models), models, "README.md is a sub-folder")
    (copy / "README.md").rmdir()
    os.mkfifo(copy / "README.md")
    check_refused(cli("import", copy, "--models", models), models, "README.md is a device")


def test_foreign_sources_are_refused(tmp_path: Path, models: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_refused(cli("import", tmp_path / "empty", "--models", models), models, "manifest.json")
    check_refused(cli("import", tmp_path / "nothing", "--models", models), models, "nothing")
    check_refused(cli("import", os.devnull, "--models", models), models, "null")
    check_refused(cli("import", "/", "--models", models), models, "Error: / ")


@pytest.mark.parametrize("command", ["show", "verify", "import", "export"])
@pytest.mark.parametrize("name", ["nothing", "a" * 5000, "\x1b[2J", "", "nothing/../x"])
def test_unknown_names_are_refused(command: str, name: str, models: Path) -> None:
    rest = ["--models", models] if command == "import" else []
    check_refused(cli(command, name, *rest), models, "")


def test_the_current_folder_is_a_package_with_a_name(copy: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    assert "is whole" in cli("verify", ".").stdout
    flip(SEGMENTER, -1)(copy)
    check_refused(cli("import", ".", "--models", models), models, "Error: tiny ")


def test_a_network_as_large_as_allowed_takes_no_memory(copy: Path, models: Path) -> None:
    """The manifest asks for 20 GB of parameters; the tensors of the file are compared before memory is allocated."""
    import resource

    set_arguments(channels=[1024] * 7, strides=[2] * 6, num_res_units=4)(copy)
    set_spec(patch=[512, 512, 512])(copy)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_refused(cli("import", copy, "--models", models), models, "the tensor")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB
