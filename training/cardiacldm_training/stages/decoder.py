"""The decoder stage: a fine decoder for the latents of a generator package, with voxels of half the size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from pydantic import ValidationError

from CardiacLDMLib import anatomy
from CardiacLDMLib.image.labels import dice_per_structure
from CardiacLDMLib.networks.architectures import FINE_STRIDE, LATENT_STRIDE
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.networks.fine_decoder import NOISE_CHANNELS, FineDecoder
from CardiacLDMLib.networks.joint_autoencoder import palette_coded
from CardiacLDMLib.packages.manifest import NetworkSpec
from CardiacLDMLib.packages.store import ModelPackage
from CardiacLDMLib.packages.weights import load_networks
from CardiacLDMLib.progress import Say
from CardiacLDMLib.text import first_problem

from ..cases import conditions, pairs, split, store
from ..errors import ConfigError, TrainingError
from ..results import pictures
from . import adversary, devices, generator_start, loop, run_folder
from .config import LEAST_ADVERSARY_SIDE, DecoderModel, RunConfig, stream
from .decoder_latents import TIMES, DecoderLatents
from .package_part import PackagePart, network_part
from .sharpness import DECIBEL, mean_gap
from .state import Score, State

NAME = "decoder"
ARCHITECTURE = "fine_decoder"
#: Latents around a patch that its deep layers see, and voxels at a patch's cut sides that its loss leaves out.
_SURROUNDINGS, _RIM = 2, 4
#: Side in voxels of the means that the coarse loss compares.
_COARSE = 4
#: Weight of the L1 loss in the window of soft tissue, beside that over the whole range of HU.
_SOFT_WEIGHT = 0.4
#: Along each axis: the adversary needs so many.
_LEAST_LATENTS = LEAST_ADVERSARY_SIDE // FINE_STRIDE
_SCORES = (*anatomy.NAMES, "gap_dB", "PSNR")


class DecoderStage:
    """Decode latents that the denoiser returned; the score is Dice of the labels, less a hundredth of the image's gap.

    The gap is the mean difference in dB between the spectra of the decoded and of the true image.
    """

    measure = "score"

    def __init__(
        self, run_config: RunConfig, latents: DecoderLatents, *, train: Sequence[store.PreparedCase],
        held_out: Sequence[store.PreparedCase],
    ) -> None:  # fmt: skip
        from monai.losses import DiceCELoss

        self.seed, self.model, self.latents = run_config.seed, run_config.fine_decoder, latents
        self.config = self.model.decoder
        self.examples_per_step = self.config.batch * run_config.devices * run_config.nodes
        self.train, self.held_out = train, held_out[: self.config.validation_cases]
        #: Variants that validation decodes: the encoded latent, and one from the middle of the times.
        self._variants = {"encoded": 0, "denoised": (1 + self.latents.variants) // 2}
        self._label_loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    # --- training

    def example(self, n: int) -> dict[str, np.ndarray]:
        """Return a patch of a training pair, the latents around it, and how much its parts count.

        ``z`` (C, ...), ``corner`` (3,) of the patch in them, ``noise`` of the patch, ``image`` and ``labels``
        (1, P, Q, R), ``mask`` of that shape: where they count, ``certainty`` (0..1): how far the latents tell the
        detail, ``adversary_share`` (0..1): how much the adversary counts, ``shift`` (3,) of what is judged.
        """
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, stream(NAME), n]))
        case = self.train[int(rng.integers(len(self.train)))]
        variant = int(rng.integers(1 + self.latents.variants))
        z = self.latents.read(case, variant)
        sides, patch = np.array(z.shape[1:]), np.minimum(self.config.patch, z.shape[1:])
        low = rng.integers(sides - patch + 1)
        window = np.minimum(patch + 2 * _SURROUNDINGS, sides)
        start = np.clip(low - _SURROUNDINGS, 0, sides - window)
        z = z[(slice(None), *_box(start, window))]
        z = z + np.float32(self.config.latent_noise) * rng.standard_normal(z.shape, np.float32)
        image, labels = pairs.pair(case, self.model.fine_grid, self.model.window_hu)
        box = (slice(None), *_box(FINE_STRIDE * low, FINE_STRIDE * patch))
        return {
            "z": z, "corner": low - start, "noise": rng.standard_normal((NOISE_CHANNELS, *patch), np.float32),
            "image": image[box], "labels": labels[box], "mask": _inner(low, patch, sides)[None],
            "certainty": np.float32(1 - _time(variant, self.latents.variants)),
            "adversary_share": adversary.share(n / self.examples_per_step, self.config),
            "shift": adversary.random_shift(rng),
        }  # fmt: skip

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum of the losses of :class:`DecoderConfig`, and that of the adversary."""
        true, mask, shift = batch["image"], batch["mask"], batch["shift"][0]  # one for all patches of a step
        colours = palette_coded(batch["labels"])
        outputs = network((batch["z"], batch["corner"], batch["noise"]), adversary.view(true, colours), shift, mask)
        image, logits, maker_loss, differences, adversary_loss = (tensor.float() for tensor in outputs)
        certainty, config = batch["certainty"], self.config
        error = torch.where(mask, torch.cat([image - true, _soft(image) - _soft(true)], dim=1), 0.0)
        coarse = torch.nn.functional.avg_pool3d(adversary.shifted(error, shift), _COARSE).abs().flatten(2).mean(2)
        fine = error.abs().flatten(2).mean(2)
        image_loss = ((coarse + 0.5 * certainty[:, None] * fine) * error.new_tensor([1.0, _SOFT_WEIGHT])).sum(1)
        label_loss = self._label_loss(torch.where(mask, logits, logits.detach()), batch["labels"])
        passing = maker_loss + config.feature_weight * certainty * differences
        passing = adversary.balance(image_loss.mean(), (batch["adversary_share"] * passing).mean(), image)
        loss = image_loss.mean() + config.label_weight * label_loss + config.adversary_weight * passing
        return cast("torch.Tensor", loss + adversary_loss)

    # --- validation

    def score(self, fabric: Fabric, network: torch.nn.Module) -> Score:
        """Return the mean score of held-out cases, from encoded latents and from some that the denoiser returned."""
        table = np.full((len(self.held_out), len(self._variants), len(_SCORES)), np.nan)
        for index in range(fabric.global_rank, len(self.held_out), fabric.world_size):
            for row, variant in enumerate(self._variants.values()):
                table[index, row] = self._scores(fabric, decoder_of(network), self.held_out[index], variant)
        table = devices.merge_ranks(fabric, table.reshape(len(table), -1)).reshape(table.shape)
        present = ~np.isnan(table)
        means = np.where(present, table, 0).sum(0) / np.maximum(present.sum(0), 1)
        dice = means[present.any(0) & (np.arange(len(_SCORES)) < len(anatomy.NAMES))].mean()
        parts = {
            f"{kind}_{name}": float(value)
            for kind, row in zip(self._variants, means, strict=True) for name, value in zip(_SCORES, row, strict=True)
        }  # fmt: skip
        return Score(float(dice - DECIBEL * means[:, _SCORES.index("gap_dB")].mean()), parts)

    def _scores(self, fabric: Fabric, decoder: FineDecoder, case: store.PreparedCase, variant: int) -> np.ndarray:
        """Return Dice of the structures, the mean gap of the spectra in dB, and PSNR in dB of a decoded case."""
        image, labels = pairs.pair(case, self.model.fine_grid, self.model.window_hu)
        out, decoded = self._decode(fabric, decoder, case, variant)
        if not np.isfinite(out).all():
            raise TrainingError("The decoder computes values that are not numbers: try a lower learning rate.")
        psnr = -10 * np.log10(max(float(np.square(out - image[0]).mean()), 1e-10))
        return np.array([*dice_per_structure(decoded, labels[0]), mean_gap(image[0], out), psnr])

    def _decode(
        self, fabric: Fabric, decoder: FineDecoder, case: store.PreparedCase, variant: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image (I, J, K) in 0..1 and labels (I, J, K) uint8 of a case; every validation has the same noise."""
        z = self.latents.read(case, variant)[None]
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, stream(NAME), int(case.key[:8], 16), variant]))
        noise = rng.standard_normal((1, NOISE_CHANNELS, *z.shape[2:]), np.float32)
        with fabric.autocast():
            image, logits = decoder(*(fabric.to_device(torch.from_numpy(array)) for array in (z, noise)))
        return image[0, 0].float().clamp(0, 1).cpu().numpy(), logits[0].argmax(0).to(torch.uint8).cpu().numpy()

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        """Return the first held-out pair in three planes: the original above; below, decoded from a denoised latent."""
        case = self.held_out[0]
        image, labels = pairs.pair(case, self.model.fine_grid, self.model.window_hu)
        out, decoded = self._decode(fabric, decoder_of(network), case, self._variants["denoised"])
        return pictures.panel(image[0], labels[0], decoded, predicted_image=out)


def _box(start: np.ndarray, sides: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(low), int(low + side)) for low, side in zip(start, sides, strict=True))


def _inner(low: np.ndarray, patch: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return which voxels of a patch count: not those beside a side that is cut, but those at the grid's own border."""
    inner = np.zeros(FINE_STRIDE * patch, dtype=bool)
    first = np.where(low > 0, _RIM, 0)
    last = FINE_STRIDE * patch - np.where(low + patch < sides, _RIM, 0)
    inner[_box(first, last - first)] = True
    return inner


def _time(variant: int, variants: int) -> float:
    """Return the middle of the times to which latents of this variant were noised; 0 for encoded ones."""
    return 0.0 if variant == 0 else TIMES[0] + (TIMES[1] - TIMES[0]) * (variant - 0.5) / variants


def _soft(image: torch.Tensor) -> torch.Tensor:
    """Return the image (0..1 of the window) within soft tissue, as 0..1 and a little beyond."""
    low, high = adversary.SOFT_TISSUE
    return ((image - low) / (high - low)).clamp(-0.2, 1.2)


def decoder_of(network: torch.nn.Module) -> FineDecoder:
    """Return the decoder inside the contest and the averaging and parallel modules of the training loop."""
    return cast("FineDecoder", cast("adversary.Contest", adversary.contest_in(network)).maker)


# --- the whole stage -----------------------------------------------------------------------------------------------


def generator_of(run: Path) -> ModelPackage:
    """Return the generator package that a run's decoder belongs to. Raises ConfigError, PackageError."""
    return generator_start.package_of_run(run, run_folder.read_config(run).fine_decoder.generator)


def package_part(run: Path, run_config: RunConfig) -> PackagePart:
    """Return the decoder's part of a package. Raises TrainingError, ValidationError."""
    model = run_config.fine_decoder
    weights = adversary.maker_weights(run_folder.averaged_weights(run / NAME / run_folder.BEST))
    sampling = model.decoder.sampling
    return network_part(
        run, NAME, weights, architecture=ARCHITECTURE, arguments=model.decoder.arguments, patch=model.fine_grid,
        spacing_mm=model.spacing_mm / 2, window_hu=model.window_hu,
        generator={"postprocess": ()} if sampling is None else {"postprocess": (), "sampling": sampling},
    )  # fmt: skip


def train_decoder(
    run: Path, run_config: RunConfig, prepared: store.Prepared, case_conditions: conditions.CaseConditions,
    package: ModelPackage, *, resume: bool, workers: int, device: str = "auto", say: Say = print,
) -> State:  # fmt: skip
    """Train a fine decoder for ``package`` into ``run``; return where training ended.

    Raises TrainingError, ConfigError, PackageError.
    """
    model = run_config.fine_decoder
    _check_generator(run, model)
    run_folder.check_run(run, run_config, [NAME], resume=resume)
    train, held_out = split.sides(prepared, run_config.validation_part)
    fabric = devices.launch(run_config.devices, run_config.nodes, run_config.precision, device, say)
    if fabric.is_global_zero:
        run_folder.write_config(run_config, run)
        generator_start.copy_package(run, package)
    latents = DecoderLatents(run, run_config, package, case_conditions)
    used = [*train, *held_out[: model.decoder.validation_cases]]
    latents.make_all(fabric, used, say)
    torch.manual_seed(run_config.seed)
    stage = DecoderStage(run_config, latents, train=train, held_out=held_out)
    network = _contest(model, package)
    if fabric.is_global_zero:
        items = f"patches of {model.decoder.patch} latents along each axis"
        say(loop.describe(NAME, network.maker, model.decoder, len(train), len(stage.held_out), items))
    fabric.barrier()
    return loop.train_network(
        fabric, model.decoder, network, stage, run / NAME, title=NAME, resume=resume, workers=workers, say=say
    )


def _check_generator(run: Path, model: DecoderModel) -> None:
    """Refuse a package that cannot have a decoder, and another one than that of the run. Raises ConfigError."""
    if min(model.grid) < _LEAST_LATENTS * LATENT_STRIDE:
        grid = " x ".join(map(str, model.grid))
        raise ConfigError(f"Pairs of {grid} voxels are too small for a fine decoder.")
    try:
        _network_spec(model)
    except ValidationError as error:
        raise ConfigError(f"This package cannot have a fine decoder: {first_problem(error)}.") from error
    if (run / run_folder.CONFIG_FILE).exists():
        known = run_folder.read_config(run).fine_decoder.generator
        if known != model.generator:
            raise ConfigError(
                f"{run} holds the decoder of another package: {run / generator_start.FOLDER / known.split()[0]}."
            )


def _network_spec(model: DecoderModel) -> NetworkSpec:
    return NetworkSpec(
        architecture=ARCHITECTURE, arguments=model.decoder.arguments, weights=f"{NAME}.safetensors",
        patch=model.fine_grid, spacing_mm=model.spacing_mm / 2, window_hu=model.window_hu,
    )  # fmt: skip


def _contest(model: DecoderModel, package: ModelPackage) -> adversary.Contest:
    """Return a new decoder, which starts from the linear map of the package's autoencoder, with its adversary."""
    decoder: Any = build_network(ARCHITECTURE, model.decoder.arguments)
    autoencoder = cast("Any", load_networks(package)["autoencoder"])
    if autoencoder.linear_maps and autoencoder.labels_out == "logits":  # colours need another map
        decoder.linear.load_state_dict(autoencoder.block_decoder.state_dict())
    return adversary.Contest(decoder, FineDecoder.patch, model.decoder.adversary_channels)
