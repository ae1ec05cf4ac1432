"""What was computed of the files of a review: their hashes and the findings of their labels, kept beside the journals.

One JSON file, which may be deleted at any time. A hash is looked up by path, size and time of change, the findings by
the hash of the labels; those of another version or another scan are made again. Two programs may write it: what one of
them loses is computed again. Only the standard library; findings are made in :mod:`.checks`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from ..files import sha256, write_text

if TYPE_CHECKING:
    from ..image.grid import Volume
    from ..segmentation.findings import Finding

#: The file of the cache, and the version of its content.
FILE, FORMAT = "computed.json", 1
#: Code that decides what is found in labels, within the package.
_CHECKS = ("anatomy.py", "segmentation/findings.py", "generation/plausibility.py", "review/*.py")


@lru_cache(maxsize=1)
def version() -> str:
    """Return the version of the content and of the code that makes the findings."""
    root = Path(__file__).parents[1]
    code = b"".join(path.read_bytes() for pattern in _CHECKS for path in sorted(root.glob(pattern)))
    return f"{FORMAT} {hashlib.sha256(code).hexdigest()[:16]}"


class Cache:
    """Hashes of files and findings of label maps in the review folder ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._root = folder.parent
        self._hashes: dict[str, list[Any]] = {}
        self._findings: dict[str, list[dict[str, Any]]] = {}
        self._compared: dict[str, str] = {}  # findings for which labels were compared with those of this package
        self._changed = False
        self._load()

    def _load(self) -> None:
        """Take over what is on the disk; nothing from a damaged file or one of another version."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["version"] == version():
                self._hashes = {**content["hashes"], **self._hashes}
                self._findings = {**content["findings"], **self._findings}
                self._compared = {**content["compared"], **self._compared}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return

    def save(self) -> None:
        """Write what is new, together with what other programs have written. A folder that is read-only stays so."""
        if not self._changed:
            return
        self._load()
        content = {
            "version": version(), "hashes": self._hashes, "findings": self._findings, "compared": self._compared,
        }  # fmt: skip
        with contextlib.suppress(OutputError):
            write_text(self.path, json.dumps(content))
            self._changed = False

    # --- hashes ---

    def known_hash(self, *files: Path) -> str | None:
        """Return what :meth:`hash_of` returned before, unless the files have changed: only their dates are read."""
        entry = self._hashes.get(self._key(files[0])) if files else None
        return str(entry[-1]) if isinstance(entry, list) and entry and entry[:-1] == mark_of(files) else None

    def hash_of(self, *files: Path) -> str:
        """Return the SHA-256 of a file; of several, as the slices of a scan, that of their hashes.

        A folder stands for the files in it. Empty without files, and if one cannot be read.
        """
        if not files:
            return ""
        known = self.known_hash(*files)
        if known is not None:
            return known
        try:
            mark = mark_of(files)
            digest = digest_of(files)
        except OSError:
            return ""
        self.keep_hash(files, mark, digest)
        return digest

    def keep_hash(self, files: Sequence[Path], mark: list[int], digest: str) -> None:
        """Remember what :meth:`hash_of` returns of files that had this :func:`mark <mark_of>`.

        It may have been computed in another process.
        """
        self._hashes[self._key(files[0])] = [*mark, digest]
        self._changed = True

    def _key(self, path: Path) -> str:
        """Return a path that is right on another computer too, if the file lies with the review."""
        return str(path.relative_to(self._root) if path.is_relative_to(self._root) else path)

    # --- findings ---

    def known_findings(self, labels_sha256: str, scan: Sequence[Path]) -> list[Finding] | None:
        """Return the findings of labels, worst first; None if they are not known for the ``scan`` of these files."""
        from ..segmentation.findings import Finding

        entry = self._findings.get(_findings_key(labels_sha256, scan))
        try:
            return None if entry is None else [Finding(**{n: _frozen(v) for n, v in each.items()}) for each in entry]
        except (TypeError, AttributeError):
            return None

    def keep_findings(
        self, labels_sha256: str, scan: Sequence[Path], findings: Sequence[Finding], package: str = ""
    ) -> None:
        """Remember the findings of labels, worst first.

        ``package``: the SHA-256 of the package whose labels they were compared with; empty if with none: such findings
        do not replace others, which hold more.
        """
        key = _findings_key(labels_sha256, scan)
        if not package and self._compared.get(key):
            return
        self._findings[key] = [{name: _plain(value) for name, value in asdict(each).items()} for each in findings]
        if package:
            self._compared[key] = package
        self._changed = True

    def is_compared(self, labels_sha256: str, scan: Sequence[Path], package: str) -> bool:
        """Return whether known findings include the comparison with the labels of this package."""
        return bool(package) and self._compared.get(_findings_key(labels_sha256, scan)) == package


def mark_of(files: Sequence[Path]) -> list[int]:
    """Return what changes when one of the files is written: number, size and time; [] if one cannot be opened."""
    try:
        statuses = [os.stat(path) for each in files for path in _inside(each)]
    except OSError:
        return []
    times = [status.st_mtime_ns for status in statuses]
    return [len(statuses), sum(status.st_size for status in statuses), max(times, default=0)]


def _inside(path: Path) -> list[Path]:
    """Return the files in a folder and its sub-folders; a file itself."""
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def digest_of(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a file, or that of the hashes of several. Raises ``OSError``."""
    digests = [sha256(path) for each in files for path in _inside(each)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _findings_key(labels_sha256: str, scan: Sequence[Path]) -> str:
    """Return the name of the findings of labels with a scan, which is told from others by its number and size."""
    return " ".join([labels_sha256, *map(str, mark_of(scan)[:2] if scan else ["without a scan"])])


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Return a value of a finding as JSON knows it: numbers of numpy become Python's."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value.item() if hasattr(value, "item") else value


def content_hash(volume: Volume) -> str:
    """Return a SHA-256 of voxels and grid, for labels of a scene that have no file."""
    import numpy as np

    digest = hashlib.sha256(f"{volume.array.shape} {volume.array.dtype} {volume.affine.round(6).tolist()}".encode())
    digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()
