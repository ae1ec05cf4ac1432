"""Pretended GPUs: what torch tells of the cards of a computer. They cannot compute; tests run on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from CardiacLDMLib import torch_device

#: torch's words for a card that it was not built for.
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nmore"


@dataclass(frozen=True)
class Card:
    """A card: ``computes``: whether torch was built for it; ``error``: its words otherwise."""

    name: str = "NVIDIA H100"
    capability: tuple[int, int] = (9, 0)
    computes: bool = True
    error: str = NO_KERNEL
    free_bytes: int = 8 * 2**30


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, *cards: Card) -> None:
    """Let torch tell of these cards. The check that a card computes succeeds as the card says."""

    def number(device: object) -> int:
        return torch.device(device).index or 0 if isinstance(device, str) else int(str(device))

    def compute(device: str) -> None:
        card = cards[number(device)]
        if not card.computes:
            raise RuntimeError(card.error)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: cards[number(device)].name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: cards[number(device)].capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (cards[number(device)].free_bytes, 16 * 2**30))
    monkeypatch.setattr(torch_device, "_compute", compute)
