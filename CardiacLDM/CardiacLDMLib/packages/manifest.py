"""The manifest of a model package: its records and their JSON schema. Needs no torch.

docs/research/packages.md describes the format.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, JsonValue, field_validator, model_validator

from .. import anatomy
from ..networks.architectures import ARCHITECTURES, check_arguments
from .expected_dice import DiceRecord
from .fields import PLAIN, Record, Text
from .generator_spec import GeneratorSpec
from .upgrade import SCHEMA_VERSION

MANIFEST, CARD = "manifest.json", "README.md"

#: Names of devices in Windows, with any ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


PackageName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
WeightsName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,50}\.safetensors$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=8, le=512)]
Hounsfield = Annotated[FiniteFloat, Field(ge=-2000, le=10000)]
Count = Annotated[int, Field(ge=0, le=10**12)]


class StructureRecord(Record):
    """A label value and the structure that it stands for."""

    name: Text
    value: int
    snomed_code: Text


class NetworkSpec(Record):
    """One network: its architecture, the file of its weights, and the input that it was trained on."""

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
        """Return the arguments with lists for tuples: Python's configurations have tuples, JSON does not."""
        if not isinstance(value, dict):
            return value
        return {name: list(item) if isinstance(item, tuple) else item for name, item in value.items()}

    @model_validator(mode="after")
    def _is_consistent(self) -> NetworkSpec:
        check_arguments(self.architecture, self.arguments)
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError("the lower end of window_hu must be below the upper end")
        return self


class BorderSpec(Record):
    """How borders are refined by the HU of the scan, without fat in the blood, at the qualities full and flips."""

    weight: Annotated[
        FiniteFloat, Field(gt=0, le=1, description="Of the HU's log-likelihood, beside the log-probability.")
    ]


class Provenance(Record):
    """Where the weights come from."""

    data: Annotated[Text, Field(description="What the networks were trained on, in words.")]
    cases: Annotated[Count, Field(description="Cases trained on.")]
    seed: int
    steps: Annotated[dict[Text, Count], Field(description="Optimiser steps per network.")]
    code_version: Text
    date: datetime.date
    configuration: Annotated[dict[str, JsonValue], Field(description="The whole configuration of the run.")] = Field(
        default_factory=dict
    )


class Figure(Record):
    """A measured figure, with the data and the date of the measurement."""

    name: Text
    value: FiniteFloat
    unit: Annotated[str, Field(max_length=40, pattern=PLAIN, description="Empty for a ratio such as Dice.")] = ""
    on: Text
    cases: Count
    date: datetime.date


def this_anatomy() -> list[StructureRecord]:
    """Return the records of this program's structures."""
    return [StructureRecord(name=s.name, value=s.value, snomed_code=s.snomed_code) for s in anatomy.STRUCTURES]


#: The networks that a package of each kind holds.
ROLES: dict[str, tuple[str, ...]] = {"segmenter": ("locator", "segmenter"), "generator": ("autoencoder", "diffusion")}
#: The networks that it may hold beside them.
FURTHER_ROLES: dict[str, tuple[str, ...]] = {"segmenter": (), "generator": ("decoder",)}
#: The task that the architecture of each network must do.
TASKS: dict[str, str] = {
    "locator": "segmentation", "segmenter": "segmentation", "autoencoder": "autoencoder", "diffusion": "denoising",
    "decoder": "decoding",
}  # fmt: skip


class Manifest(Record):
    """The description of a package: identity, networks, training, figures, licence, hashes."""

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)] = SCHEMA_VERSION
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
            'a generator has "autoencoder" (image and labels to latents and back) and "diffusion" (draws latents), '
            'and perhaps "decoder" (latents to voxels of half the size).'
        ),
    ]
    generator: Annotated[GeneratorSpec | None, Field(description="Of a generator only.")] = None
    borders: Annotated[
        BorderSpec | None, Field(description="Of a segmenter whose borders are refined. Without it they are not.")
    ] = None
    expected_dice: Annotated[
        DiceRecord | None, Field(description="Of a segmenter whose labels were compared with their probabilities.")
    ] = None
    training: Provenance
    figures: list[Figure]
    licence: Text
    intended_use: Text
    attribution: list[Text] = Field(default_factory=list)
    files: Annotated[
        dict[str, Sha256],
        Field(description="SHA-256 of every other file: the weights and README.md. Filled in when written."),
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_consistent(self) -> Manifest:
        for name in (self.name, *(spec.weights for spec in self.networks.values())):
            if _DEVICE.fullmatch(name):
                raise ValueError(f"{name} cannot be the name of a file on every system")
        if self.structures != this_anatomy():
            raise ValueError(f"the structures differ from the {len(anatomy.STRUCTURES)} of this program")
        if set(self.networks) - set(FURTHER_ROLES[self.kind]) != set(ROLES[self.kind]):
            further = "".join(f", and perhaps {name}" for name in FURTHER_ROLES[self.kind])
            raise ValueError(f"a {self.kind} has exactly the networks {' and '.join(ROLES[self.kind])}{further}")
        if len({spec.weights for spec in self.networks.values()}) != len(self.networks):
            raise ValueError("two networks share one file of weights")
        self._architectures_do_their_tasks()
        if (self.kind == "generator") != (self.generator is not None):
            raise ValueError("the entry generator belongs to packages of the kind generator, and to each of them")
        if self.generator is not None:
            self._generator_agrees(self.generator)
            for entry in ("borders", "expected_dice"):
                if getattr(self, entry) is not None:
                    raise ValueError(f"the entry {entry} belongs to packages of the kind segmenter")
        return self

    def _architectures_do_their_tasks(self) -> None:
        for name, spec in self.networks.items():
            if ARCHITECTURES[spec.architecture].task != TASKS[name]:
                raise ValueError(f"the architecture {spec.architecture} cannot be the network {name}")

    def _generator_agrees(self, generator: GeneratorSpec) -> None:
        """Check that all networks agree with each other, with the latents and with the conditions."""
        first, second = (self.networks[name] for name in ROLES["generator"])
        for field in ("spacing_mm", "patch", "window_hu"):
            if getattr(first, field) != getattr(second, field):
                raise ValueError(f"the networks of a generator must agree in {field}")
        autoencoder: Any = check_arguments(first.architecture, first.arguments)
        denoiser: Any = check_arguments(second.architecture, second.arguments)
        if not autoencoder.latent_channels == denoiser.latent_channels == len(generator.latent_scale):
            raise ValueError("networks, latent_shift and latent_scale must agree in the number of latent channels")
        if tuple(denoiser.choices) != tuple(len(values) for values in generator.choices.values()):
            raise ValueError("the network's choices must be as many values as each of the generator's choices has")
        if denoiser.numbers != len(generator.numbers):
            raise ValueError("the network's numbers must be as many as the generator's")
        if denoiser.prior_modes is not None and generator.sampling.schedule != "rectified_flow":
            raise ValueError("a network with a prior fits the schedule rectified_flow alone")
        self._decoder_agrees(autoencoder, generator)

    def _decoder_agrees(self, autoencoder: Any, generator: GeneratorSpec) -> None:
        spec, decoder = self.networks["autoencoder"], self.networks.get("decoder")
        if decoder is None:
            return
        coarse = (decoder.spacing_mm * 2, tuple(side // 2 for side in decoder.patch), decoder.window_hu)
        if coarse != (spec.spacing_mm, spec.patch, spec.window_hu) or any(side % 2 for side in decoder.patch):
            raise ValueError("the decoder must have twice the voxels of the autoencoder along each axis")
        arguments: Any = check_arguments(decoder.architecture, decoder.arguments)
        if arguments.latent_channels != autoencoder.latent_channels:
            raise ValueError("autoencoder and decoder must agree in the number of latent channels")
        if any(step.step == "deblock" for step in generator.postprocess):
            raise ValueError("deblock is for the blocks of an autoencoder: a package with a decoder has none")

    @property
    def pair_network(self) -> NetworkSpec:
        """The network of a generator whose ``patch``, ``spacing_mm`` and ``window_hu`` its pairs have."""
        return self.networks.get("decoder", self.networks["autoencoder"])

    def file_names(self) -> set[str]:
        """Return the names of all files of the package but the manifest."""
        return {CARD, *(spec.weights for spec in self.networks.values())}


def manifest_schema() -> dict[str, Any]:
    """Return the JSON schema of a manifest, with the arguments of each architecture."""
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
