"""What the commands share: the error handler, progress, and stopping on request."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console

from cardiacldm_training.commands.common import (
    UNUSABLE,
    job_progress,
    make_console,
    quick_imports,
    report_errors,
    stage_lines,
    stop_on_signal,
)
from cardiacldm_training.errors import ConfigError
from CardiacLDMLib.errors import OutputError
from CardiacLDMLib.progress import STAGES, Progress


@pytest.mark.parametrize("error", [OutputError("out is full."), ConfigError("steps: not a number.")])
def test_an_error_for_users_is_one_line_and_an_exit_code(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    @report_errors()
    def command() -> None:
        raise error

    for _ in range(2):  # a decorated command can run again
        with pytest.raises(typer.Exit) as ended:
            command()
        assert ended.value.exit_code == UNUSABLE
        assert capsys.readouterr() == ("", f"Error: {error}\n")


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory"),
        (ModuleNotFoundError("", name="monai"), "monai"),
    ],
)
def test_what_the_worker_explains_the_commands_explain_too(
    error: Exception, fact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, report_errors():
        raise error
    assert ended.value.exit_code == UNUSABLE
    output = capsys.readouterr().err
    assert fact in output
    assert len(output.splitlines()) == 1


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    @report_errors()
    def command() -> None:
        raise KeyError("no sentence")

    with pytest.raises(KeyError):
        command()


def test_each_stage_is_one_line_where_nobody_watches() -> None:
    lines: list[str] = []
    update = stage_lines("chest", lines.append)
    for step, stage in enumerate(("read", "locate", "locate", "segment", "other")):
        update(Progress(step, 5, stage, float(step)))
    assert lines == [f"chest: {name}" for name in (STAGES["read"], STAGES["locate"], STAGES["segment"], "other")]


def test_a_bar_shows_names_from_outside_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=200, markup=False)
    with job_progress(console, "[red]chest[/red]") as update:
        update(Progress(1, 4, "segment", 1.0))
    assert "[red]chest[/red]" in capsys.readouterr().out
    make_console(stderr=False).print("[bold]name[/bold]")
    assert "[bold]name[/bold]" in capsys.readouterr().out


SPEAK = """
import os, sys
from cardiacldm_training.commands.common import is_dialogue, make_console, prepare_streams, say, tell
prepare_streams()
console = make_console()
assert not is_dialogue(console)
assert os.open(sys.argv[1], os.O_CREAT) > 2
for _ in range(2):
    tell("a\\udcff\\nb")
    say("c\\udcff\\nd")
    console.print("e\\udcff")
sys.exit(7)
"""


@pytest.mark.skipif(os.name != "posix", reason="streams as a Unix shell closes them")
@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", "2>&-", "2>&1 | :", "</dev/null >/dev/full 2>/dev/full"])
def test_streams_that_nobody_reads_end_no_command(tmp_path: Path, streams: str) -> None:
    command = ["bash", "-c", f'"$@" {streams}; exit ${{PIPESTATUS[0]}}', "bash", sys.executable, "-c", SPEAK]
    assert subprocess.run([*command, str(tmp_path / "file")], check=False).returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal(make_console()) as cancelled:
        assert not cancelled()
        os.kill(os.getpid(), number)
        assert cancelled()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_garbage_is_searched_again_after_imports_and_after_one_that_fails() -> None:
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), quick_imports():
        raise ImportError
    assert gc.isenabled()
