"""Model packages through the command line: the whole round, every attack with its own sentence, and fuzzing."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from cardiacldm_training.cli import app
from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.files import sha256
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages import archive, manifest, store
from CardiacLDMLib.packages.archive import export_package, import_package
from CardiacLDMLib.packages.manifest import MANIFEST, manifest_schema
from CardiacLDMLib.packages.store import find_package, open_package
from CardiacLDMLib.packages.weights import verify_package
from CardiacLDMLib.packages.write import write_package
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.generator_package import write_tiny_generator
from tests.support.package import tiny_manifest, write_tiny_package

Attack = Callable[[Path], None]
SCHEMA = Path(__file__).parents[2] / "docs" / "manifest.schema.json"
SEGMENTER = "segmenter.safetensors"


# --- helpers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid package that no test changes."""
    return write_tiny_package(tmp_path_factory.mktemp("packages") / "tiny")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A valid package to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "source" / "tiny"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


def cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["package", *map(str, arguments)])


def content(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` with its bytes, hidden and temporary ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_refused(result: Result, models: Path, sentence: str) -> None:
    """One sentence with ``sentence`` in it, exit code 2, nothing left in ``models``, no exception."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert sentence in result.stderr
    check_one_sentence(result.stderr)
    assert not models.is_dir() or list(models.iterdir()) == []


def check_one_sentence(text: str) -> None:
    assert text.startswith("Error: ")
    assert text.endswith(".\n")
    assert text.count("\n") == 1
    assert len(text) < 400
    assert text[:-1].isprintable()


def zipped(folder: Path, path: Path) -> Path:
    """Zip whatever is in ``folder``, without looking."""
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
    """Give the manifest the hashes that its files now have, as an attacker would."""
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


# --- what should work ----------------------------------------------------------------------------------------------


def test_export_import_show_verify(tiny: Path, tmp_path: Path) -> None:
    exported = cli("export", tiny, tmp_path)
    assert exported.exit_code == 0, exported.output
    installed = cli("import", tmp_path / "tiny.zip")
    assert installed.exit_code == 0, installed.output
    assert "--package tiny" in installed.stdout
    assert content(store.user_packages_dir()) == {f"tiny/{name}": data for name, data in content(tiny).items()}
    for package in ("tiny", tiny, tmp_path / "tiny.zip"):
        assert "is whole" in cli("verify", package).stdout
        card = cli("show", package).stdout
        for expected in ("Tiny heart", "Labels nothing well", "Nothing (0 cases", "mean Dice", "0.01", "CC0-1.0",
                         "locator", "segmenter", "6 mm", "LAA 8", "The authors of the tests"):  # fmt: skip
            assert expected in card


def test_import_of_a_folder_leaves_litter_behind(copy: Path, tiny: Path, models: Path) -> None:
    (copy / ".DS_Store").write_bytes(b"Mac")
    assert cli("import", copy, "--models", models).exit_code == 0
    assert content(models / "tiny") == content(tiny)


def test_export_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    one, two = (export_package(open_package(tiny), tmp_path / name) for name in ("1.zip", "2.zip"))
    assert one.read_bytes() == two.read_bytes()


def test_export_keeps_what_is_there(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.zip"
    target.write_text("mine")
    result = cli("export", tiny, target)
    assert result.exit_code == 2
    check_one_sentence(result.stderr)
    assert target.read_text() == "mine"
    assert cli("export", tiny, target, "--overwrite").exit_code == 0
    assert zipfile.is_zipfile(target)


def test_a_flat_zip_is_taken(tiny: Path, tmp_path: Path, models: Path) -> None:
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        for file in tiny.iterdir():
            archive.write(file, file.name)
    assert cli("import", tmp_path / "flat.zip", "--models", models).exit_code == 0


def test_a_zip_with_an_entry_for_its_folder_is_taken(tiny: Path, tmp_path: Path, models: Path) -> None:
    shutil.make_archive(str(tmp_path / "made"), "zip", tiny.parent, "tiny")
    assert cli("import", tmp_path / "made.zip", "--models", models).exit_code == 0


def test_in_a_process_of_its_own(copy: Path, tmp_path: Path, models: Path) -> None:
    """As a user runs it: a refusal, with nothing but a sentence on the terminal."""
    flip(SEGMENTER, -1)(copy)
    bad = zipped(copy, tmp_path / "bad.zip")
    command = [sys.executable, "-m", "cardiacldm_training.cli", "package", "import", bad, "--models", models]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(models.iterdir())
    sentence = "Error: bad.zip is refused: segmenter.safetensors was changed, it does not match its SHA-256.\n"
    assert sentence == _stderr(bad, models)


def _stderr(source: Path, models: Path) -> str:
    return cli("import", source, "--models", models).stderr


def test_names_are_found_shipped_first(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    monkeypatch.setattr(store, "shipped_packages_dir", lambda: shipped)
    write_tiny_package(shipped / store.DEFAULT_PACKAGE)
    assert find_package().folder == shipped / store.DEFAULT_PACKAGE
    import_package(tiny, store.user_packages_dir())
    assert find_package("tiny").folder == store.user_packages_dir() / "tiny"
    with pytest.raises(PackageError, match=r"no package 'other' \(installed: virtual-heart-v1, tiny\)"):
        find_package("other")
    zip_file = zipped(shipped / store.DEFAULT_PACKAGE, tmp_path / "again.zip")
    result = cli("import", zip_file)
    assert result.exit_code == 2
    assert "ships with CardiacLDM" in result.stderr
    assert cli("import", zip_file, "--models", tmp_path / "elsewhere").exit_code == 0


def test_package_opens_without_torch(tiny: Path) -> None:
    code = (
        "import sys; from CardiacLDMLib.packages.store import open_package; open_package(sys.argv[1]);"
        "assert not {'torch', 'monai', 'typer', 'rich', 'SimpleITK'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tiny], check=True)


# --- the schema ----------------------------------------------------------------------------------------------------


def test_schema_in_docs_is_up_to_date() -> None:
    assert json.loads(SCHEMA.read_text()) == manifest_schema(), (
        "update it: python -m CardiacLDMLib.packages.manifest > docs/manifest.schema.json"
    )


def test_schema_agrees_with_a_written_manifest(tiny: Path) -> None:
    manifest = json.loads((tiny / MANIFEST).read_text())
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.check_schema(validator.schema)
    validator.validate(manifest)
    spec(manifest)["arguments"]["channels"] = [10**9, 8]
    assert not validator.is_valid(manifest)


# --- generators ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid generator package that no test changes."""
    return write_tiny_generator(tmp_path_factory.mktemp("generators") / "tiny-generator")


def test_a_generator_is_imported_and_shown(tiny_generator: Path, tiny: Path) -> None:
    installed = cli("import", tiny_generator)
    assert installed.exit_code == 0, installed.output
    assert "cardiacldm generate --package tiny-generator" in installed.stdout
    card = cli("show", "tiny-generator").stdout
    for expected in ("generator", "autoencoder", "diffusion", "sex: female, male", "spacing_mm: 1 to 3"):
        assert expected in card
    assert cli("import", tiny).exit_code == 0
    assert {"tiny", "tiny-generator"} <= set(store.known_packages())
    assert "tiny-generator" not in store.known_packages("segmenter")
    assert "tiny" not in store.known_packages("generator")
    (store.user_packages_dir() / "tiny" / MANIFEST).write_text("{")
    assert "tiny" in store.known_packages("segmenter")  # to be refused in words when it is opened


def test_each_kind_does_its_own_work_only(tiny_generator: Path, tiny: Path) -> None:
    with pytest.raises(PackageError, match="tiny-generator is a generator package, which generates"):
        Segmenter(open_package(tiny_generator), "cpu")
    with pytest.raises(PackageError, match="tiny is a segmenter package, which labels scans: choose one"):
        store.require_kind(open_package(tiny), "generator")


def test_a_segmenters_manifest_has_no_entry_of_generators(tiny: Path, tiny_generator: Path) -> None:
    assert "generator" not in json.loads((tiny / MANIFEST).read_text())
    manifest = json.loads((tiny_generator / MANIFEST).read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(manifest)
    assert list(manifest["generator"]["choices"]) == ["sex", "implant"]  # the network's order


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


def as_labelling(folder: Path) -> None:
    unet = {"architecture": "unet", "arguments": {"channels": [4, 8], "strides": [2]}}
    edit(folder, lambda m: m["networks"]["autoencoder"].update(unet))


def prior_for_ddpm(folder: Path) -> None:
    set_sampling(schedule="ddpm", solver="ddim")(folder)
    prior = {"prior_modes": 2, "latent_shape": [4, 4, 4]}
    edit(folder, lambda m: m["networks"]["diffusion"]["arguments"].update(prior))


GENERATOR_ATTACKS: dict[str, tuple[Attack, str]] = {
    "nothing said": (set_manifest(generator=None), "the entry generator belongs to packages of the kind generator"),
    "unknown schedule": (set_sampling(schedule="cosine"), "generator.sampling.schedule"),
    "solver of another schedule": (set_sampling(solver="ddim"), "the solver ddim does not fit the schedule rectified"),
    "scale zero": (set_generator(latent_scale=[1, 1, 0, 1]), "generator.latent_scale.2"),
    "shift no number": (set_generator(latent_shift=[0, 0, 0, float("inf")]), "generator.latent_shift.3"),
    "shift too short": (set_generator(latent_shift=[0, 0, 0]), "must be equally long"),
    "latents too few": (set_generator(latent_shift=[0], latent_scale=[1]), "agree in the number of latent channels"),
    "chances for another": (set_generator(chances={"sex": [0.5, 0.3, 0.2]}), "the chances of sex must be as many"),
    "chances for nothing": (set_generator(chances={"weight": [1.0]}), "the chances of weight must be as many"),
    "no chance at all": (set_generator(chances={"sex": [0.0, 0.0]}), "the chances of sex must be as many"),
    "value twice": (set_generator(choices={"sex": ["female"] * 2, "implant": ["none", "leads"]}), "a value twice"),
    "value too many": (set_generator(choices={"sex": ["a", "b", "c"], "implant": ["none", "leads"]}), "as many values"),
    "choice too few": (set_generator(choices={"sex": ["female", "male"]}), "as many values as each"),
    "number too many": (set_generator(numbers={"a": [0, 1], "b": [0, 1], "c": [0, 1]}), "the network's numbers must"),
    "range upside down": (set_generator(numbers={"a": [1, 0], "b": [0, 1]}), "the lower end of the condition a"),
    "choice and number": (set_generator(numbers={"sex": [0, 1], "b": [0, 1]}), "cannot be both a choice and a number"),
    "name with markup": (set_generator(numbers={"<b>": [0, 1], "b": [0, 1]}), "it is not written as it must be"),
    "steps without end": (set_sampling(steps=10**9), "generator.sampling.steps"),
    "shift of ddpm": (
        set_sampling(schedule="ddpm", solver="ddim", time_shift=3.0),
        "time_shift",
    ),
    "prior for ddpm": (prior_for_ddpm, "a network with a prior fits the schedule rectified_flow alone"),
    "restarts of ddpm": (
        set_sampling(schedule="ddpm", solver="ddim", restarts=[{"time": 0.5}]),
        "restarts",
    ),
    "restart at noise": (set_sampling(restarts=[{"time": 1.0}]), "generator.sampling.restarts.0"),
    "restarts without end": (set_sampling(restarts=[{"time": 0.5}] * 17), "generator.sampling.restarts"),
    "restart without a time": (set_sampling(restarts=[{"gains": [1.0] * 4}]), "generator.sampling.restarts.0.time"),
    "gains of some channels": (
        set_sampling(restarts=[{"time": 0.5, "gains": [1.0]}]), "for each latent channel",
    ),
    "gain of nothing": (set_sampling(restarts=[{"time": 0.5, "gains": [0.0] * 4}]), "sampling.restarts.0.gains"),
    "smoothing of nothing": (set_step("smooth_latents", widths=[0.0, 1.0]), "widths.0"),
    "deblocking of nothing": (set_step("deblock", width_hu=0.0), "width_hu"),
    "one smoothing": (set_step("smooth_latents", widths=[1.0]), "widths.1"),
    "unknown step": (set_step("sharpen", width_hu=9.0), "generator.postprocess.0"),
    "steps out of order": (
        set_generator(postprocess=[{"step": "deblock", "width_hu": 9.0}, {"step": "smooth_latents", "widths": [1, 1]}]),
        "postprocess",
    ),
    "shift below one": (set_sampling(time_shift=0.5), "generator.sampling.time_shift"),
    "texture of bone": (set_step("texture", spectra={"bone": [1.0] * 14}), "spectra.bone"),
    "texture too short": (set_step("texture", spectra={"fat": [1.0] * 13}), "the spectrum of 'fat'"),
    "texture without end": (set_step("texture", spectra={"fat": [1e9] * 14}), "the spectrum of 'fat'"),
    "tone that falls": (set_step("tone", curve=[[0.0, 0.0], [9.0, -9.0]]), "the knots of a tone must rise"),
    "tone that stands still": (set_step("tone", curve=[[0.0, 0.0], [0.0, 9.0]]), "the knots of a tone must rise"),
    "tone of no scan": (set_step("tone", curve=[[0.0, 1e9]]), "a tone has at most 64 knots, from -5000 to 5000 HU"),
    "tone of too many knots": (set_step("tone", curve=[[float(n)] * 2 for n in range(65)]), "at most 64 knots"),
    "unknown entry": (set_sampling(guidance_scale=2.0), "generator.sampling.guidance_scale"),
    "networks on two grids": (set_network("diffusion", patch=[16, 16, 32]), "must agree in patch"),
    "networks at two spacings": (set_network("diffusion", spacing_mm=2.0), "must agree in spacing_mm"),
    "autoencoder that labels": (as_labelling, "the architecture unet cannot be the network autoencoder"),
    "grid that does not divide": (set_both(patch=[18, 16, 16]), "it cannot work on a patch of 18 x 16 x 16 voxels"),
}  # fmt: skip


@pytest.mark.parametrize("attack", GENERATOR_ATTACKS)
def test_attack_on_a_generator(attack: str, tiny_generator: Path, tmp_path: Path) -> None:
    change, sentence = GENERATOR_ATTACKS[attack]
    copy = Path(shutil.copytree(tiny_generator, tmp_path / "tiny-generator"))
    change(copy)
    with pytest.raises(PackageError) as caught:
        verify_package(copy)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_segmenter_with_a_generators_entry_is_refused(copy: Path, tiny_generator: Path) -> None:
    entry = json.loads((tiny_generator / MANIFEST).read_text())["generator"]
    set_manifest(generator=entry)(copy)
    with pytest.raises(PackageError, match="the entry generator belongs to packages of the kind generator"):
        open_package(copy)
    autoencoder = json.loads((tiny_generator / MANIFEST).read_text())["networks"]["autoencoder"]
    labelling = {name: {**autoencoder, "weights": f"{name}.safetensors"} for name in ("locator", "segmenter")}
    edit(copy, lambda m: (m.pop("generator"), m.update(networks=labelling)))
    with pytest.raises(PackageError, match="the architecture joint_autoencoder cannot be the network locator"):
        open_package(copy)


# --- writing -------------------------------------------------------------------------------------------------------


def weights_for(manifest: manifest.Manifest) -> dict[str, dict[str, torch.Tensor]]:
    return {s.weights: build_network(s.architecture, s.arguments).state_dict() for s in manifest.networks.values()}


def test_writing_keeps_an_existing_package_unless_told(tiny: Path, copy: Path) -> None:
    manifest = tiny_manifest()
    with pytest.raises(PackageError, match="there already"):
        write_package(copy, manifest, weights_for(manifest), "new")
    assert content(copy) == content(tiny)
    assert write_package(copy, manifest, weights_for(manifest), "new", replace=True).folder == copy
    assert (copy / "README.md").read_text() == "new"
    assert list(copy.parent.iterdir()) == [copy]


def test_writing_refuses_weights_that_do_not_fit(tmp_path: Path) -> None:
    manifest = tiny_manifest()
    weights = weights_for(manifest)
    name = first(weights[SEGMENTER])
    weights[SEGMENTER][name] = weights[SEGMENTER][name] * 1e9  # more than half precision holds
    with pytest.raises(PackageError, match=r"in its segmenter, the tensor .* not finite"):
        write_package(tmp_path / "tiny", manifest, weights, "card")
    del weights[SEGMENTER][name]
    with pytest.raises(PackageError, match="is missing"):
        write_package(tmp_path / "tiny", manifest, weights, "card")
    assert list(tmp_path.iterdir()) == []


# --- attacks on what a package holds -------------------------------------------------------------------------------

HUGE = {"channels": [10**9, 10**9]}
ATTACKS: dict[str, tuple[Attack, str]] = {
    # changed, cut short, missing, left over
    "tampered weights": (flip(SEGMENTER, -1), "segmenter.safetensors was changed, it does not match its SHA-256"),
    "tampered card": (flip("README.md", 3), "README.md was changed"),
    "weights cut short": (cut(SEGMENTER, 4000), "segmenter.safetensors is cut short"),
    "weights cut in the header": (cut(SEGMENTER, 100), "segmenter.safetensors is cut short"),
    "weights empty": (cut(SEGMENTER, 0), "segmenter.safetensors is cut short"),
    "weights cut short, hash given": (both(cut(SEGMENTER, 4000), rehash), "damaged, cut short, or not a safetensors"),
    "weights missing": (remove(SEGMENTER), "segmenter.safetensors is missing"),
    "card missing": (remove("README.md"), "README.md is missing"),
    "unlisted file": (write("model.pt", pickled()), "it holds model.pt, which its manifest does not list"),
    "listed pickle": (list_extra, "lists model.pt, which no network uses"),
    "pickle for weights": (both(write(SEGMENTER, pickled()), rehash), "not a safetensors file"),
    "many files": (both(*(write(f"{n}.txt", b"x") for n in range(40))), "more than 32 files"),
    # foreign
    "no manifest": (remove(MANIFEST), "is not a CardiacLDM package: it holds no manifest.json"),
    "foreign manifest": (write(MANIFEST, b'{"manifest_version": 3, "name": "An extension"}'), "something else"),
    "manifest is a list": (write(MANIFEST, b"[1]"), "something else"),
    "manifest is no JSON": (write(MANIFEST, b"schema: 1"), "not valid JSON"),
    "manifest is no text": (write(MANIFEST, bytes(range(256))), "not valid JSON"),
    "manifest nested deeply": (write(MANIFEST, b"[" * 100_000), "not valid JSON"),
    "manifest huge": (write(MANIFEST, b" " * (store.MAX_MANIFEST_BYTES + 1)), "larger than a manifest can be"),
    "newer version": (set_manifest(schema_version=3, news=1), "newer version"),
    "version as text": (set_manifest(schema_version="1"), "something else"),
    "version zero": (set_manifest(schema_version=0), "schema_version"),
    # names
    "name climbs": (set_manifest(name="../evil"), "in its manifest.json, name: it is not written as"),
    "name absolute": (set_manifest(name="/etc/evil"), "in its manifest.json, name: it is not written as"),
    "name hidden": (set_manifest(name=".part-x"), "in its manifest.json, name: it is not written as"),
    "name of a device": (set_manifest(name="con"), "con cannot be the name of a file"),
    "name empty": (set_manifest(name=""), "in its manifest.json, name: it is not written as"),
    "name with a line break": (set_manifest(name="tiny\n"), "in its manifest.json, name: it is not written as"),
    "weights climb": (set_spec(weights="../segmenter.safetensors"), "networks.segmenter.weights"),
    "weights are a pickle": (set_spec(weights="segmenter.pt"), "networks.segmenter.weights"),
    "weights shared": (set_spec(weights="locator.safetensors"), "two networks share one file"),
    "hash missing": (lambda f: edit(f, lambda m: m["files"].pop(SEGMENTER)), "gives no hash for segmenter"),
    "hash malformed": (set_manifest(files={SEGMENTER: "abc"}), "files.segmenter.safetensors"),
    "escape codes in the title": (set_manifest(title="\x1b[2JHello"), "in its manifest.json, title"),
    "unknown field": (set_manifest(_target_="os.system"), "in its manifest.json, _target_"),
    # architecture
    "unknown architecture": (set_spec(architecture="os.system"), "the architecture 'os.system' is unknown"),
    "architecture with escape codes": (set_spec(architecture="\x1b[2J"), "networks.segmenter.architecture"),
    "channels huge": (set_arguments(**HUGE), "channels.0: it should be less than or equal to 1024"),
    "levels without end": (set_arguments(channels=[8] * 1000, strides=[2] * 999), "channels: Tuple should have"),
    "channels negative": (set_arguments(channels=[-1, 8]), "channels.0: it should be greater"),
    "channels as text": (set_arguments(channels=["8", 8]), "channels.0: it should be a valid integer"),
    "strides too few": (set_arguments(strides=[]), "strides"),
    "unknown argument": (set_arguments(act="__import__('os')"), "act: there is no such entry"),
    "patch huge": (set_spec(patch=[10**9] * 3), "networks.segmenter.patch.0"),
    "patch does not fit": (set_spec(patch=[33, 32, 32]), "it cannot work on a patch of 33 x 32 x 32 voxels"),
    "spacing not a number": (set_spec(spacing_mm=float("nan")), "networks.segmenter.spacing_mm"),
    "spacing zero": (set_spec(spacing_mm=0.0), "networks.segmenter.spacing_mm"),
    "window empty": (set_spec(window_hu=[700, 700]), "the lower end of window_hu"),
    "network missing": (lambda f: edit(f, lambda m: m["networks"].pop("locator")), "exactly the networks locator and"),
    "a generator": (set_manifest(kind="generator"), "a generator has exactly the networks autoencoder"),
    "unknown kind": (set_manifest(kind="virus"), "in its manifest.json, kind"),
    # structures
    "structures missing": (lambda f: edit(f, lambda m: m["structures"].pop()), "the structures differ"),
    "value wrong": (lambda f: edit(f, lambda m: m["structures"][0].update(value=3)), "the structures differ"),
    "code wrong": (lambda f: edit(f, lambda m: m["structures"][0].update(snomed_code="1")), "the structures differ"),
    # tensors
    "tensor missing": (set_tensors(lambda t: t.pop(first(t))), "is missing"),
    "tensor left over": (set_tensors(lambda t: t.update(extra=torch.zeros(3))), "the tensor extra is left over"),
    "other shape": (set_tensors(lambda t: t.update({first(t): torch.zeros(2, 3)})), "has the shape [2, 3]"),
    "no number": (with_value(float("nan")), "not finite"),
    "infinite": (with_value(float("inf")), "not finite"),
    "whole numbers": (set_tensors(lambda t: t.update({first(t): t[first(t)].int()})), "values of the type I32"),
    "weights of another network": (set_arguments(channels=[8, 8]), "has the shape"),
}  # fmt: skip


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attack(attack: str, as_zip: bool, copy: Path, tmp_path: Path, models: Path) -> None:
    change, sentence = ATTACKS[attack]
    change(copy)
    source = zipped(copy, tmp_path / "tiny.zip") if as_zip else copy
    check_refused(cli("import", source, "--models", models), models, sentence)


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_other_commands_refuse_too(command: str, copy: Path, tmp_path: Path, models: Path) -> None:
    flip(SEGMENTER, -1)(copy)
    rest = [models / "tiny.zip"] if command == "export" else []
    check_refused(cli(command, copy, *rest), models, "segmenter.safetensors was changed")


def test_links_and_folders_inside_are_refused(copy: Path, tmp_path: Path, models: Path) -> None:
    (copy / "README.md").unlink()
    (copy / "README.md").symlink_to("/etc/passwd")
    check_refused(cli("import", copy, "--models", models), models, "README.md is a link, not a file")
    (copy / "README.md").unlink()
    (copy / "README.md").mkdir()
    check_refused(cli("import", copy, "--models", models), models, "README.md is a sub-folder, not a file")
    (copy / "README.md").rmdir()
    os.mkfifo(copy / "README.md")
    check_refused(cli("import", copy, "--models", models), models, "README.md is a device, not a file")


def test_foreign_sources_are_refused(tmp_path: Path, models: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_refused(cli("import", tmp_path / "empty", "--models", models), models, "it holds no manifest.json")
    check_refused(cli("import", tmp_path / "nothing", "--models", models), models, "no file or folder nothing")
    check_refused(cli("import", os.devnull, "--models", models), models, "no file or folder null")
    check_refused(cli("import", "/", "--models", models), models, "Error: / is not a CardiacLDM package")


@pytest.mark.parametrize("command", ["show", "verify", "import", "export"])
@pytest.mark.parametrize("name", ["nothing", "a" * 5000, "\x1b[2J", "", "nothing/../x"])
def test_names_of_nothing_are_refused(command: str, name: str, models: Path) -> None:
    rest = ["--models", models] if command == "import" else []
    check_refused(cli(command, name, *rest), models, "")


def test_the_folder_one_is_in_has_a_name(copy: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    assert "is whole" in cli("verify", ".").stdout
    flip(SEGMENTER, -1)(copy)
    check_refused(cli("import", ".", "--models", models), models, "Error: tiny is refused")


def test_a_network_as_large_as_allowed_takes_no_memory(copy: Path, models: Path) -> None:
    """Some 20 GB of parameters by the manifest; the file's tensors are compared before any memory is taken."""
    import resource

    set_arguments(channels=[1024] * 7, strides=[2] * 6, num_res_units=4)(copy)
    set_spec(patch=[512, 512, 512])(copy)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_refused(cli("import", copy, "--models", models), models, "the tensor")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


# --- attacks on the zip --------------------------------------------------------------------------------------------


def zip_with(tiny: Path, path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    """The valid package, and ``entries`` added to it."""
    zipped(tiny, path)
    with zipfile.ZipFile(path, "a") as archive:
        for entry, data in entries:
            archive.writestr(entry, data)
    return path


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "tiny/../../evil.txt", "/evil.txt", "//server/evil.txt", "C:/evil.txt", "C:evil.txt",
     "..\\evil.txt", "tiny\\..\\evil.txt", "tiny/./evil.txt", "tiny//evil.txt", "tiny/evil.txt:stream", "evil\x1b[2J",
     "tiny/evil.txt ", "../", "tiny/\u202eevil.txt"],
)  # fmt: skip
def test_escaping_names_are_refused(name: str, tiny: Path, tmp_path: Path, models: Path) -> None:
    source = zip_with(tiny, tmp_path / "tiny.zip", (name, b"evil"))
    before = set(tmp_path.parent.rglob("*evil*"))
    check_refused(cli("import", source, "--models", models), models, "is not a safe file name")
    assert set(tmp_path.parent.rglob("*evil*")) == before


def test_name_hidden_behind_a_null_byte_is_refused(tiny: Path, tmp_path: Path, models: Path) -> None:
    source = zip_with(tiny, tmp_path / "tiny.zip", ("tiny/README.md~evil", b"evil"))
    source.write_bytes(source.read_bytes().replace(b"README.md~", b"README.md\x00"))
    check_refused(cli("import", source, "--models", models), models, "is not a safe file name")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(kind: int, tiny: Path, tmp_path: Path, models: Path) -> None:
    link = zipfile.ZipInfo("tiny/link")
    link.create_system, link.external_attr = 3, (kind | 0o777) << 16
    source = zip_with(tiny, tmp_path / "tiny.zip", (link, b"/etc/passwd"))
    check_refused(cli("import", source, "--models", models), models, "tiny/link is a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [("tiny/README.md", "two files named README.md"), ("tiny/readme.MD", "two files named readme.MD"),
     ("tiny/sub/README.md", "is in a sub-folder"), ("tiny/sub/", "is in a sub-folder"),
     ("other/notes.txt", "not all in one folder"), ("__MACOSX/", "not all in one folder"),
     ("notes.txt", "not all in one folder"), ("tiny/notes.txt", "it holds notes.txt, which its manifest")],
)  # fmt: skip
def test_odd_entries_are_refused(name: str, sentence: str, tiny: Path, tmp_path: Path, models: Path) -> None:
    source = zip_with(tiny, tmp_path / "tiny.zip", (name, b"x" if not name.endswith("/") else b""))
    check_refused(cli("import", source, "--models", models), models, sentence)


def test_zip_of_something_else_is_refused(tmp_path: Path, models: Path) -> None:
    source = tmp_path / "photos.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("photo.jpg", b"x")
    check_refused(cli("import", source, "--models", models), models, "photos.zip is not a CardiacLDM package")
    for data in (b"", b"no zip at all", b"PK\x05\x06" + bytes(18)):
        source.write_bytes(data)
        result = cli("import", source, "--models", models)
        check_refused(result, models, "photos.zip is ")


def test_zip_bombs_are_refused(tiny: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = zipfile.ZipInfo("tiny/zeros.txt")
    dense.compress_type = zipfile.ZIP_DEFLATED
    source = zip_with(tiny, tmp_path / "tiny.zip", (dense, bytes(20_000_000)))
    check_refused(cli("import", source, "--models", models), models, "more than 100 times its size")
    monkeypatch.setattr(archive, "MAX_RATIO", 10**9)
    monkeypatch.setattr(archive, "MAX_BYTES", 10_000_000)
    check_refused(cli("import", source, "--models", models), models, "it holds more than")


def test_size_is_counted_while_copying(copy: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder has no table of sizes; what is read is counted."""
    monkeypatch.setattr(archive, "MAX_BYTES", 10_000)
    check_refused(cli("import", copy, "--models", models), models, "it holds more than")


def test_size_that_lies_is_refused(tiny: Path, tmp_path: Path, models: Path) -> None:
    """The table says 16 bytes, the data unpack to 20 MB: no more than said is read, and that is damaged."""
    dense = zipfile.ZipInfo("tiny/zeros.txt")
    dense.compress_type = zipfile.ZIP_DEFLATED
    source = zip_with(tiny, tmp_path / "tiny.zip", (dense, bytes(20_000_000)))
    source.write_bytes(source.read_bytes().replace((20_000_000).to_bytes(4, "little"), (16).to_bytes(4, "little")))
    check_refused(cli("import", source, "--models", models), models, "damaged, cut short, or not a zip file")


@pytest.mark.parametrize("count", [100, 20_000])
def test_many_entries_are_refused(count: int, tmp_path: Path, models: Path) -> None:
    """The larger table of contents is not even read."""
    source = tmp_path / "many.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for n in range(count):
            archive.writestr(f"tiny/{n:06}.txt", b"")
    check_refused(cli("import", source, "--models", models), models, "it holds more than 32 files")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(method: int, tiny: Path, tmp_path: Path, models: Path) -> None:
    entry = zipfile.ZipInfo("tiny/notes.txt")
    entry.compress_type = method
    source = zip_with(tiny, tmp_path / "tiny.zip", (entry, b"notes"))
    check_refused(cli("import", source, "--models", models), models, "compressed in an unusual way")


def test_protected_zip_is_refused(tiny: Path, tmp_path: Path, models: Path) -> None:
    source = zipped(tiny, tmp_path / "tiny.zip")
    data = bytearray(source.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(data)
    check_refused(cli("import", source, "--models", models), models, "protected by a password")


# --- where it goes -------------------------------------------------------------------------------------------------


def test_an_installed_package_is_kept_unless_told(tiny: Path, copy: Path, models: Path) -> None:
    import_package(tiny, models)
    set_manifest(title="Another heart")(copy)
    result = cli("import", copy, "--models", models)
    assert result.exit_code == 2
    assert "tiny is there already: use --replace" in result.stderr
    assert content(models / "tiny") == content(tiny)
    assert cli("import", copy, "--models", models, "--replace").exit_code == 0
    assert open_package(models / "tiny").manifest.title == "Another heart"
    assert [p.name for p in models.iterdir()] == ["tiny"]


def test_replace_spares_what_is_no_package(tiny: Path, models: Path) -> None:
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "thesis.txt").write_text("mine")
    result = cli("import", tiny, "--models", models, "--replace")
    assert result.exit_code == 2
    assert "is not a package: it is left alone" in result.stderr
    assert content(models) == {"tiny/thesis.txt": b"mine"}


def test_a_failed_replacement_leaves_the_old_package(
    tiny: Path, copy: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_package(tiny, models)
    set_manifest(title="Another heart")(copy)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "content":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    result = cli("import", copy, "--models", models, "--replace")
    assert result.exit_code == 2
    assert "tiny" in result.stderr
    assert "No space left on device" in result.stderr
    assert content(models) == {f"tiny/{name}": data for name, data in content(tiny).items()}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_as_a_user(tiny: Path, models: Path) -> None:
    models.mkdir(mode=0o555)
    check_refused(cli("import", tiny, "--models", models), models, "models")


def test_folder_that_cannot_be_written_to(tiny: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> str:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", read_only)
        result = cli("import", tiny, "--models", models)
    check_refused(result, models, "Read-only file system")
    models.rmdir()
    models.write_text("a file")
    check_refused(cli("import", tiny, "--models", models), models, "models")


# --- fuzzing -------------------------------------------------------------------------------------------------------

fuzz = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


def flipped(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    changed = bytearray(data)
    for where, bits in changes:
        changed[int(where * len(data))] ^= bits
    return bytes(changed)


def import_outcome(source: Path, models: Path) -> bool:
    """Import through the command line: whether it was installed, whole; else refused with a sentence and no trace."""
    result = cli("import", source, "--models", models)
    if result.exit_code == 0:
        (installed,) = models.iterdir()
        verify_package(installed)
        return True
    check_refused(result, models, "")
    return False


@fuzz
@given(changes=flips, keep=st.floats(0, 1) | st.just(1.0))
def test_fuzzed_zip_is_refused_or_unchanged(tiny: Path, changes: list[tuple[float, int]], keep: float) -> None:
    """A zip has bytes that mean nothing (dates, system); whatever is installed is the package, byte by byte."""
    with tempfile.TemporaryDirectory() as folder:
        source = export_package(open_package(tiny), Path(folder))
        data = flipped(source.read_bytes(), changes)
        source.write_bytes(data[: int(keep * len(data))])
        if import_outcome(source, Path(folder) / "models"):
            assert content(Path(folder) / "models" / "tiny") == content(tiny)


@fuzz
@given(changes=flips, name=st.sampled_from([SEGMENTER, "locator.safetensors", "README.md"]))
def test_fuzzed_files_are_refused(tiny: Path, changes: list[tuple[float, int]], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(tiny, Path(folder) / "tiny"))
        data = flipped((source / name).read_bytes(), changes)
        (source / name).write_bytes(data)
        installed = import_outcome(source, Path(folder) / "models")
        assert installed == (data == (tiny / name).read_bytes())  # flips may undo each other


@fuzz
@given(changes=flips, header=st.booleans())
def test_fuzzed_weights_with_their_hash(tiny: Path, changes: list[tuple[float, int]], header: bool) -> None:
    """Past the hash, the header and the tensors speak for themselves: refused with a sentence, or whole."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(tiny, Path(folder) / "tiny"))
        data = (source / SEGMENTER).read_bytes()
        length = 8 + int.from_bytes(data[:8], "little") if header else len(data)
        (source / SEGMENTER).write_bytes(flipped(data[:length], changes) + data[length:])
        rehash(source)
        import_outcome(source, Path(folder) / "models")


@fuzz
@given(changes=flips)
def test_fuzzed_manifest(tiny: Path, changes: list[tuple[float, int]]) -> None:
    """A manifest has no seal but its own hash, which every result carries: another text is another package."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(tiny, Path(folder) / "tiny"))
        (source / MANIFEST).write_bytes(flipped((source / MANIFEST).read_bytes(), changes))
        if import_outcome(source, Path(folder) / "models"):
            (installed,) = (Path(folder) / "models").iterdir()
            assert (open_package(installed).sha256 == open_package(tiny).sha256) == (content(source) == content(tiny))


@settings(fuzz, max_examples=50)
@given(data=st.data())
def test_manifest_with_any_value_replaced(tiny: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(tiny, Path(folder) / "tiny"))
        manifest = json.loads((source / MANIFEST).read_text())
        at, key = data.draw(st.sampled_from(list(places(manifest))))
        at[key] = data.draw(json_values)
        (source / MANIFEST).write_text(json.dumps(manifest))
        import_outcome(source, Path(folder) / "models")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key inside a JSON value."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    return [place for key in keys for place in [(value, key), *places(value[key])]]
