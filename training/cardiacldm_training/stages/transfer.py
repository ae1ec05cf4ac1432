"""Transfer of a pre-trained encoder: which tensors are the encoder, and how they enter a new network.

The encoder of a network is all that its deepest features depend on. Each architecture says by its own structure which
modules these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import ConfigError
from .config import NetworkConfig
from .loop import Slow


def _unet(network: Any) -> Iterator[torch.nn.Module]:
    """Yield the way down of the U-Net: sequences of (down, connection around the level below, up)."""
    block = network.model
    while isinstance(block, torch.nn.Sequential) and len(block) == 3 and hasattr(block[1], "submodule"):
        yield block[0]
        block = block[1].submodule
    yield block


def _dynunet(network: Any) -> Iterator[torch.nn.Module]:
    yield network.input_block
    yield network.downsamples
    yield network.bottleneck


def _segresnet(network: Any) -> Iterator[torch.nn.Module]:
    yield network.convInit
    yield from network.down_layers


def _swinunetr(network: Any) -> Iterator[torch.nn.Module]:
    """Yield the transformer and the block on its deepest features; the others feed the decoder's skip connections."""
    yield network.swinViT
    yield network.encoder10


_ENCODERS: dict[str, Callable[[Any], Iterator[torch.nn.Module]]] = {
    "unet": _unet,
    "dynunet": _dynunet,
    "segresnet": _segresnet,
    "swinunetr": _swinunetr,
}


def encoder_names(architecture: str, network: torch.nn.Module) -> list[str]:
    """Return the names of the encoder's tensors in ``network.state_dict()``, in its order.

    Raises :class:`ConfigError` for an architecture without an encoder that could be kept.
    """
    if architecture not in _ENCODERS:
        raise ConfigError(f"The architecture {architecture} has no encoder to keep: choose {', '.join(_ENCODERS)}.")
    modules = {part for module in _ENCODERS[architecture](network) for part in module.modules()}
    prefixes = {name for name, module in network.named_modules(remove_duplicate=False) if module in modules}
    return [name for name in network.state_dict() if name.rpartition(".")[0] in prefixes]


def deepest(architecture: str, network: torch.nn.Module) -> torch.nn.Module:
    """Return the module whose output is the deepest features."""
    return list(_ENCODERS[architecture](network))[-1]


def take_encoder(architecture: str, network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> list[str]:
    """Copy the encoder's tensors from ``weights`` into ``network``, and return their names. The rest stays as it is.

    Raises :class:`ConfigError` if a tensor is missing or has another shape.
    """
    names = encoder_names(architecture, network)
    state = network.state_dict()
    for name in names:
        if name not in weights or weights[name].shape != state[name].shape:
            raise ConfigError(
                f"The pre-trained encoder is another network than this {architecture} (its {name} differs): "
                "pre-train with the same --network and preset."
            )
        if not weights[name].isfinite().all():
            raise ConfigError("The pre-trained encoder holds numbers that are not finite: pre-train again.")
    network.load_state_dict({**state, **{name: weights[name] for name in names}})
    return names


def keep_encoder(network: torch.nn.Module, settings: NetworkConfig, weights: dict[str, torch.Tensor]) -> Slow | None:
    """Give ``network`` the encoder of ``weights``; return how its parameters learn if not like the others.

    Raises :class:`ConfigError` for the encoder of another network.
    """
    kept = set(take_encoder(settings.architecture, network, weights))
    if settings.encoder_rate == 1 and settings.frozen_steps == 0:
        return None
    names = frozenset(name for name, _ in network.named_parameters() if name in kept)
    return Slow(names, settings.encoder_rate, settings.frozen_steps)
