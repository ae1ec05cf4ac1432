"""Carries out the worker's jobs: message in, fields of the result out.

Heavy libraries are imported late, so that a worker that lacks one can still report it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..progress import Cancelled, Preview, Progress
from .models import LoadedModels

#: Jobs that need no torch: they do not wait until it is imported.
LIGHT_JOBS = (
    "find_cases", "open_case", "open_review", "check_review", "check_labels", "find_scans", "compare_file",
    "compare_labels", "keep_labels", "report_review", "export_review",
)  # fmt: skip


class Jobs:
    """Carries out one job after the other and keeps models loaded for the next one."""

    def __init__(self) -> None:
        self._models = LoadedModels()
        self._loaded = threading.Event()

    def load(self) -> None:
        """Import the libraries, on a thread of its own while the first job is being sent.

        Jobs wait for those of a segmenter; those of a generator follow, which take longer. An error is only printed:
        the job that needs the library meets it again and reports it.
        """
        try:
            import CardiacLDMLib.segmentation.segmenter

            self._loaded.set()
            import CardiacLDMLib.networks.denoiser
            import CardiacLDMLib.networks.joint_autoencoder  # noqa: F401
        except Exception as error:
            print(f"The libraries cannot be loaded: {error}", file=sys.stderr)
        finally:
            self._loaded.set()

    def skip_loading(self) -> None:
        """Let the jobs that need the libraries import them: this worker is for others."""
        self._loaded.set()

    def run(
        self, message: dict[str, Any], report: Callable[[Progress | Preview], None], cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Carry out the job in ``message``; return the reply's ``fields`` and the affine matrices of its ``volumes``.

        ``report`` is called with every step; ``cancelled`` is called between steps. Raises :class:`Cancelled`, and
        lets all other errors through.
        """
        if message.get("job") not in LIGHT_JOBS:
            report(Progress(0, 100, "load", 0.0))
            while not self._loaded.wait(0.05):
                if cancelled():
                    raise Cancelled
        from . import review_handlers  # noqa: F401  # registers the jobs of a review
        from .arrays import map_volumes, save_volumes
        from .handlers import RunningJob, handle
        from .messages import read_request

        folder = Path(message["folder"]) if message.get("folder") else None
        volumes = map_volumes(folder, message.get("volumes") or {}, "r") if folder is not None else {}
        request = read_request(message.get("job"), message.get("fields"), volumes)
        reply = handle(request, RunningJob(self._models, folder, report, cancelled))
        affines = save_volumes(folder, reply.volumes()) if folder is not None else {}
        return {"fields": reply.plain_fields(), "volumes": affines}
