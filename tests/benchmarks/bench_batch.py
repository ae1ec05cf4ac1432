"""What a batch of ``cardiacldm segment`` takes beyond its networks: seconds and CPU seconds for each scan, on the CPU.

    python tests/benchmarks/bench_batch.py SCAN --copies 5

The batch is run as the command runs it, in this process, after everything is imported. ``ratio`` is that of its seconds
and those that pass in the networks; other work on the computer lengthens both.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--copies", type=int, default=5)
    options = parser.parse_args()
    import matplotlib.backends.backend_agg  # noqa: F401
    from typer.testing import CliRunner

    import CardiacLDMLib.segmentation.segmenter  # noqa: F401
    from cardiacldm_training.cli import app
    from CardiacLDMLib.segmentation.run import Run

    seconds, cpu = 0.0, 0.0
    in_network = Run.in_network

    @contextlib.contextmanager
    def timed(self: Run) -> Iterator[None]:
        nonlocal seconds, cpu
        began, used = time.perf_counter(), time.thread_time()
        with in_network(self):
            yield
        seconds += time.perf_counter() - began
        cpu += time.thread_time() - used

    Run.in_network = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "in")
        folder.mkdir()
        for number in range(options.copies):
            shutil.copy(options.scan, folder / f"case{number}{''.join(options.scan.suffixes[-2:])}")
        began, used = time.perf_counter(), time.process_time()
        result = CliRunner().invoke(app, ["segment", str(folder), "--out", str(Path(name, "out")), "--device", "cpu"])
        whole, all_cpu = time.perf_counter() - began, time.process_time() - used
    if result.exit_code != 0:
        raise SystemExit(result.output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print("| | seconds a scan | in the networks | ratio | CPU seconds a scan | peak memory |")
    print("|---|--:|--:|--:|--:|--:|")
    print(
        f"| {options.scan.name}, {options.copies} copies | {whole / options.copies:.1f} s "
        f"| {seconds / options.copies:.1f} s | {whole / seconds:.2f} | {all_cpu / options.copies:.1f} s "
        f"({cpu / options.copies:.1f} s of them the networks' first thread) | {peak:.2f} GB |"
    )


if __name__ == "__main__":
    main()
