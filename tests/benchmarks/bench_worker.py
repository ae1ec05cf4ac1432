"""What a warm worker adds to the networks: from asking for a 160^3 volume's labels to having them, on the CPU.

Other work on the computer makes the networks slower and hardly touches the rest, so several runs are made and the
quickest rest counts. Fails above ``LIMIT_SECONDS``. Also measured: the first job of a cold worker, and cancelling.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from CardiacLDMLib.image.grid import Grid, Volume
from CardiacLDMLib.image.resample import resample
from CardiacLDMLib.worker.messages import SegmentVolume
from tests.support.worker import Bench, Outcome

SIDE, SPACING_MM = 160, 2.0
RUNS = 5
#: What a warm job may take beyond the pipeline, and what the pipeline and it together may take beyond the networks.
LIMIT_SECONDS = 0.3


def scan() -> Volume:
    """A virtual chest of 160^3 voxels of int16, 2 mm each."""
    from cardiacldm_training.virtual.cohort import CohortSettings, make_case

    image = make_case(CohortSettings(seed=2024), 0).image
    affine = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = image.grid.bounds_ras().mean(axis=0) - affine[:3, :3] @ np.full(3, (SIDE - 1) / 2)
    chest = resample(image, Grid((SIDE,) * 3, affine))
    return Volume(np.rint(chest.array).astype(np.int16), affine)


def measure(bench: Bench, volume: Volume, quality: str) -> dict[str, float]:
    """Seconds of one job: in all, in the pipeline, in the networks."""
    outcome = Outcome()
    began = time.perf_counter()
    bench.client.submit(SegmentVolume(image=volume, device="cpu", quality=quality), outcome.listener())
    bench.wait(outcome)
    seconds = time.perf_counter() - began
    if outcome.failure or not outcome.done.heart_found:
        raise SystemExit(f"Nothing to measure: {outcome.failure or 'the package found no heart'}")
    reply = outcome.done
    return {"in all": seconds, "pipeline": sum(reply.stage_seconds.values()), "networks": reply.network_seconds}


def cancel_seconds(bench: Bench, volume: Volume, stage: str) -> float:
    """From cancelling in a stage to the end of the job."""
    outcome = Outcome()
    bench.client.submit(SegmentVolume(image=volume, device="cpu"), outcome.listener())
    bench.loop.run(lambda: outcome or any(p.stage == stage for p in outcome.progress))
    began = time.perf_counter()
    bench.client.cancel()
    bench.wait(outcome)
    return time.perf_counter() - began


def main() -> None:
    volume = scan()
    bench = Bench()
    first = measure(bench, volume, "full")
    print(f"first job of a cold worker: {first['in all']:.1f} s")
    rows = {quality: [measure(bench, volume, quality) for _ in range(RUNS)] for quality in ("full", "fast")}
    print("| quality | in all | pipeline | networks | worker and client | all but the networks |")
    print("|---|--:|--:|--:|--:|--:|")
    for quality, runs in rows.items():
        best = {name: min(run[name] for run in runs) for name in ("in all", "pipeline", "networks")}
        own, rest = (min(run["in all"] - run[part] for run in runs) for part in ("pipeline", "networks"))
        print(f"| {quality} | {' | '.join(f'{s:.2f} s' for s in best.values())} | {own:.3f} s | {rest:.3f} s |")
    for stage in ("load", "locate", "segment", "clean"):
        print(f"cancelled in {stage}: {cancel_seconds(bench, volume, stage):.2f} s")
    print(f"longest call on the client's thread: {bench.loop.longest * 1000:.0f} ms")
    bench.client.shutdown()
    own = min(run["in all"] - run["pipeline"] for run in rows["full"])
    if own > LIMIT_SECONDS:
        raise SystemExit(f"A warm job takes {own:.2f} s on top of the pipeline, above the limit of {LIMIT_SECONDS} s.")


if __name__ == "__main__":
    main()
