"""What a pipeline has done: ``pipeline.json`` in its folder, and hashes of what its steps read and wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from CardiacLDMLib.files import sha256, write_text
from CardiacLDMLib.packages.fields import Record
from CardiacLDMLib.text import first_problem

from ..errors import ConfigError
from .steps import Settings, Step

RECORD_FILE, HASHES_FILE = "pipeline.json", "hashes.json"
FORMAT: Final = 1


class StepRecord(Record):
    """One step. ``inputs``: SHA-256 of its command and of what it reads; ``results``: of what it wrote, if done.

    ``seconds``: time that it took, over all tries.
    """

    inputs: str
    results: str | None = None
    seconds: float = 0.0


class PipelineRecord(Record):
    """All steps of a pipeline, by name, and what was asked for."""

    format: Literal[1] = FORMAT
    settings: Settings
    steps: dict[str, StepRecord] = Field(default_factory=dict)

    def with_step(self, name: str, step: StepRecord) -> PipelineRecord:
        """Return the record with another entry of one step."""
        return self.model_copy(update={"steps": {**self.steps, name: step}})


def read_record(out: Path) -> PipelineRecord | None:
    """Return the record of the pipeline in ``out``, None if there is none. Raises :class:`ConfigError`."""
    try:
        return PipelineRecord.model_validate_json((out / RECORD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{RECORD_FILE} of {out.name} cannot be read: choose another folder.") from error
    except ValidationError as error:
        raise ConfigError(
            f"{RECORD_FILE} of {out.name} is damaged or of another version ({first_problem(error)}): choose another "
            "folder."
        ) from error


def write_record(record: PipelineRecord, out: Path) -> None:
    """Write the record; a process killed meanwhile leaves the old one. Raises ``OutputError``."""
    write_text(out / RECORD_FILE, record.model_dump_json(indent=2) + "\n")


class Hashes:
    """SHA-256 of files and folders. A file is read again only when its size or its time of change differ."""

    def __init__(self, out: Path) -> None:
        self._path = out / HASHES_FILE
        self._known: dict[str, list[str | int]] = {}
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = content if isinstance(content, dict) else {}
        except (OSError, ValueError):
            pass  # they are computed again

    def of(self, places: Iterable[Path]) -> str | None:
        """Return the hash over names and contents of files and folders; None if one is missing.

        Hidden files and folders do not count.
        """
        digest = hashlib.sha256()
        for place in places:
            files = _files(place)
            if files is None:
                return None
            for name, path in files:
                digest.update(f"{name} {self._of_file(path)}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def keep(self) -> None:
        """Store the hashes for the next time."""
        write_text(self._path, json.dumps(self._known, indent=0) + "\n")

    def _of_file(self, path: Path) -> str:
        status = path.stat()
        key = hashlib.sha256(bytes(path.absolute())).hexdigest()  # a path may name a patient
        known = self._known.get(key)
        if not isinstance(known, list) or known[:2] != [status.st_size, status.st_mtime_ns]:
            known = self._known[key] = [status.st_size, status.st_mtime_ns, sha256(path)]
        return str(known[-1])


def _files(place: Path) -> list[tuple[str, Path]] | None:
    """Return the files of a folder by their names within it, or the file itself; None if there is neither."""
    if place.is_file():
        return [(place.name, place)]
    if not place.is_dir():
        return None
    found = [(path.relative_to(place), path) for path in sorted(place.rglob("*")) if path.is_file()]
    return [(name.as_posix(), path) for name, path in found if not any(part.startswith(".") for part in name.parts)]


def inputs_digest(step: Step, records: Mapping[str, StepRecord], data: str, out: Path, folders: Sequence[Path]) -> str:
    """Return the hash of a step's command and of all that it reads.

    Folders are written by their role, so that a pipeline may be moved. ``data``: the hash of the scans.
    """
    roles = {str(out): "OUT", **{str(folder): f"DATA{number}" for number, folder in enumerate(folders)}}
    command = [_by_role(argument, roles) for argument in step.command]
    results = [records[name].results for name in step.needs]
    content = json.dumps([command, results, data if step.reads_data else None])
    return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()


def _by_role(argument: str, roles: Mapping[str, str]) -> str:
    """Return an argument with the longest folder that it begins with replaced by its role."""
    for folder in sorted(roles, key=len, reverse=True):
        if argument == folder or argument.startswith(folder + "/"):
            return roles[folder] + argument[len(folder) :].replace("\\", "/")
    return argument
