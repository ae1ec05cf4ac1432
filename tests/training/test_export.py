"""From a run to its package: weights, latent statistics, conditions, figures, card, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cardiacldm_training.cards import FIGURES_MARK, NO_FIGURES
from cardiacldm_training.cases import store
from cardiacldm_training.cases.readers.layouts import find_cases
from cardiacldm_training.cli import app
from cardiacldm_training.errors import TrainingError
from cardiacldm_training.evaluation.fidelity.compare import Comparison, Spread
from cardiacldm_training.evaluation.fidelity.record import Report
from cardiacldm_training.evaluation.segmenter import evaluate_cases, write_evaluation
from cardiacldm_training.export import GeneratorAbout, export_run
from cardiacldm_training.stages import autoencoder, calibration, run_folder
from cardiacldm_training.stages.config import SEGMENTER_NETWORKS, RunConfig
from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.generation.generator import Generator
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.generator_spec import Restart, Sampling
from CardiacLDMLib.packages.store import open_package
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.postprocess.deblock import Deblock
from CardiacLDMLib.postprocess.smooth_latents import SmoothLatents
from CardiacLDMLib.postprocess.texture import BINS, Texture
from CardiacLDMLib.postprocess.tone import Tone
from CardiacLDMLib.segmentation.segmenter import Segmenter
from tests.support.generator_package import CHOICES, GRID, NUMBERS, SPACING_MM, tiny_generator_manifest
from tests.support.training import tiny_run

TRAINING = {"steps": 10, "validate_every": 5, "patience": 5}
SAMPLING = Sampling(
    schedule="rectified_flow", solver="euler", steps=20, time_shift=3.0, guidance=2.0,
    restarts=(Restart(time=0.5), Restart(time=0.25)),
)  # fmt: skip
POSTPROCESS = (SmoothLatents(widths=(1.2, 0.7)), Deblock(width_hu=60.0))


def write_run(run: Path) -> Path:
    """A finished run as training leaves it, with random weights."""
    networks = tiny_generator_manifest().networks
    states: dict[str, dict[str, torch.Tensor]] = {}
    for role, spec in networks.items():
        torch.manual_seed(len(role))
        states[role] = build_network(spec.architecture, spec.arguments).state_dict()
        (run / role).mkdir(parents=True)
        averaged = {f"module.{name}": value for name, value in states[role].items()} | {"n_averaged": torch.tensor(1)}
        checkpoint = {"network": {}, "average": averaged, "optimizer": {}, "state": {"step": len(role)}}
        torch.save(checkpoint, run / role / run_folder.BEST)
    digest = run_folder.weights_digest(states["autoencoder"])
    latents = {
        "shift": [0.1, 0.2, 0.3, 0.4], "scale": [1.0, 2.0, 3.0, 4.0], "cases": 5, "autoencoder": digest,
    }  # fmt: skip
    (run / calibration.LATENTS_FILE).write_text(json.dumps(latents))
    arguments = dict(networks["diffusion"].arguments)
    del arguments["choices"], arguments["numbers"]
    words = {"choices": CHOICES, "numbers": NUMBERS, "chances": {}}
    run_folder.write_config(RunConfig.model_validate({
        "preset": "test", "seed": 3,
        "data": {"cases": 6, "digest": "0",
                 "diffusion": {"conditions": words, "conditions_digest": "0", "autoencoder": digest}},
        "model": {
            "kind": "generator", "grid": GRID, "spacing_mm": SPACING_MM,
            "autoencoder": {**TRAINING, "arguments": {**networks["autoencoder"].arguments, "checkpointed": True}},
            "diffusion": {**TRAINING, "arguments": arguments, "sampling": SAMPLING, "postprocess": POSTPROCESS},
        },
    }), run)  # fmt: skip
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


def command(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["train", "export", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_run_becomes_a_package_that_draws(finished: Path, tmp_path: Path) -> None:
    result = command(finished, "--out", tmp_path / "hearts", "--name", "hearts")
    assert result.exit_code == 0, result.output
    package = open_package(tmp_path / "hearts")
    spec, manifest = package.manifest.generator, package.manifest
    assert spec is not None
    assert (spec.choices, spec.numbers) == (CHOICES, NUMBERS)
    assert spec.latent_scale == (1.0, 2.0, 3.0, 4.0)
    assert spec.sampling == SAMPLING
    assert spec.postprocess == POSTPROCESS
    assert "restarts at the times 0.5, 0.25" in (tmp_path / "hearts" / "README.md").read_text()
    assert manifest.training.steps == {"autoencoder": 11, "diffusion": 9}
    assert manifest.training.cases == 6
    assert manifest.title == GeneratorAbout().title
    assert "checkpointed" not in manifest.networks["autoencoder"].arguments
    card = (tmp_path / "hearts" / "README.md").read_text()
    for words in ("- **sex**: female, male", "- **spacing_mm**: 1 to 3", "euler in 20 steps", "noise by 3;",
                  NO_FIGURES):  # fmt: skip
        assert words in card
    weights = autoencoder.best_weights(finished)
    for name, value in load_networks(package)["autoencoder"].state_dict().items():
        np.testing.assert_allclose(value, weights[name], atol=1e-3)
    assert Generator(package, "cpu").generate(0, 0, {"sex": "male"}, steps=1).image.array.shape == GRID


def test_an_adversary_stays_behind(finished: Path, tmp_path: Path) -> None:
    """The checkpoint holds the autoencoder within its contest; the package is that of the autoencoder alone."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    path = run / "autoencoder" / run_folder.BEST
    checkpoint = run_folder.load_checkpoint(path)
    average = {name.replace("module.", "module.maker."): value for name, value in checkpoint["average"].items()}
    torch.save({**checkpoint, "average": {**average, "module.adversary.weight": torch.ones(3)}}, path)
    plain, package = (export_run(each, tmp_path / f"{n}", "hearts") for n, each in enumerate((finished, run)))
    weights, own = (load_networks(each)["autoencoder"].state_dict() for each in (plain, package))
    assert all(torch.equal(weights[name], own[name]) for name in own)
    assert package.manifest.networks["autoencoder"] == plain.manifest.networks["autoencoder"]
    assert Generator(package, "cpu").generate(0, 0, {"sex": "male"}, steps=1).image.array.shape == GRID


def test_gains_of_restarts_go_along_if_they_were_measured(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    gains = [[1.5, 1.0, 2.0, 1.2], [1.1, 1.0, 1.3, 1.05]]
    digest = run_folder.weights_digest(run_folder.averaged_weights(run / "diffusion" / run_folder.BEST))
    content = {"restarts": [0.5, 0.25], "gains": gains, "diffusion": digest}
    (run / calibration.GAINS_FILE).write_text(json.dumps(content))
    plain, package = (export_run(each, tmp_path / f"{n}", "hearts") for n, each in enumerate((finished, run)))
    spec = package.manifest.generator
    assert spec is not None
    assert [list(each.gains) for each in spec.sampling.restarts] == gains
    assert "at the times 0.5, 0.25, with gains" in (package.folder / "README.md").read_text()
    last = spec.sampling.restarts[1:]
    assert Generator(package, "cpu").with_restarts(last).spec.sampling.restarts == last
    images = [Generator(each, "cpu").generate(0, 0, steps=1).image.array for each in (plain, package)]
    assert not np.array_equal(*images)
    content["diffusion"] = "0"
    (run / calibration.GAINS_FILE).write_text(json.dumps(content))
    with pytest.raises(TrainingError, match=r"gains\.json .*weights"):
        export_run(run, tmp_path / "other", "hearts")


def test_about_and_card_go_into_the_package(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text('{"licence": "CC-BY-4.0"}')
    (tmp_path / "card.md").write_text(f"# Mine\n\n{FIGURES_MARK}\n")
    options = ("--about", tmp_path / "about.json", "--card", tmp_path / "card.md")
    assert command(finished, "--out", tmp_path / "hearts", "--name", "hearts", *options).exit_code == 0
    manifest = open_package(tmp_path / "hearts").manifest
    assert (manifest.licence, manifest.title) == ("CC-BY-4.0", GeneratorAbout().title)
    assert (tmp_path / "hearts" / "README.md").read_text() == f"# Mine\n\n{NO_FIGURES}\n"


def test_a_report_gives_the_package_tone_and_texture(finished: Path, tmp_path: Path) -> None:
    remedy = {"soft": (400.0004,) * BINS, "fat": (0.0,) * BINS}
    curve = ((-800.0, -850.0), (200.0, 300.0))
    content = empty_report(spacing_mm=SPACING_MM, remedy=remedy, strengths=(0.5, 1.5), tone=curve)
    report = tmp_path / "report.json"
    report.write_text(content.model_dump_json())
    result = command(finished, "--out", tmp_path / "hearts", "--name", "hearts", "--texture", report)
    assert result.exit_code == 0, result.output
    package = open_package(tmp_path / "hearts")
    assert package.manifest.generator is not None
    tone, texture = package.manifest.generator.postprocess[2:]
    assert tone == Tone(curve=curve)
    assert texture == Texture(spectra={"soft": (400.0,) * BINS}, strengths=(0.5, 1.5), filled=True)
    card = (package.folder / "README.md").read_text()
    assert texture.describe() in card
    assert tone.describe() in card
    refused = (({"textured": True}, "tone or texture"), ({"spacing_mm": 3.0}, "voxels of 3 mm"))
    for changes, message in refused:
        report.write_text(content.model_copy(update=changes).model_dump_json())
        result = command(finished, "--out", tmp_path / "other", "--name", "other", "--texture", report)
        assert result.exit_code == 2
        assert message in result.output
    report.write_text("{}")
    assert "report.json" in command(
        finished, "--out", tmp_path / "other", "--name", "other", "--texture", report
    ).output.replace("\n", " ")
    assert not (tmp_path / "other").exists()


def empty_report(**changes: Any) -> Report:
    """A report of fidelity in which nothing was measured."""
    fields = {
        "generated": "a", "data": "b", "train": None, "package": None, "segmenter": "s", "textured": False,
        "grid": GRID, "date": "2026-01-02", "code_version": "0", "sizes": {}, "skipped": {}, "measured": {},
        "volumes": [], "rules": {}, "spectra": [], "repair": None, "replicas": None, "utility": None, "curve": [],
        "left_out": [], "pairs": [], "references": [],
    }  # fmt: skip
    return Report.model_validate(fields | changes)


def test_figures_of_a_report_go_along_beside_their_reference(finished: Path, tmp_path: Path) -> None:
    dice = Comparison(
        name="Dice, mean", kind="mean", generated=Spread(mean=0.8, sd=0.1), reference=Spread(mean=0.9, sd=0.05),
        cases=50, reference_cases=40,
    )  # fmt: skip
    (tmp_path / "fidelity").mkdir()
    report = empty_report(
        spacing_mm=SPACING_MM, remedy={}, measured={"agreement": [dice]}, sizes={"generated": 50, "data": 40}
    )
    (tmp_path / "fidelity" / "report.json").write_text(report.model_dump_json())
    options = ("--name", "hearts", "--evaluation", tmp_path / "fidelity")
    result = command(finished, "--out", tmp_path / "hearts", *options)
    assert result.exit_code == 0, result.output
    figures = [(f.name, f.value, f.on, f.cases) for f in open_package(tmp_path / "hearts").manifest.figures]
    assert figures == [
        ("Dice, mean", 0.8, "generated pairs", 50), ("Dice, mean: reference", 0.9, "held-out cases", 40),
    ]  # fmt: skip
    card = (tmp_path / "hearts" / "README.md").read_text()
    assert "50 generated pairs against 40 held-out cases of b" in card
    assert "| Dice, mean | 0.8 (0.1) | 0.9 (0.05) |  | 50 / 40 |" in card
    assert "![" not in card  # the pictures stay with the report
    assert [line for line in card.splitlines() if line.startswith("## ")][-2:] == [
        "## Figures",
        "## Licence and attribution",
    ]


def test_unfinished_runs_and_reports_that_are_not_there_are_refused(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    result = command(run, "--out", tmp_path / "out", "--name", "hearts", "--evaluation", tmp_path)
    assert "report.json" in result.output.replace("\n", " ")
    content = json.loads((run / "config.json").read_text())
    other = {**content["data"], "diffusion": {**content["data"]["diffusion"], "autoencoder": "0"}}
    for changes, message in (
        ({"data": other}, "autoencoder"),
        ({"model": {**content["model"], "diffusion": None}}, "diffusion"),
    ):
        (run / "config.json").write_text(json.dumps({**content, **changes}))
        with pytest.raises(TrainingError, match=message):
            export_run(run, tmp_path / "out", "hearts")
    (run / "config.json").write_text(json.dumps(content))
    (run / "diffusion" / run_folder.BEST).unlink()
    result = command(run, "--out", tmp_path / "out", "--name", "hearts")
    assert result.exit_code == 2
    assert run_folder.BEST in result.output
    assert not (tmp_path / "out").exists()


# --- the package of a segmenter ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segmenter_run(prepared: store.Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of both networks with random weights."""
    run = tmp_path_factory.mktemp("runs") / "segmenter"
    config = tiny_run(prepared)
    for step, name in enumerate(SEGMENTER_NETWORKS, start=1):
        torch.manual_seed(step)
        weights = build_network("unet", config.segmenter.network(name).arguments).state_dict()
        (run / name).mkdir(parents=True)
        averaged = {f"module.{key}": value for key, value in weights.items()}
        checkpoint = {"network": {}, "average": averaged, "optimizer": {}, "state": {"step": step}}
        torch.save(checkpoint, run / name / run_folder.BEST)
    run_folder.write_config(config, run)
    return run


def test_the_package_of_a_segmenter_has_the_averaged_weights(segmenter_run: Path, tmp_path: Path) -> None:
    package = export_run(segmenter_run, tmp_path / "tiny", "tiny")
    networks = load_networks(package)
    averaged = run_folder.averaged_weights(segmenter_run / "segmenter" / run_folder.BEST)
    for name, tensor in networks["segmenter"].state_dict().items():
        torch.testing.assert_close(tensor, averaged[name], rtol=1e-3, atol=1e-4)
    training = package.manifest.training
    assert training.configuration["seed"] == training.seed == 3
    assert training.steps["segmenter"] == run_folder.load_state(segmenter_run / "segmenter" / run_folder.BEST).step
    assert NO_FIGURES in (package.folder / "README.md").read_text()


def test_figures_go_into_manifest_and_card(data: Path, segmenter_run: Path, tmp_path: Path) -> None:
    first = export_run(segmenter_run, tmp_path / "tiny", "tiny")
    evaluation = evaluate_cases(Segmenter(first, "cpu"), find_cases(data)[:2], "the phantoms")
    write_evaluation(evaluation, tmp_path / "figures")
    card = tmp_path / "card.md"
    card.write_text(f"# Mine\n\n{FIGURES_MARK}\n\nThe end.\n")
    about = tmp_path / "about.json"
    about.write_text(json.dumps({"title": "Phantoms", "licence": "CC0-1.0"}))
    arguments = ["train", "export", str(segmenter_run), "--out", str(tmp_path / "tiny"), "--name", "tiny",
                 "--evaluation", str(tmp_path / "figures"), "--card", str(card), "--about", str(about)]  # fmt: skip
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2  # a package exists
    result = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert result.exit_code == 0, result.output
    package = open_package(tmp_path / "tiny")
    assert package.manifest.title == "Phantoms"
    means = {row.structure: row.dice.mean for row in evaluation.summary}
    figures = {f.name: f.value for f in package.manifest.figures if f.on == "the phantoms"}
    assert figures["Dice mean"] == pytest.approx(means["mean"], abs=1e-4)
    assert figures["HD95 LA"] > 0
    text = (package.folder / "README.md").read_text()
    assert text.startswith("# Mine")
    assert "| LA | 2 |" in text
    assert text.rstrip().endswith("The end.")


def test_an_unfinished_run_and_a_bad_name_are_refused(segmenter_run: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError):
        export_run(segmenter_run, tmp_path / "tiny", "Not A Name")
    run = Path(shutil.copytree(segmenter_run, tmp_path / "run"))
    (run / "locator" / run_folder.BEST).unlink()
    with pytest.raises(TrainingError, match=r"locator.best\.ckpt"):
        export_run(run, tmp_path / "tiny", "tiny")
    assert not (tmp_path / "tiny").exists()
