"""Model packages: a folder of ``manifest.json``, ``*.safetensors`` and a model card; written, checked, imported.

Opening a package runs no code from it and reads nothing that its manifest does not list with its SHA-256. Whatever is
wrong is refused with one sentence (:class:`PackageError`). An import goes to a temporary folder beside its goal, is
verified down to the last tensor, and is then renamed into place: an installed package is whole or absent.

torch is needed only to verify the networks, and imported there. The format is described in docs/research/packages.md.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    field_validator,
    model_validator,
)

from .. import anatomy
from ..generation.sampler import SOLVERS, Schedule, Solver
from ..postprocess import texture, tone

if TYPE_CHECKING:
    pass


SCHEMA_VERSION = 1
MANIFEST, CARD = "manifest.json", "README.md"

#: Windows takes these for devices, whatever their ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


# --- the manifest --------------------------------------------------------------------------------------------------

#: Shown in terminals and panels: no control characters, nothing that reorders text.
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*$"
Text = Annotated[str, Field(min_length=1, max_length=4000, pattern=_PLAIN)]
PackageName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
WeightsName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,50}\.safetensors$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=8, le=512)]
Hounsfield = Annotated[FiniteFloat, Field(ge=-2000, le=10000)]
Count = Annotated[int, Field(ge=0, le=10**12)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StructureRecord(_Record):
    """A label value and what it stands for."""

    name: Text
    value: int
    snomed_code: Text


class NetworkSpec(_Record):
    """One network: how it is built, where its weights are, and the input it was trained for."""

    architecture: Annotated[Text, Field(description="A name of the closed list of architectures.")]
    arguments: Annotated[dict[str, JsonValue], Field(description="Bounded arguments of the architecture.")]
    weights: Annotated[WeightsName, Field(description="The file of the package that holds the tensors.")]
    spacing_mm: Annotated[FiniteFloat, Field(ge=0.2, le=10, description="Isotropic working spacing, RAS axes.")]
    patch: Annotated[
        tuple[Side, Side, Side],
        Field(description="Voxels along R, A, S: the sliding window of a segmenter, the whole grid of a generator."),
    ]
    window_hu: Annotated[tuple[Hounsfield, Hounsfield], Field(description="Clipped, then mapped linearly to 0..1.")]

    @field_validator("arguments", mode="before")
    @classmethod
    def _lists_for_tuples(cls, value: Any) -> Any:
        """Configurations in Python hold tuples, which JSON does not know."""
        if not isinstance(value, dict):
            return value
        return {name: list(item) if isinstance(item, tuple) else item for name, item in value.items()}

    @model_validator(mode="after")
    def _is_sound(self) -> NetworkSpec:
        from ..networks.architectures import check_arguments

        check_arguments(self.architecture, self.arguments)
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError("the lower end of window_hu must be below the upper end")
        return self


class Provenance(_Record):
    """Where the weights come from."""

    data: Annotated[Text, Field(description="What the networks were trained on, in words.")]
    cases: Annotated[Count, Field(description="Cases trained on.")]
    seed: int
    steps: Annotated[dict[Text, Count], Field(description="Optimiser steps per network.")]
    code_version: Text
    date: datetime.date
    configuration: Annotated[dict[str, JsonValue], Field(description="The whole configuration of the run.")] = {}


class Figure(_Record):
    """A measured figure, with what it was measured on and when."""

    name: Text
    value: FiniteFloat
    unit: Annotated[str, Field(max_length=40, pattern=_PLAIN, description="Empty for a ratio such as Dice.")] = ""
    on: Text
    cases: Count
    date: datetime.date


ConditionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
TissueName = Annotated[str, Field(pattern=f"^({'|'.join(texture.TISSUES)})$")]
SmoothingWidth = Annotated[FiniteFloat, Field(ge=0.01, le=10)]
ConditionValue = Annotated[str, Field(min_length=1, max_length=60, pattern=_PLAIN)]


class GeneratorSpec(_Record):
    """How a generator draws its pairs: the latents it was trained on, the conditions it knows, the usual sampling."""

    schedule: Schedule
    latent_shift: Annotated[
        tuple[FiniteFloat, ...],
        Field(min_length=1, max_length=64, description="Mean of each latent channel over the training set."),
    ]
    latent_scale: Annotated[
        tuple[Annotated[FiniteFloat, Field(gt=0)], ...],
        Field(min_length=1, max_length=64, description="What each latent channel is divided by."),
    ]
    choices: Annotated[
        dict[ConditionName, Annotated[list[ConditionValue], Field(min_length=1, max_length=64)]],
        Field(max_length=32, description="Conditions that are one of a list of values, in the network's order."),
    ]
    numbers: Annotated[
        dict[ConditionName, tuple[FiniteFloat, FiniteFloat]],
        Field(max_length=32, description="Conditions that are a number, with the range trained on, in that order."),
    ]
    chances: Annotated[
        dict[ConditionName, list[Annotated[FiniteFloat, Field(ge=0)]]],
        Field(
            max_length=32,
            description="How often the training cases had each value of a choice: what is not asked for is drawn so. "
            "Without an entry it stays unknown.",
        ),
    ] = {}
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance: Annotated[FiniteFloat, Field(ge=0, le=20, description="1: conditions as trained, without guidance.")] = (
        1.5
    )
    solver: Solver = "euler"
    time_shift: Annotated[
        FiniteFloat,
        Field(ge=1, le=100, description="How far rectified flow's steps are moved towards noise; 1: they are even."),
    ] = 1.0
    restarts: Annotated[
        tuple[Annotated[FiniteFloat, Field(gt=0, lt=1)], ...],
        Field(max_length=16, description="Times up to which noise is added anew after the steps, and taken off again."),
    ] = ()
    restart_gains: Annotated[
        tuple[tuple[Annotated[FiniteFloat, Field(gt=0, le=10)], ...], ...],
        Field(
            max_length=16,
            description="What each latent channel is multiplied by after each of the restarts, whose means vary too "
            "little. Empty: nothing.",
        ),
    ] = ()
    smoothing: Annotated[
        tuple[SmoothingWidth, SmoothingWidth] | None,
        Field(description="How unlike latents may be to be averaged: their first channel alone, then all. Null: none."),
    ] = None
    deblocking_hu: Annotated[
        FiniteFloat | None,
        Field(ge=1, le=1000, description="How unlike voxels of the decoded image may be to be averaged. Null: none."),
    ] = None
    tone: Annotated[
        tuple[tuple[FiniteFloat, FiniteFloat], ...],
        Field(description="Curve that HU follow away from the labels: as drawn, and as they should be. Empty: none."),
    ] = ()
    texture: Annotated[
        dict[TissueName, list[FiniteFloat]],
        Field(description="Noise added to decoded images, by tissue: power in HU^2 by ring of frequency. Empty: none."),
    ] = {}

    def _check_channels(self) -> None:
        if len(self.latent_shift) != len(self.latent_scale):
            raise ValueError("latent_shift and latent_scale must be equally long")
        if self.restart_gains and len(self.restart_gains) != len(self.restarts):
            raise ValueError("restart_gains must be as many as restarts")
        if any(len(gains) != len(self.latent_scale) for gains in self.restart_gains):
            raise ValueError("restart_gains must have one number for each latent channel")

    @model_validator(mode="after")
    def _is_sound(self) -> GeneratorSpec:
        texture.check_spectra(self.texture)
        tone.check_curve(self.tone)
        if self.solver not in SOLVERS[self.schedule]:
            raise ValueError(f"the solver {self.solver} does not fit the schedule {self.schedule}")
        if self.time_shift != 1 and self.schedule != "rectified_flow":
            raise ValueError("a time_shift other than 1 fits the schedule rectified_flow alone")
        if self.restarts and self.schedule != "rectified_flow":
            raise ValueError("restarts fit the schedule rectified_flow alone")
        self._check_channels()
        if set(self.choices) & set(self.numbers):
            raise ValueError("a condition cannot be both a choice and a number")
        for name, values in self.choices.items():
            if len(set(values)) != len(values):
                raise ValueError(f"the condition {name} has a value twice")
        for name, chances in self.chances.items():
            if len(chances) != len(self.choices.get(name, ())) or sum(chances) <= 0:
                raise ValueError(f"the chances of {name} must be as many as its values, and not all 0")
        for name, (low, high) in self.numbers.items():
            if low > high:
                raise ValueError(f"the lower end of the condition {name} must not be above the upper end")
        return self

    def conditions(self) -> dict[str, str]:
        """Each condition with what it may be, in words."""
        return {
            **{name: ", ".join(values) for name, values in self.choices.items()},
            **{name: f"{low:g} to {high:g}" for name, (low, high) in self.numbers.items()},
        }


def this_anatomy() -> list[StructureRecord]:
    """The structures of this program, as a manifest lists them."""
    return [StructureRecord(name=s.name, value=s.value, snomed_code=s.snomed_code) for s in anatomy.STRUCTURES]


#: The networks that a package of each kind holds.
ROLES: dict[str, tuple[str, ...]] = {"segmenter": ("locator", "segmenter"), "generator": ("autoencoder", "diffusion")}
#: What the architecture of each network must do.
TASKS: dict[str, str] = {
    "locator": "segmentation", "segmenter": "segmentation", "autoencoder": "autoencoder", "diffusion": "denoising",
}  # fmt: skip


class Manifest(_Record):
    """What a package is, holds, and was measured to do."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    name: Annotated[PackageName, Field(description="Also the name of its folder.")]
    version: Text
    kind: Literal["segmenter", "generator"]
    title: Text
    summary: Annotated[Text, Field(description="What it does, in a few sentences.")]
    structures: Annotated[list[StructureRecord], Field(default_factory=this_anatomy)]
    networks: Annotated[
        dict[Text, NetworkSpec],
        Field(
            description='A segmenter has "locator" (coarse, whole scan) and "segmenter" (fine, box of the heart); '
            'a generator has "autoencoder" (image and labels to latents and back) and "diffusion" (draws latents).'
        ),
    ]
    generator: Annotated[GeneratorSpec | None, Field(description="Of a generator only.")] = None
    training: Provenance
    figures: list[Figure]
    licence: Text
    intended_use: Text
    attribution: list[Text] = []
    files: Annotated[
        dict[str, Sha256],
        Field(description="SHA-256 of every other file: the weights and README.md. Filled in when written."),
    ] = {}

    @model_validator(mode="after")
    def _is_sound(self) -> Manifest:
        for name in (self.name, *(spec.weights for spec in self.networks.values())):
            if _DEVICE.fullmatch(name):
                raise ValueError(f"{name} cannot be the name of a file on every system")
        if self.structures != this_anatomy():
            raise ValueError(f"the structures differ from the {len(anatomy.STRUCTURES)} of this program")
        if set(self.networks) != set(ROLES[self.kind]):
            raise ValueError(f"a {self.kind} has exactly the networks {' and '.join(ROLES[self.kind])}")
        if len({spec.weights for spec in self.networks.values()}) != len(self.networks):
            raise ValueError("two networks share one file of weights")
        self._architectures_do_their_tasks()
        if (self.kind == "generator") != (self.generator is not None):
            raise ValueError("the entry generator belongs to packages of the kind generator, and to each of them")
        if self.generator is not None:
            self._generator_agrees(self.generator)
        return self

    def _architectures_do_their_tasks(self) -> None:
        from ..networks.architectures import ARCHITECTURES

        for name, spec in self.networks.items():
            if ARCHITECTURES[spec.architecture].task != TASKS[name]:
                raise ValueError(f"the architecture {spec.architecture} cannot be the network {name}")

    def _generator_agrees(self, generator: GeneratorSpec) -> None:
        """Both networks with each other, and with what is said of latents and conditions."""
        from ..networks.architectures import check_arguments

        one, other = (self.networks[name] for name in ROLES["generator"])
        for field in ("spacing_mm", "patch", "window_hu"):
            if getattr(one, field) != getattr(other, field):
                raise ValueError(f"the networks of a generator must agree in {field}")
        autoencoder: Any = check_arguments(one.architecture, one.arguments)
        denoiser: Any = check_arguments(other.architecture, other.arguments)
        if not autoencoder.latent_channels == denoiser.latent_channels == len(generator.latent_scale):
            raise ValueError("networks, latent_shift and latent_scale must agree in the number of latent channels")
        if tuple(denoiser.choices) != tuple(len(values) for values in generator.choices.values()):
            raise ValueError("the network's choices must be as many values as each of the generator's choices has")
        if denoiser.numbers != len(generator.numbers):
            raise ValueError("the network's numbers must be as many as the generator's")
        if denoiser.prior_modes is not None and generator.schedule != "rectified_flow":
            raise ValueError("a network with a prior fits the schedule rectified_flow alone")

    def file_names(self) -> set[str]:
        """Every file of the package besides the manifest."""
        return {CARD, *(spec.weights for spec in self.networks.values())}


def manifest_schema() -> dict[str, Any]:
    """The JSON schema of a manifest, the arguments of each architecture included."""
    from ..networks.architectures import ARCHITECTURES

    schema = Manifest.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    schema["required"] = sorted({*schema["required"], "schema_version", "structures", "files"})
    spec = schema["$defs"]["NetworkSpec"]
    spec["properties"]["architecture"] = {"enum": list(ARCHITECTURES), "title": "Architecture"}
    spec["allOf"] = [
        {
            "if": {"properties": {"architecture": {"const": name}}},
            "then": {"properties": {"arguments": architecture.arguments.model_json_schema()}},
        }
        for name, architecture in ARCHITECTURES.items()
    ]
    return schema


if __name__ == "__main__":
    print(json.dumps(manifest_schema(), indent=2))
