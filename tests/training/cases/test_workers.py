"""Work spread over processes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

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
