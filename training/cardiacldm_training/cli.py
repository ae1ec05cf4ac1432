"""The command ``cardiacldm``: one file per sub-command; torch is imported only when one runs."""

from __future__ import annotations

import typer

from CardiacLDMLib import __version__

from .commands import (
    ablation,
    cohort,
    data,
    evaluate,
    experiment,
    fidelity,
    generate,
    package,
    pipeline,
    review,
    segment,
    soundness,
    train,
)
from .commands.common import prepare_streams

app = typer.Typer(
    help="Label cardiac CT, generate synthetic pairs, and train the networks. Research use, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cardiacldm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


app.command("segment")(segment.segment)
app.command("generate")(generate.generate)
app.command("cohort")(cohort.cohort)
app.command("soundness")(soundness.soundness)
app.command("contact-sheet")(soundness.contact_sheet)
app.command("evaluate")(evaluate.evaluate)
app.command("ablation")(ablation.ablation)
app.command("experiment")(experiment.experiment)
app.add_typer(fidelity.app, name="fidelity")
app.add_typer(data.app, name="data")
app.command("pipeline")(pipeline.pipeline)
app.add_typer(train.app, name="train")
app.add_typer(package.app, name="package")
app.add_typer(review.app, name="review")


def main() -> None:
    prepare_streams()
    app()


if __name__ == "__main__":
    main()
