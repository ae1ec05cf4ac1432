"""Work spread over processes: results, errors, and workers whose parent is killed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from cardiacldm_training.cases.workers import run_unordered

MAIN = """
import time
from cardiacldm_training.cases.workers import pool

if __name__ == "__main__":
    with pool(2) as processes:
        processes.submit(print, "begun", flush=True).result()
        processes.submit(time.sleep, 600).result()
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_when_their_parent_is_killed(tmp_path, how):
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "begun\n"
        parent.send_signal(how)
        # Workers hold the same pipe: it ends when the last of them has.
        assert parent.communicate(timeout=60)[0] == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_each_result_comes_with_the_number_of_its_item(workers: int) -> None:
    results = dict(run_unordered(pow, [(2, 3), (3, 2), (5, 1)], workers))
    assert results == {0: 8, 1: 9, 2: 5}
    with pytest.raises(ZeroDivisionError):
        list(run_unordered(divmod, [(1, 0)], workers))
