"""Model packages: a folder of ``manifest.json``, ``*.safetensors`` and a model card; written, checked, imported.

Opening a package runs no code from it and reads nothing that its manifest does not list with its SHA-256. Whatever is
wrong is refused with one sentence (:class:`PackageError`). An import goes to a temporary folder beside its goal, is
verified down to the last tensor, and is then renamed into place: an installed package is whole or absent.

torch is needed only to verify the networks, and imported there. The format is described in docs/model-package.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import os
import re
import shutil
import stat
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from . import anatomy, texture, tone
from .sampler import SOLVERS, Schedule, Solver
from .volume import VolumeError, written_aside

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
MANIFEST, CARD = "manifest.json", "README.md"
#: The package that ships with the program and is used when none is named.
DEFAULT_PACKAGE = "virtual-heart-v1"
#: The one that draws pairs where none is named.
DEFAULT_GENERATOR = "virtual-pairs-v1"

#: Limits far above any honest package, so that a hostile one can fill neither memory nor disk.
MAX_BYTES = 2 * 1024**3
MAX_MANIFEST_BYTES = 1024**2
MAX_FILES = 32
#: Weights hardly shrink in a zip. Files below a megabyte may: text does.
MAX_RATIO, RATIO_FREE_BYTES = 100, 1024**2
#: The table of contents of a zip of ``MAX_FILES`` files is far smaller; zipfile reads it in one piece.
MAX_ZIP_READ = 256 * 1024
#: How folders begin in which packages are put together and taken away.
PART, REMOVED = ".part-", ".removed-"
#: Left in folders by file managers; never read, never copied.
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})

#: Windows takes these for devices, whatever their ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


class PackageError(ValueError):
    """A package that cannot be used; the message is one sentence for the user."""


class PackageExists(PackageError):  # noqa: N818 - a question rather than an error: replace it?
    """A package of that name is installed, and was not to be replaced."""


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
        from .networks import check_arguments

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
        from .networks import ARCHITECTURES

        for name, spec in self.networks.items():
            if ARCHITECTURES[spec.architecture].task != TASKS[name]:
                raise ValueError(f"the architecture {spec.architecture} cannot be the network {name}")

    def _generator_agrees(self, generator: GeneratorSpec) -> None:
        """Both networks with each other, and with what is said of latents and conditions."""
        from .networks import check_arguments

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


@dataclass(frozen=True)
class ModelPackage:
    """An opened package; ``sha256`` is that of manifest.json and, through it, of every file."""

    folder: Path
    manifest: Manifest
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum((self.folder / name).stat().st_size for name in (MANIFEST, *self.manifest.files))


def require_kind(package: ModelPackage, kind: str) -> None:
    """Raises :class:`PackageError` when the package cannot do the work of ``kind`` ("segmenter", "generator")."""
    found = package.manifest.kind
    if found != kind:
        does = {"segmenter": "labels scans", "generator": "generates pairs of scan and labels"}
        raise PackageError(
            f"{package.manifest.name} is a {found} package, which {does[found]}: choose one that {does[kind]}."
        )


def manifest_schema() -> dict[str, Any]:
    """The JSON schema of a manifest, the arguments of each architecture included."""
    from .networks import ARCHITECTURES

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


#: Findings of pydantic that are not fit for a reader.
_IN_WORDS = {
    "string_pattern_mismatch": "it is not written as it must be",
    "extra_forbidden": "there is no such entry",
    "missing": "it is missing",
}


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's findings as part of a sentence: where, and what is wrong."""
    finding = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = _IN_WORDS.get(finding["type"], finding["msg"])
    message = message.removeprefix("Value error, ").replace("Input should", "it should")
    where = ".".join(str(part) for part in finding["loc"])
    return f"{shown(where)}: {message}" if where else message


def called_as(path: Path) -> str:
    """What a message calls a file or folder: its name alone, also for "." """
    return path.absolute().name or str(path)


def shown(name: str) -> str:
    """A name from outside, fit for a message: short and printable."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= 80 else text[:77] + "..."


# --- opening -------------------------------------------------------------------------------------------------------


def open_package(path: str | os.PathLike[str], called: str = "", hashed: bool = True) -> ModelPackage:
    """The package in a folder, with the manifest and the hash of every file checked; needs no torch.

    Messages name it ``called``, or by its folder. Without ``hashed`` the weights are not read: enough to show it, not
    to use it. Raises :class:`PackageError` when it is no package, is of a newer version, or any file was changed.
    """
    folder = Path(path)
    called = called or called_as(folder)
    with _os_errors(f"{called} cannot be read"):
        return _open(folder, called, hashed)


def verify_package(path: str | os.PathLike[str], called: str = "") -> ModelPackage:
    """Open the package in a folder and load its networks on the CPU: everything that can be checked, is."""
    from .networks import load_networks

    package = open_package(path, called)
    load_networks(package)
    return package


def _open(folder: Path, called: str, hashed: bool) -> ModelPackage:
    if not folder.is_dir():
        raise PackageError(f"There is no folder {shown(called)}.")
    data = _read_manifest(folder, called)
    manifest = _parse_manifest(data, called)
    present = set(_files_in(folder, called)) - {MANIFEST}
    wanted = manifest.file_names()
    _refuse_difference(set(manifest.files), wanted, called, "its manifest lists {}, which no network uses",
                       "its manifest gives no hash for {}")  # fmt: skip
    _refuse_difference(present, wanted, called, "it holds {}, which its manifest does not list", "{} is missing")
    for name, expected in manifest.files.items() if hashed else ():
        _check_file(folder / name, expected, called)
    return ModelPackage(folder, manifest, hashlib.sha256(data).hexdigest())


def _refuse_difference(found: set[str], wanted: set[str], called: str, extra: str, missing: str) -> None:
    for names, message in ((found - wanted, extra), (wanted - found, missing)):
        if names:
            raise PackageError(f"{shown(called)} is refused: {message.format(shown(min(names)))}.")


def _read_manifest(folder: Path, called: str) -> bytes:
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise PackageError(_no_manifest(called))
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise PackageError(f"{shown(called)} is refused: its manifest.json is larger than a manifest can be.")
    return data


def _no_manifest(called: str) -> str:
    return f"{shown(called)} is not a CardiacLDM package: it holds no manifest.json."


def _parse_manifest(data: bytes, called: str) -> Manifest:
    """Parse strictly, after a look at the version: a newer manifest has fields that would only confuse the message."""
    try:
        peek = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{shown(called)} is refused: its manifest.json is not valid JSON.") from error
    version = peek.get("schema_version") if isinstance(peek, dict) else None
    if type(version) is not int or not {"structures", "networks"} <= set(peek):
        raise PackageError(f"{shown(called)} is not a CardiacLDM package: its manifest.json describes something else.")
    if version > SCHEMA_VERSION:
        raise PackageError(f"{shown(called)} was made for a newer version of CardiacLDM: update the program first.")
    try:
        return Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise PackageError(f"{shown(called)} is refused: in its manifest.json, {first_problem(error)}.") from error


def _files_in(folder: Path, called: str) -> dict[str, Path]:
    """The files of a folder by name; refuses sub-folders, links and devices, and more than ``MAX_FILES``."""
    files = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in LITTER:
                continue
            if not entry.is_file(follow_symlinks=False):
                what = "a link" if entry.is_symlink() else "a sub-folder" if entry.is_dir() else "a device"
                raise PackageError(f"{shown(called)} is refused: {shown(entry.name)} is {what}, not a file.")
            files[entry.name] = Path(entry.path)
            if len(files) > MAX_FILES:
                raise PackageError(_too_many(called))
    return files


def _too_many(called: str) -> str:
    return f"{shown(called)} is refused: it holds more than {MAX_FILES} files."


def _check_file(path: Path, expected: str, called: str) -> None:
    if _sha256(path) == expected:
        return
    if path.suffix == ".safetensors" and _cut_short(path):
        raise PackageError(f"{shown(called)} is refused: {path.name} is cut short, fetch the package again.")
    raise PackageError(f"{shown(called)} is refused: {path.name} was changed, it does not match its SHA-256.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cut_short(path: Path) -> bool:
    """Whether a safetensors file ends before its own header says it should (only to choose the better message)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        header_bytes = int.from_bytes(start, "little")
        if len(start) < 8 or (header_bytes <= MAX_MANIFEST_BYTES and header_bytes > size - 8):
            return True
        if header_bytes > MAX_MANIFEST_BYTES:
            return False
        try:
            header = json.loads(file.read(header_bytes))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
            return False
    return max(ends, default=0) > size - 8 - header_bytes


@contextlib.contextmanager
def _os_errors(what: str) -> Iterator[None]:
    """Turn an error of the operating system into a sentence, without the path that it would show."""
    try:
        yield
    except VolumeError as error:
        raise PackageError(str(error)) from error
    except OSError as error:
        raise PackageError(f"{shown(what)}: {(error.strerror or 'unknown error').lower()}.") from error


# --- where packages are --------------------------------------------------------------------------------------------


def shipped_packages_dir() -> Path:
    """The folder of the packages that come with the program."""
    return Path(__file__).resolve().parents[1] / "Resources" / "Models"


def user_packages_dir() -> Path:
    """The folder of the packages that this user imported; may not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "CardiacLDM" / "Models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "CardiacLDM" / "Models"
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))  # the specification says to ignore a relative one
    return (data_home if data_home.is_absolute() else Path.home() / ".local" / "share") / "cardiacldm" / "models"


def known_packages(kind: str | None = None) -> dict[str, Path]:
    """Name and folder of every package that can be used by name; not opened. Shipped ones come first and win.

    With ``kind`` those that say to be of another one are left out.
    """
    known: dict[str, Path] = {}
    for parent in (shipped_packages_dir(), user_packages_dir()):
        with contextlib.suppress(OSError):
            for folder in sorted(parent.iterdir()):
                if not folder.name.startswith(".") and (folder / MANIFEST).is_file():
                    known.setdefault(folder.name, folder)
    return {name: folder for name, folder in known.items() if kind is None or _may_be(kind, folder)}


def _may_be(kind: str, folder: Path) -> bool:
    """Whether its manifest says so, or says nothing: what cannot be read is refused in words when it is opened."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = json.loads(file.read(MAX_MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(manifest, dict) or manifest.get("kind", kind) == kind


def locate_package(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a package by name or path; ``None`` stands for the default one. Not opened."""
    wanted = os.fspath(name_or_path) if name_or_path is not None else DEFAULT_PACKAGE
    known = known_packages()
    if wanted in known:
        return known[wanted]
    path = Path(wanted)
    if os.path.isdir(path):  # pathlib's raises where a folder may not be looked into
        return path
    if os.path.isfile(path):
        raise PackageError(f"{shown(path.name)} is a file: import it first with 'cardiacldm package import'.")
    names = ", ".join(known) or "none"
    raise PackageError(f"There is no package {shown(wanted)!r} (installed: {names}).")


def find_package(name_or_path: str | os.PathLike[str] | None = None) -> ModelPackage:
    """Open a package by name or folder; ``None`` stands for the default one."""
    return open_package(locate_package(name_or_path))


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

    from .networks import pack_weights

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


def export_package(package: ModelPackage, path: Path, overwrite: bool = False) -> Path:
    """Write the package as a zip, whole or not at all: the same bytes for the same package. Returns its path.

    An existing folder as ``path`` receives ``NAME.zip``.
    """
    name = package.manifest.name
    path = path / f"{name}.zip" if os.path.isdir(path) else path
    if os.path.lexists(path) and not overwrite:
        raise PackageError(f"{path.name} exists already: choose another name, or use --overwrite.")
    with (
        _os_errors(f"{path.name} could not be written"),
        written_aside(path) as part,
        zipfile.ZipFile(part, "w") as archive,
    ):
        for file in (MANIFEST, *sorted(package.manifest.files)):
            entry = zipfile.ZipInfo(f"{name}/{file}")  # its date is 1980: contents alone decide the bytes
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as writer, (package.folder / file).open("rb") as reader:
                shutil.copyfileobj(reader, writer)
    return path


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


# --- importing -----------------------------------------------------------------------------------------------------


def import_package(source: str | os.PathLike[str], models_dir: Path, replace: bool = False) -> ModelPackage:
    """Install a package from a zip or folder as ``models_dir/NAME``, after verifying all of it.

    Raises :class:`PackageError` with nothing installed and nothing left behind when anything is wrong.
    """
    source, models_dir = Path(source), Path(models_dir)
    _sweep(models_dir)
    with _os_errors(f"{called_as(source)} could not be imported"), unpacked(source, models_dir) as content:
        package = verify_package(content, called_as(source))
        name = package.manifest.name
        if models_dir.resolve() == user_packages_dir().resolve() and (shipped_packages_dir() / name).exists():
            raise PackageError(f"{name} is the name of a package that ships with CardiacLDM: it cannot be installed.")
        _put_in_place(content, models_dir / name, replace)
    return dataclasses.replace(package, folder=models_dir / name)


def _sweep(models_dir: Path) -> None:
    """Remove what imports and removals left that were killed in their midst; none takes an hour."""
    for left in (*models_dir.glob(f"{PART}*"), *models_dir.glob(f"{REMOVED}*")):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def unpacked(source: Path, parent: Path | None = None) -> Iterator[Path]:
    """A private copy of the files of a package, from a zip or folder, in a temporary folder inside ``parent``.

    Nothing is known about the copy but that its files are plain, few and not too large. ``parent`` defaults to the
    system's temporary folder.
    """
    with _beside(parent or Path(tempfile.gettempdir())) as aside:
        content = aside / "content"
        content.mkdir()
        if os.path.isdir(source):
            _copy_folder(source, content)
        elif os.path.isfile(source):
            _unpack_zip(source, content)
        else:
            raise PackageError(f"There is no file or folder {shown(called_as(source))}.")
        yield content


def _copy_folder(source: Path, content: Path) -> None:
    called = called_as(source)
    if not (source / MANIFEST).is_file():
        raise PackageError(_no_manifest(called))  # before listing: it may be any folder of a disk
    budget = MAX_BYTES
    for name, path in _files_in(source, called).items():
        with path.open("rb") as reader:
            budget = _copy(reader, content / name, budget, called)


def _unpack_zip(source: Path, content: Path) -> None:
    called = shown(called_as(source))
    try:
        with _SmallReads(source, "rb") as file, zipfile.ZipFile(file) as archive:
            budget = MAX_BYTES
            for name, entry in _zip_files(archive, called).items():
                with archive.open(entry) as reader:
                    budget = _copy(reader, content / name, budget, called)
    except PackageError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError) as error:
        raise PackageError(f"{called} is damaged, cut short, or not a zip file.") from error


class _SmallReads(io.FileIO):
    """A file that refuses to be read in large pieces: zipfile loads a table of contents of any length at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        size = left if size is None or size < 0 else min(size, left)
        if size > MAX_ZIP_READ:
            raise PackageError(_too_many(Path(os.fsdecode(self.name)).name))
        return super().read(size) or b""


def _copy(reader: IO[bytes], target: Path, budget: int, called: str) -> int:
    """Copy to ``target`` and return what is left of ``budget`` bytes; counted here, whatever a header may claim."""
    with target.open("xb") as writer:
        while block := reader.read(MAX_ZIP_READ // 2):
            budget -= len(block)
            if budget < 0:
                raise PackageError(_too_large(called))
            writer.write(block)
    return budget


def _too_large(called: str) -> str:
    return f"{shown(called)} is refused: it holds more than {MAX_BYTES // 1024**3} GB."


def _zip_files(archive: zipfile.ZipFile, called: str) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by name, all at its top or all in one folder there; refuses every entry that is odd."""
    entries = archive.infolist()
    if len(entries) > MAX_FILES + 1:
        raise PackageError(_too_many(called))
    files: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for entry in entries:
        folder, name = _safe_name(entry, called)
        _refuse_odd_entry(entry, called)
        folders.add(folder)
        if not name:
            continue
        if name.casefold() in {other.casefold() for other in files}:
            raise PackageError(f"{called} is refused: it holds two files named {shown(name)}.")
        files[name] = entry
    if MANIFEST not in files:
        raise PackageError(_no_manifest(called))
    if len(folders) > 1:
        raise PackageError(f"{called} is refused: its files are not all in one folder.")
    if sum(entry.file_size for entry in files.values()) > MAX_BYTES:
        raise PackageError(_too_large(called))
    return files


def _safe_name(entry: zipfile.ZipInfo, called: str) -> tuple[str, str]:
    """Folder and name of an entry, either may be empty; refuses whatever could lead out of the temporary folder."""
    raw = entry.orig_filename  # as stored: zipfile cleans its own copy in ways that depend on the system
    parts = raw.removesuffix("/").split("/")
    odd = any(part in ("", ".", "..") or part != part.strip() for part in parts)
    if odd or not raw.isprintable() or any(c in raw for c in '\\:*?"<>|'):
        raise PackageError(f"{called} is refused: {shown(raw)!r} is not a safe file name.")
    if len(parts) > (1 if entry.is_dir() else 2):
        raise PackageError(f"{called} is refused: {shown(raw)} is in a sub-folder.")
    if entry.is_dir():
        return parts[0], ""
    return ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _refuse_odd_entry(entry: zipfile.ZipInfo, called: str) -> None:
    name = shown(entry.filename)
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise PackageError(f"{called} is refused: {name} is a link or a device, not a file.")
    if entry.flag_bits & 1:
        raise PackageError(f"{called} is refused: {name} is protected by a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PackageError(f"{called} is refused: {name} is compressed in an unusual way.")
    if entry.file_size > RATIO_FREE_BYTES + MAX_RATIO * entry.compress_size:
        raise PackageError(f"{called} is refused: {name} would unpack to more than {MAX_RATIO} times its size.")


if __name__ == "__main__":
    print(json.dumps(manifest_schema(), indent=2))
