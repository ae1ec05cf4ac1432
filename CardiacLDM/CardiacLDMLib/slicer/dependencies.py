"""The Python packages that a Slicer lacks: which, how much there is to fetch, and why fetching them failed.

Nothing here installs anything or imports what it asks about; ``panels/install.py`` does the asking and installing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path

from packaging.requirements import Requirement

from ..files import RESOURCES

#: torch comes through the PyTorch extension, which finds the build for the computer's GPU.
TORCH = Requirement("torch>=2.6,<3")
_IMPORTED_AS = {"connected-components-3d": "cc3d"}

#: What there is to fetch and what it takes on the disk, as measured on 2026-11-22 for Python 3.12 (wheels of
#: torch 2.13 and 2.15 and, on Linux, the CUDA libraries that torch requires). docs/user/install.md has the table.
TORCH_SIZE = "torch: about 130 to 200 MB (0.8 GB on the disk), or with an NVIDIA GPU up to 3 GB (5.4 GB on the disk)"
REST_SIZE = "the others: about 10 MB (50 MB on the disk)"


def requirements_file() -> Path:
    """The list of what Slicer lacks besides torch."""
    return RESOURCES / "requirements.txt"


def required() -> list[Requirement]:
    """Everything that a job needs and a fresh Slicer lacks, torch first."""
    lines = (line.partition("#")[0].strip() for line in requirements_file().read_text(encoding="utf-8").splitlines())
    return [TORCH, *(Requirement(line) for line in lines if line)]


def missing() -> list[Requirement]:
    """What of it is not installed here, or in a version that does not fit. Takes some milliseconds, imports nothing."""
    importlib.invalidate_caches()  # pip may have run in another process meanwhile
    return [requirement for requirement in required() if not _is_there(requirement)]


def _is_there(requirement: Requirement) -> bool:
    try:
        found = importlib.util.find_spec(_IMPORTED_AS.get(requirement.name, requirement.name))
        version = _version(requirement.name)
    except (ImportError, ValueError):  # ValueError: a module without a specification stands in its place
        return False
    return found is not None and requirement.specifier.contains(version, prereleases=True)


def _version(name: str) -> str:
    """The version of an installed distribution; ``importlib.metadata.version`` reads its whole description for that."""
    distribution = importlib.metadata.distribution(name)
    found = re.search(r"^Version:\s*(\S+)", distribution.read_text("METADATA") or "", re.MULTILINE)
    return found[1] if found else distribution.version


def pins(names: list[str]) -> list[str]:
    """Those of the named packages that are installed, at exactly their versions: constraints for pip."""
    lines = []
    for name in names:
        try:
            lines.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue  # then there is nothing that pip could replace
    return lines


def announcement(lacking: list[Requirement]) -> str:
    """What is going to be installed, how much, and from where; said before anything is done."""
    names = [requirement.name for requirement in lacking]
    sizes = [TORCH_SIZE] if TORCH.name in names else []
    if names != [TORCH.name]:
        sizes.append(REST_SIZE)
    return (
        f"CardiacLDM needs {_counted(len(names), 'Python package')} that this Slicer does not have yet: "
        f"{', '.join(names)}.\n\nTo download:\n" + "\n".join(f"- {size}" for size in sizes) + "\n\n"
        "They come from the internet, go into Slicer's own Python, and leave its numpy and SimpleITK as they are. "
        "Nothing of your data is sent. Slicer asks once more before each step; minutes may pass."
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


#: What pip prints -> what a user can do about it. The first that fits counts: pip reports a lost network in its end as
#: "no matching distribution".
_REASONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("No space left", "Errno 28", "not enough space on the disk"), "The disk is full: make room on it and try again."),
    (("407 Proxy", "ProxyError", "Cannot connect to proxy"),
     "The network's proxy refused the connection: ask your network's administrator how programs get through it."),
    (("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
     "The server's certificate was not accepted, as happens where a network inspects connections: ask its "
     "administrator, or install without internet."),
    (("getaddrinfo", "Name or service not known", "name resolution", "Failed to establish a new connection",
      "Network is unreachable", "ConnectTimeoutError", "ReadTimeoutError", "Read timed out", "Connection refused",
      "Connection reset", "ConnectionError", "Max retries exceeded", "RemoteDisconnected", "Connection aborted",
      "No route to host"),
     "The package server could not be reached: check the network and try again, or install without internet."),
    (("Permission denied", "Access is denied", "WinError 5", "WinError 32", "Errno 13", "Read-only file system"),
     "Slicer's folder could not be written to: close other Slicer windows, and if Slicer was installed for all users, "
     "start it once as administrator."),
    (("ResolutionImpossible", "conflicting dependencies", "dependency conflicts"),
     "The packages do not go together with those that are in this Slicer already."),
    (("THESE PACKAGES DO NOT MATCH THE HASHES", "IncompleteRead", "incomplete-download", "BadZipFile"),
     "A download was cut short: try again."),
    (("No matching distribution", "Could not find a version"),
     "The package server has no build of a package for this Slicer and computer."),
)  # fmt: skip


def reason(output: str) -> str:
    """Why pip failed, in a sentence, from what it printed."""
    for signs, sentence in _REASONS:
        if any(sign in output for sign in signs):
            return sentence
    return "The packages could not be installed."
