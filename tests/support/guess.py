"""The smallest stage: it learns one number. Also a program that trains it on two CPU processes, one of which fails.

python guess.py RUN number      the second process computes no number any more
python guess.py RUN death       the first one is killed while the second works for long; it writes its id to RUN
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric

from cardiacldm_training.errors import TrainingError
from cardiacldm_training.stages import config, devices, loop
from cardiacldm_training.stages.state import Score, State

TARGET = 5.0
#: The example numbers from which a bad stage gives no numbers any more.
BAD_FROM = 9


class Guess:
    """A stage of one number, scored by minus its error: scores below 0, as of a loss.

    ``harm`` changes the loss of a batch, whose example numbers it gets.
    """

    measure = "Closeness"

    def __init__(self, harm: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None) -> None:
        self.harm = harm

    def example(self, n: int) -> dict[str, np.ndarray]:
        return {"target": np.full(1, TARGET, dtype=np.float32), "n": np.array(n)}

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = (network(torch.ones(1)).float() - batch["target"]).square().mean()
        return self.harm(loss, batch["n"]) if self.harm and "n" in batch else loss

    def score(self, fabric: Fabric, network: torch.nn.Module) -> Score:
        return Score(-float(self.loss(network, {"target": torch.tensor([TARGET])})), {})

    def panel(self, fabric: Fabric, network: torch.nn.Module) -> np.ndarray:
        return np.zeros((2, 2, 3), dtype=np.uint8)


def settings(**changes: object) -> config.TrainingConfig:
    values = {
        "batch": 1, "steps": 8, "validate_every": 50, "patience": 9, "save_every": 2, "learning_rate": 0.1,
        "warmup_steps": 1,
    }  # fmt: skip
    return config.TrainingConfig.model_validate({**values, **changes})


def train(
    folder: Path, stage: Guess | None = None, fabric: Fabric | None = None, *, resume: bool = False, workers: int = 0,
    **changes: object,
) -> State:  # fmt: skip
    torch.manual_seed(0)
    return loop.train_network(
        fabric or Fabric(accelerator="cpu"), settings(**changes), torch.nn.Linear(1, 1), stage or Guess(), folder,
        title="guess", resume=resume, workers=workers, say=lambda line: None,
    )  # fmt: skip


def lose_number(loss: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """Return a loss that is not a number from example ``BAD_FROM`` on, on odd examples: those of the second rank."""
    bad = (n >= BAD_FROM) & (n % 2 == 1)
    return loss + torch.where(bad, torch.nan, 0.0).sum()


def die(loss: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """Kill the first process; let the second one write its id and work on."""
    if int(n.min()) % 2:
        Path(sys.argv[1], "second").write_text(str(os.getpid()))
        time.sleep(600)
    while not Path(sys.argv[1], "second").is_file():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
    return loss


if __name__ == "__main__":
    fabric = devices.launch(2, 1, "32-true", "cpu")
    harm = {"number": lose_number, "death": die}[sys.argv[2]]
    try:
        train(Path(sys.argv[1]), Guess(harm), fabric, save_every=1)
    except TrainingError as error:
        print(f"rank {fabric.global_rank}: {error}", flush=True)
