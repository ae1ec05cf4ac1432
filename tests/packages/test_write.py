"""Writing a package: complete or absent, and only weights that fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from CardiacLDMLib.errors import PackageError
from CardiacLDMLib.networks.build import build_network
from CardiacLDMLib.packages.manifest import Manifest
from CardiacLDMLib.packages.write import write_package
from tests.support.package import tiny_manifest
from tests.support.package_attacks import (
    SEGMENTER,
    content,
    first,
)


def weights_for(manifest: Manifest) -> dict[str, dict[str, torch.Tensor]]:
    return {s.weights: build_network(s.architecture, s.arguments).state_dict() for s in manifest.networks.values()}


def test_writing_replaces_only_on_request(tiny: Path, copy: Path) -> None:
    manifest = tiny_manifest()
    with pytest.raises(PackageError, match="tiny"):
        write_package(copy, manifest, weights_for(manifest), "new")
    assert content(copy) == content(tiny)
    assert write_package(copy, manifest, weights_for(manifest), "new", replace=True).folder == copy
    assert (copy / "README.md").read_text() == "new"
    assert list(copy.parent.iterdir()) == [copy]


def test_writing_refuses_weights_that_do_not_fit(tmp_path: Path) -> None:
    manifest = tiny_manifest()
    weights = weights_for(manifest)
    name = first(weights[SEGMENTER])
    weights[SEGMENTER][name] = weights[SEGMENTER][name] * 1e9  # more than half precision holds
    with pytest.raises(PackageError, match=r"segmenter.*finite"):
        write_package(tmp_path / "tiny", manifest, weights, "card")
    del weights[SEGMENTER][name]
    with pytest.raises(PackageError, match=re.escape(name)):
        write_package(tmp_path / "tiny", manifest, weights, "card")
    assert list(tmp_path.iterdir()) == []
