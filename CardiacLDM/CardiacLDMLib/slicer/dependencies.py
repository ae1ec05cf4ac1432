"""The Python packages that a fresh Slicer lacks, their size, and the reasons for a failed installation.

Nothing here installs or imports one of them; ``panels/install.py`` asks the user and installs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path

from packaging.requirements import Requirement

from ..files import RESOURCES
from ..text import plural

#: The PyTorch extension installs torch: it finds the build for the computer's GPU.
TORCH = Requirement("torch>=2.6,<3")
#: Names of modules that differ from the name of their package.
_MODULES = {"connected-components-3d": "cc3d"}

#: Sizes to download and on the disk, measured on 2026-11-22 for Python 3.12 (wheels of torch 2.13 and 2.15 and, on
#: Linux, the CUDA libraries that torch requires). docs/user/install.md has the table.
TORCH_SIZE = "torch: about 130 to 200 MB (0.8 GB on the disk), or with an NVIDIA GPU up to 3 GB (5.4 GB on the disk)"
REST_SIZE = "the others: about 10 MB (50 MB on the disk)"


def requirements_file() -> Path:
    """Return the path of the list of required packages other than torch."""
    return RESOURCES / "requirements.txt"


def required() -> list[Requirement]:
    """Return all packages that a job needs and a fresh Slicer lacks, torch first."""
    lines = (line.partition("#")[0].strip() for line in requirements_file().read_text(encoding="utf-8").splitlines())
    return [TORCH, *(Requirement(line) for line in lines if line)]


def missing() -> list[Requirement]:
    """Return the required packages that are not installed, or not in a suitable version. Takes some milliseconds."""
    importlib.invalidate_caches()  # pip may have run in another process
    return [requirement for requirement in required() if not _is_installed(requirement)]


def _is_installed(requirement: Requirement) -> bool:
    try:
        spec = importlib.util.find_spec(_MODULES.get(requirement.name, requirement.name))
        version = _version(requirement.name)
    except (ImportError, ValueError):  # ValueError: a module without a specification has its name
        return False
    return spec is not None and requirement.specifier.contains(version, prereleases=True)


def _version(name: str) -> str:
    """Return the version of an installed distribution, without parsing its whole description."""
    distribution = importlib.metadata.distribution(name)
    match = re.search(r"^Version:\s*(\S+)", distribution.read_text("METADATA") or "", re.MULTILINE)
    return match[1] if match else distribution.version


def pins(names: list[str]) -> list[str]:
    """Return constraints for pip that keep those of the named packages that are installed at their versions."""
    lines = []
    for name in names:
        try:
            lines.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue  # pip has nothing to replace
    return lines


def announcement(lacking: list[Requirement]) -> str:
    """Return the text that the user reads before the installation: what is downloaded, and from where."""
    names = [requirement.name for requirement in lacking]
    sizes = [TORCH_SIZE] if TORCH.name in names else []
    if names != [TORCH.name]:
        sizes.append(REST_SIZE)
    return (
        f"CardiacLDM needs {plural(len(names), 'Python package')} that this Slicer does not have yet: "
        f"{', '.join(names)}.\n\nTo download:\n" + "\n".join(f"- {size}" for size in sizes) + "\n\n"
        "They are downloaded from the internet into Slicer's own Python; its numpy and SimpleITK stay as they are. "
        "None of your data is sent. Slicer asks again before each step; this may take some minutes."
    )


#: Texts in pip's output -> advice for the user. The first match counts: pip reports a lost network as "no matching
#: distribution" at the end.
_REASONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("No space left", "Errno 28", "not enough space on the disk"), "The disk is full: free some space and try again."),
    (("407 Proxy", "ProxyError", "Cannot connect to proxy"),
     "The network's proxy refused the connection: ask your network's administrator how programs get through it."),
    (("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
     "The server's certificate was not accepted; some networks inspect connections. Ask your network's administrator, "
     "or install without internet."),
    (("getaddrinfo", "Name or service not known", "name resolution", "Failed to establish a new connection",
      "Network is unreachable", "ConnectTimeoutError", "ReadTimeoutError", "Read timed out", "Connection refused",
      "Connection reset", "ConnectionError", "Max retries exceeded", "RemoteDisconnected", "Connection aborted",
      "No route to host"),
     "The package server could not be reached: check the network and try again, or install without internet."),
    (("Permission denied", "Access is denied", "WinError 5", "WinError 32", "Errno 13", "Read-only file system"),
     "Slicer's folder could not be written to: close other Slicer windows, and if Slicer was installed for all users, "
     "start it once as administrator."),
    (("ResolutionImpossible", "conflicting dependencies", "dependency conflicts"),
     "The packages conflict with packages that are installed in this Slicer already."),
    (("THESE PACKAGES DO NOT MATCH THE HASHES", "IncompleteRead", "incomplete-download", "BadZipFile"),
     "A download was interrupted: try again."),
    (("No matching distribution", "Could not find a version"),
     "The package server has no build of a package for this Slicer and computer."),
)  # fmt: skip


def reason(output: str) -> str:
    """Return one sentence on why pip failed, given its ``output``."""
    for texts, advice in _REASONS:
        if any(text in output for text in texts):
            return advice
    return "The packages could not be installed."
