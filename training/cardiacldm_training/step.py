"""Run one command in a process that ends when its parent does: ``python -m cardiacldm_training.step COMMAND ...``.

A pipeline runs its steps like this. If it is killed, a step that went on would write into the folder that the next
pipeline resumes.
"""

from __future__ import annotations

import os
import threading
import time

from .cli import main


def _end_with(parent: int) -> None:
    """End this process when its parent has ended. No file is left half-written: all are renamed into place."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    main()
