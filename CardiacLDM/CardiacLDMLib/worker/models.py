"""The networks that a worker keeps loaded between jobs. Nothing heavy is imported before a model is asked for."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import JobError

if TYPE_CHECKING:
    from ..generation.generator import Generator
    from ..packages.store import ModelPackage
    from ..segmentation.segmenter import Segmenter

#: Number of models that stay loaded.
MAX_LOADED = 2

Model = TypeVar("Model")


class LoadedModels:
    """Opens model packages and keeps the last ones used loaded, unless one of their files changes."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[object, ...], Any] = OrderedDict()

    def segmenter(self, package: str | None, device: str) -> Segmenter:
        """Return the segmenter of ``package``: a name or folder, None for the one that ships."""
        from ..packages.store import locate_package
        from ..segmentation.segmenter import Segmenter

        return self._model(locate_package(package), Segmenter, device)

    def shipped_segmenter(self, device: str) -> Segmenter | None:
        """Return the segmenter that ships, None if it does not."""
        from ..packages.store import DEFAULT_PACKAGE, installed_packages

        return self.segmenter(None, device) if DEFAULT_PACKAGE in installed_packages("segmenter") else None

    def generator(self, package: str | None, device: str) -> Generator:
        """Return the generator of ``package``: a name or folder, None for the one that ships."""
        from ..generation.generator import Generator
        from ..packages.store import DEFAULT_GENERATOR, installed_packages, locate_package

        if package is None and DEFAULT_GENERATOR not in installed_packages("generator"):
            raise JobError("No generator package comes with this version: import one under Models & device.")
        return self._model(locate_package(package or DEFAULT_GENERATOR), Generator, device)

    def _model(self, folder: Path, make: Callable[[ModelPackage, str], Model], device: str) -> Model:
        """Return the package's networks, still loaded if none of its files has changed."""
        from ..packages.store import open_package
        from ..torch_device import choose_device

        files = tuple(sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in os.scandir(folder)))
        key = (make, str(folder), files, choose_device(device))
        model = self._models.pop(key, None) or make(open_package(folder), device)
        while len(self._models) >= MAX_LOADED:
            self._models.popitem(last=False)
        self._models[key] = model
        return model
