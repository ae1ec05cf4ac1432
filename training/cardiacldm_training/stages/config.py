"""The configuration of a training run, stored as ``RUN/config.json``.

Three records stay apart. Training settings are what a person chose (:class:`TrainingConfig` and its kinds). Facts about
the data are what the cases dictate (:class:`DataFacts`). Calibration results are measured after training and stored
beside the weights (:mod:`calibration`). A :class:`RunConfig` holds the first two: all that shapes the weights. Options
that only change the pace (worker processes, cache folder) stay out, so that a run can be resumed elsewhere.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from CardiacLDMLib.networks.architectures import LATENT_STRIDE
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.packages.generator_spec import Sampling
from CardiacLDMLib.postprocess.steps import Step

from ..cases.conditions import Vocabulary
from ..cases.settings import AugmentConfig, PairAugmentConfig, Positive, Probability, SamplingConfig
from ..errors import ConfigError
from .masking import Mask

#: Increase it when stored configurations change their shape: runs of another format are refused.
FORMAT: Final = 2
#: The networks of a segmenter, and all networks, in the order in which they are trained.
SEGMENTER_NETWORKS = ("locator", "segmenter")
NETWORKS = (*SEGMENTER_NETWORKS, "autoencoder", "diffusion", "pretrain", "decoder")

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Devices = Annotated[int, Field(ge=1)]
#: Voxels along each axis that an adversary needs: it halves them four times.
LEAST_ADVERSARY_SIDE = 24
#: Most examples of a step and device, whatever the memory.
MOST_EXAMPLES = 1024


def stream(network: str) -> int:
    """Return the number that separates the random streams of one network from those of others with the same seed."""
    return NETWORKS.index(network)


# --- settings ------------------------------------------------------------------------------------------------------


class TrainingConfig(Record):
    """How one network is trained, whichever it is."""

    batch: Annotated[int, Field(ge=1)] = 2
    steps: Annotated[int, Field(ge=1)]
    validate_every: Annotated[int, Field(ge=1)]  # steps
    patience: Annotated[int, Field(ge=1)]  # validations without a better score before training stops
    validation_cases: Annotated[int, Field(ge=1)] = 1000  # the most held-out cases that a validation uses
    save_every: Annotated[int, Field(ge=1)] = 200  # steps
    learning_rate: Positive = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    ema_decay: Probability = 0.998
    clip_norm: Positive = 5.0


class NetworkConfig(TrainingConfig):
    """A network that labels: architecture, patches and training. ``patch`` in voxels (R, A, S) of ``spacing_mm``.

    With a pre-trained encoder, its learning rate is ``encoder_rate`` times that of the decoder, and 0 for the first
    ``frozen_steps``, in which the new decoder adapts to it.
    """

    architecture: str
    arguments: dict[str, Any]
    spacing_mm: Positive
    patch: tuple[int, int, int]
    window_hu: tuple[float, float] = (-300.0, 700.0)
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    encoder_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    frozen_steps: Annotated[int, Field(ge=0)] = 0


class AdversaryConfig(TrainingConfig):
    """A network that makes pairs, and the adversary that judges them during training.

    From ``adversary_from`` steps on, its loss holds that of passing for true, and ``feature_weight`` times the
    difference of the adversary's features. The gradient of both at the image is scaled to ``adversary_weight`` times
    that of the image's L1 loss.
    """

    adversary_channels: Annotated[int, Field(ge=1, le=256)] = 24
    adversary_weight: Annotated[float, Field(ge=0)] = 0.8
    feature_weight: Annotated[float, Field(ge=0)] = 0.5
    adversary_from: Annotated[int, Field(ge=0)] = 300


class AutoencoderConfig(AdversaryConfig):
    """The joint autoencoder: ``arguments`` of the architecture ``joint_autoencoder`` and the weights of its loss.

    Loss: L1 of the image (0..1) + ``label_weight`` (cross-entropy + Dice) + ``kl_weight`` KL (nats per latent number) +
    that of :class:`AdversaryConfig`, unless ``adversary_weight`` is 0: then there is no adversary. Labels decoded as
    palette colours have an L1 loss in place of cross-entropy and Dice.

    ``patch``: side in voxels of the random box of a pair that is one training example; None: the whole pair.
    ``train_linear``: whether the linear maps, if there are any, are trained with everything else.
    """

    arguments: dict[str, Any]
    patch: Annotated[int, Field(ge=LATENT_STRIDE, multiple_of=LATENT_STRIDE)] | None = None
    train_linear: bool = False
    adversary_weight: Annotated[float, Field(ge=0)] = 0.0
    label_weight: Positive = 0.5
    kl_weight: Annotated[float, Field(ge=0)] = 1e-4
    colour_weight: Positive = 0.3  # of the palette colours beside the image in the initial principal components
    augment: PairAugmentConfig = PairAugmentConfig()


class DiffusionConfig(TrainingConfig):
    """The denoiser: ``arguments`` of the architecture ``diffusion_unet``, its training, and the usual sampling.

    Each training case is encoded ``variants`` times, once unchanged and otherwise with augmentation. For
    classifier-free guidance each condition is left unset with the probability ``condition_dropout``, and with the same
    probability all of them at once. Devices are its own: this stage may run on another machine than the autoencoder.
    """

    arguments: dict[str, Any]
    sampling: Sampling = Sampling(schedule="rectified_flow", solver="euler")  # gains of restarts are measured later
    postprocess: tuple[Step, ...] = ()
    training_shift: Annotated[float, Field(ge=1, le=100)] = 1.0  # time shift of training, see sampler.shift_time
    variants: Annotated[int, Field(ge=1)] = 6
    augment: PairAugmentConfig = PairAugmentConfig()
    condition_dropout: Probability = 0.1
    devices: Devices = 1
    nodes: Devices = 1


class DecoderConfig(AdversaryConfig):
    """The fine decoder: ``arguments`` of the architecture ``fine_decoder``, its patches and the weights of its loss.

    ``patch``: side of a training patch in latent voxels. Each case gives its encoded latent and ``variants`` latents
    that the denoiser returned. Loss: L1 of the image (0..1), coarse and, for latents as sure as the encoded one, fine;
    + ``label_weight`` (cross-entropy + Dice) + that of :class:`AdversaryConfig`. ``sampling``: that of the package with
    this decoder; None: as before.
    """

    arguments: dict[str, Any]
    patch: Annotated[int, Field(ge=3, le=64)] = 8  # the adversary needs 24 voxels
    variants: Annotated[int, Field(ge=1, le=64)] = 5
    latent_noise: Annotated[float, Field(ge=0)] = 0.1
    adversary_weight: Annotated[float, Field(ge=0)] = 0.3
    label_weight: Positive = 0.3
    sampling: Sampling | None = None


class PretrainConfig(TrainingConfig):
    """A network that fills in hidden voxels. ``patch`` in voxels (R, A, S) of ``spacing_mm``.

    Of ``augment`` only the geometry is used. ``sampling`` holds for images with labels; others give patches anywhere.
    """

    architecture: str
    arguments: dict[str, Any]
    spacing_mm: Positive
    patch: tuple[int, int, int]
    window_hu: tuple[float, float] = (-300.0, 700.0)
    mask: Mask
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()


class PretrainingModel(Record):
    """The network of a pre-training, whose encoder a segmenter can keep."""

    kind: Literal["pretraining"] = "pretraining"
    network: PretrainConfig


class SegmenterModel(Record):
    """The two networks of a segmenter."""

    kind: Literal["segmenter"] = "segmenter"
    locator: NetworkConfig
    segmenter: NetworkConfig

    def network(self, name: str) -> NetworkConfig:
        return {"locator": self.locator, "segmenter": self.segmenter}[name]


class GeneratorModel(Record):
    """The two networks of a generator and the grid of its pairs.

    ``grid`` is in voxels (R, A, S) of ``spacing_mm``, around the centre of the heart. ``diffusion`` is empty until that
    stage begins.
    """

    kind: Literal["generator"] = "generator"
    grid: tuple[int, int, int]
    spacing_mm: Positive
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    autoencoder: AutoencoderConfig
    diffusion: DiffusionConfig | None = None

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Channels and voxels of one latent: (C, I/4, J/4, K/4)."""
        i, j, k = (side // LATENT_STRIDE for side in self.grid)
        return self.autoencoder.arguments.get("latent_channels", 4), i, j, k

    @property
    def training_box(self) -> tuple[int, int, int]:
        """The sides in voxels of one training example of the autoencoder."""
        i, j, k = (min(self.autoencoder.patch or side, side) for side in self.grid)
        return i, j, k


class DecoderModel(Record):
    """A fine decoder for a generator package, whose grid, voxels and window are repeated here.

    ``generator`` names the package with its hash; the run keeps a copy of it.
    """

    kind: Literal["decoder"] = "decoder"
    generator: str
    grid: tuple[int, int, int]
    spacing_mm: Positive
    window_hu: tuple[float, float]
    decoder: DecoderConfig

    @property
    def fine_grid(self) -> tuple[int, int, int]:
        """The grid of the decoder's pairs, with voxels of half the size."""
        i, j, k = (2 * side for side in self.grid)
        return i, j, k


Model = SegmenterModel | GeneratorModel | PretrainingModel | DecoderModel


# --- facts about the data ------------------------------------------------------------------------------------------


class DiffusionData(Record):
    """What a denoiser is trained on: the conditions of its cases, and the latents of one autoencoder."""

    conditions: Vocabulary  # of the training cases
    conditions_digest: str  # SHA-256 over the conditions of all cases
    autoencoder: str  # SHA-256 of its weights


class MixFacts(Record):
    """Generated pairs that are mixed with the real cases. ``share``: how many of them are drawn for each real case."""

    package: str  # generator package of the pairs, with its hash; empty if they do not tell
    cases: int
    digest: str  # SHA-256 over names and content of all prepared pairs
    share: Positive


class DataFacts(Record):
    """The data of a run; other data make another run."""

    cases: int
    digest: str  # SHA-256 over names and content of all prepared cases
    mix: MixFacts | None = None
    diffusion: DiffusionData | None = None


# --- the run -------------------------------------------------------------------------------------------------------


class RunConfig(Record):
    """A whole run: the model with the settings of its networks, facts about the data, and all else that shapes weights.

    ``start`` names the package, with its hash, whose weights training starts from; None: random weights. ``encoder``
    likewise names the pre-training whose encoder the segmenter keeps.
    """

    format: Literal[2] = FORMAT
    preset: str
    seed: int = 0
    precision: Precision = "32-true"
    devices: Devices = 1
    nodes: Devices = 1
    validation_part: Probability = 0.1
    start: str | None = None
    encoder: str | None = None
    data: DataFacts
    model: Annotated[Model, Field(discriminator="kind")]

    @property
    def segmenter(self) -> SegmenterModel:
        """The model of a segmenter's run. Raises :class:`ConfigError` for another run."""
        if not isinstance(self.model, SegmenterModel):
            raise ConfigError(f"This is the run of a {self.model.kind}, not of a segmenter.")
        return self.model

    @property
    def generator(self) -> GeneratorModel:
        """The model of a generator's run. Raises :class:`ConfigError` for another run."""
        if not isinstance(self.model, GeneratorModel):
            raise ConfigError(f"This is the run of a {self.model.kind}, not of a generator.")
        return self.model

    @property
    def pretraining(self) -> PretrainingModel:
        """The model of a pre-training's run. Raises :class:`ConfigError` for another run."""
        if not isinstance(self.model, PretrainingModel):
            raise ConfigError(f"This is the run of a {self.model.kind}, not of a pre-training.")
        return self.model

    @property
    def fine_decoder(self) -> DecoderModel:
        """The model of a fine decoder's run. Raises :class:`ConfigError` for another run."""
        if not isinstance(self.model, DecoderModel):
            raise ConfigError(f"This is the run of a {self.model.kind}, not of a fine decoder.")
        return self.model

    def with_diffusion(self, settings: DiffusionConfig | None, data: DiffusionData | None) -> RunConfig:
        """Return the run of a generator with this diffusion stage; None: without one."""
        return self.model_copy(update={
            "model": self.generator.model_copy(update={"diffusion": settings}),
            "data": self.data.model_copy(update={"diffusion": data}),
        })  # fmt: skip


#: Settings that a resumed run may change if it has more steps.
_OF_LENGTH = ("steps", "validate_every", "warmup_steps", "adversary_from")


def check_same(stored: Record, config: Record) -> None:
    """Raise :class:`ConfigError` naming the first field in which a run to resume differs from ``config``."""
    _refuse_difference(json.loads(stored.model_dump_json()), json.loads(config.model_dump_json()))


def check_resumable(stored: RunConfig, config: RunConfig, *, begun: bool = True) -> None:
    """Raise :class:`ConfigError` unless ``config`` is that of the run to resume, perhaps with more steps.

    A run that has not ``begun`` may change its batch, for which memory may have been too small.
    """
    old, new = json.loads(stored.model_dump_json()), json.loads(config.model_dump_json())
    if old["data"]["cases"] == new["data"]["cases"] and old["data"]["digest"] != new["data"]["digest"]:
        raise ConfigError("The run cannot be resumed: its cases (data.digest) changed since. Train in another folder.")
    for name in (*NETWORKS, "network"):
        before, after = old["model"].get(name), new["model"].get(name)
        if before and after and after["steps"] > before["steps"]:
            before.update({field: after[field] for field in _OF_LENGTH if field in after})
        if before and after and not begun:
            before["batch"] = after["batch"]
    _refuse_difference(old, new)


def _refuse_difference(stored: Any, config: Any) -> None:
    difference = _first_difference(stored, config)
    if difference:
        field, old, new = difference
        raise ConfigError(f"The run cannot be resumed: its {field} is {old!r}, not {new!r}.")


def _first_difference(old: Any, new: Any, field: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys(), key=lambda key: (key != "kind", key)):
            difference = _first_difference(old.get(key), new.get(key), f"{field}.{key}" if field else key)
            if difference:
                return difference
        return None
    return None if old == new else (field, old, new)
