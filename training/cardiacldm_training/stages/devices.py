"""The devices of a training, and what their processes exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from .config import Precision


def launch(devices: int, nodes: int, precision: Precision) -> Fabric:
    """Return Fabric on the accelerator that is there, or the CPU; with several devices, start their processes."""
    fabric = Fabric(accelerator="auto", devices=devices, num_nodes=nodes, precision=precision)
    fabric.launch()
    return fabric


def merge_ranks(fabric: Fabric, table: np.ndarray) -> np.ndarray:
    """Merge the tables of scores of all ranks; a row is NaN on every rank but the one that scored its case."""
    if fabric.world_size == 1:
        return table
    gathered: Any = fabric.all_gather(torch.from_numpy(np.nan_to_num(table, nan=-np.inf, posinf=np.inf)))
    merged = gathered.amax(0).cpu().numpy()
    merged[np.isneginf(merged)] = np.nan
    return merged
