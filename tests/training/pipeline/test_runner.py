"""Steps of a pipeline: done once, done anew when something changed, resumed after a stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cardiacldm_training.errors import ConfigError, TrainingError
from cardiacldm_training.pipeline import runner
from cardiacldm_training.pipeline.record import Hashes, PipelineRecord, read_record, write_record
from cardiacldm_training.pipeline.steps import Settings, Step


@dataclass
class Workplace:
    """A pipeline of two steps, whose commands write or end as told."""

    out: Path
    data: Path
    calls: list[tuple[str, ...]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    nothing: set[str] = field(default_factory=set)

    @property
    def steps(self) -> list[Step]:
        first, second = self.out / "first", self.out / "second"
        return [
            Step("first", "First", ("one", "--data", str(self.data)), (first,), (first / "a",), reads_data=True,
                 pace=("--workers", "1"), resume=("--resume",)),
            Step("second", "Second", ("two", str(first)), (second,), (second / "a",), ("first",)),
        ]  # fmt: skip

    def command(self, command: Sequence[str]) -> int:
        self.calls.append(tuple(command))
        name = {"one": "first", "two": "second"}[command[0]]
        if name not in self.nothing:
            (self.out / name).mkdir(exist_ok=True)
            (self.out / name / "a").write_text(f"result of {name}")
        return self.codes.get(name, 0)

    def run(self, steps: list[Step] | None = None) -> dict[str, runner.Done]:
        record = read_record(self.out) or PipelineRecord(settings=Settings(name="x"))
        return runner.run_steps(
            steps or self.steps, record, self.out, [self.data], expected={"first": 100.0}, say=self.lines.append,
            run=self.command,
        )  # fmt: skip

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scan.nii").write_text("voxels")
    (tmp_path / "out").mkdir()
    return Workplace(tmp_path / "out", tmp_path / "data")


def test_steps_are_done_once(place: Workplace) -> None:
    ended = place.run()
    assert place.calls[0] == ("one", "--data", str(place.data), "--workers", "1")
    assert not any(done.before for done in ended.values())
    assert all(done.before for done in place.run().values())
    assert place.names == ["one", "two"]


def test_a_changed_scan_makes_all_that_depends_on_it_anew(place: Workplace) -> None:
    place.run()
    (place.data / "scan.nii").write_text("VOXELS")
    (place.out / "first" / "old").write_text("of the old scan")
    place.run()
    assert place.names == ["one", "two", "one"]  # the second step reads the same result as before
    assert not (place.out / "first" / "old").exists()


def test_hidden_files_and_other_times_change_nothing(place: Workplace) -> None:
    place.run()
    (place.data / ".prepared").mkdir()
    (place.data / ".prepared" / "x").write_text("x")
    os.utime(place.data / "scan.nii", (1, 1))
    assert all(done.before for done in place.run().values())


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_lost_result_is_made_again(place: Workplace, damage: str) -> None:
    place.run()
    result = place.out / "second" / "a"
    if damage == "removed":
        result.unlink()
    else:
        result.write_text("something else, written by hand")
    place.run()
    assert place.names == ["one", "two", "two"]


def test_another_command_is_done_but_another_pace_is_not(place: Workplace) -> None:
    place.run()
    first, second = place.steps
    place.run([replace(first, pace=("--workers", "9")), second])
    assert place.names == ["one", "two"]
    place.run([replace(first, command=(*first.command, "--steps", "5")), second])
    assert place.names == ["one", "two", "one"]


def test_a_moved_pipeline_does_nothing_again(place: Workplace) -> None:
    place.run()
    other = place.out.parent / "elsewhere"
    place.out.rename(other)
    moved = Workplace(other, place.data)
    assert all(done.before for done in moved.run().values())


def test_a_failed_step_is_resumed(place: Workplace) -> None:
    place.codes["first"] = 2
    with pytest.raises(TrainingError, match="First"):
        place.run()
    place.codes.clear()
    place.run()
    assert [call[-1] for call in place.calls[:2]] == ["1", "--resume"]
    assert place.names == ["one", "one", "two"]


def test_a_step_of_which_nothing_succeeded_says_what_to_do(place: Workplace) -> None:
    first, second = place.steps
    second = replace(second, end=place.out / "second" / "a", some="pair_*", advice="Draw with another generator.")
    place.codes["second"] = 1  # a part failed
    with pytest.raises(TrainingError, match="another generator"):
        place.run([first, second])
    assert place.run([first, replace(second, some="*")])["second"].seconds >= 0.0


def test_a_step_without_its_results_is_not_done(place: Workplace) -> None:
    place.nothing.add("second")
    with pytest.raises(TrainingError, match="Second"):
        place.run()
    place.nothing.clear()
    assert place.run()["first"].before
    assert place.names == ["one", "two", "two"]


def test_a_part_that_failed_does_not_stop_the_work(place: Workplace) -> None:
    step = replace(place.steps[0], end=place.out / "first" / "summary.json")
    place.codes["first"] = 1
    with pytest.raises(TrainingError):  # it did not come to its end
        place.run([step])
    (place.out / "first" / "summary.json").write_text("{}")
    assert not place.run([step])["first"].before
    place.codes["first"] = 2
    with pytest.raises(TrainingError):
        place.run([replace(step, command=("one", "other"))])


def test_a_killed_process_is_named(place: Workplace) -> None:
    place.codes["first"] = -9
    with pytest.raises(TrainingError, match="memory"):
        place.run()


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr("cardiacldm_training.pipeline.record.sha256", lambda path: read.append(path) or "0")
    (tmp_path / "scan").write_text("x")
    for _ in range(2):
        hashes = Hashes(tmp_path)
        assert hashes.of([tmp_path / "scan"])
        hashes.keep()
    assert len(read) == 1
    (tmp_path / "scan").write_text("xy")
    assert Hashes(tmp_path).of([tmp_path / "scan"])
    assert len(read) == 2
    assert Hashes(tmp_path).of([tmp_path / "nothing"]) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 9}', '{"format": 1, "settings": {"name": "x"}, "y": 1}']
)
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "pipeline.json").write_text(content)
    with pytest.raises(ConfigError, match=r"pipeline\.json"):
        read_record(tmp_path)


def test_a_record_comes_back(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    record = PipelineRecord(settings=Settings(name="x", skip=("pretrain",)))
    write_record(record, tmp_path)
    assert read_record(tmp_path) == record


# --- real processes ------------------------------------------------------------------------------------------------


def test_the_exit_code_of_a_command_comes_back() -> None:
    assert runner.run_command(["--version"]) == 0
    assert runner.run_command(["no-such-command"]) == 2


def test_a_step_ends_with_the_pipeline() -> None:
    """A step that outlives a killed pipeline would write into what the next one resumes."""
    program = (
        "import subprocess, sys, time\n"
        "code = 'import threading, os, time, runpy; from cardiacldm_training import step; "
        "threading.Thread(target=step._end_with, args=(os.getppid(),), daemon=True).start(); "
        "print(os.getpid(), flush=True); time.sleep(60)'\n"
        "subprocess.run([sys.executable, '-c', code])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        end = time.monotonic() + 30
        while _lives(child) and time.monotonic() < end:
            time.sleep(0.05)
        assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
