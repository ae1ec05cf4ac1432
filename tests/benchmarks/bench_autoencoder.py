"""Compare four joint autoencoders: palette or logits out, sum or concatenation in.

    python tests/benchmarks/bench_autoencoder.py --data COHORT --out RUNS [--preset demo] [--steps 2000]

Each is trained in its own process, whose peak memory is reported. Finished runs in RUNS are not trained again,
interrupted ones are resumed. Figures are means over all held-out cases with the averaged weights of the last step.
Seconds per step include the validation, and are wrong for an interrupted run. This process stays small, because a
child process inherits its peak memory as a minimum.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

FUSIONS, OUTPUTS = ("sum", "concatenation"), ("logits", "palette")
COLUMNS = {
    "Dice": "Dice", "LAA": "Dice LAA", "third_percent": "third class, %", "PSNR": "PSNR, dB", "SSIM": "SSIM",
    "gap_dB": "spectrum off by, dB",
    "memory_gb": "memory, GB", "weights": "weights", "seconds_per_step": "s/step",
}  # fmt: skip


def run_config(options: argparse.Namespace, fusion: str, output: str, cases: int, digest: str) -> Any:
    """Return the preset with the fusion, the output and the options of the command line."""
    from cardiacldm_training.stages import config, generator_presets

    whole = generator_presets.generator_config(
        options.preset, config.DataFacts(cases=cases, digest=digest), seed=options.seed, steps=options.steps,
        batch=options.batch,
    )  # fmt: skip
    settings = whole.generator.autoencoder
    arguments = {**settings.arguments, "fusion": fusion, "labels_out": output}
    once = {"arguments": arguments, "validation_cases": 1000, "validate_every": settings.steps}
    changes: dict[str, Any] = {"autoencoder": settings.model_copy(update=once)}
    if options.grid:
        changes |= {"grid": tuple(options.grid), "spacing_mm": options.spacing}
    return whole.model_copy(update={"model": whole.generator.model_copy(update=changes)})


def measure(options: argparse.Namespace, fusion: str, output: str) -> dict[str, float]:
    """Train one autoencoder and return its scores on held-out cases, peak memory, size and time per step."""
    import torch

    from cardiacldm_training.cases import prepare, split
    from cardiacldm_training.stages import autoencoder, devices, generator_presets

    spacing = options.spacing if options.grid else generator_presets.grid_of(options.preset)[1]
    prepared = prepare.prepare_cases(options.data, options.cache, spacing, 1, lambda line: None)
    settings = run_config(options, fusion, output, len(prepared.cases), prepared.digest)
    run = options.out / f"{fusion}-{output}"
    start = time.perf_counter()
    say = lambda line: print(f"[{fusion}, {output}] {line}", flush=True)  # noqa: E731
    end = autoencoder.train_autoencoder(run, settings, prepared, resume=True, workers=options.workers, say=say)
    seconds = time.perf_counter() - start
    train, held_out = split.split(prepared.cases, settings.validation_part)
    fabric = devices.launch(1, 1, settings.precision)
    network: Any = fabric.to_device(autoencoder.load_autoencoder(run, settings.generator.autoencoder))
    with torch.inference_mode():
        score = autoencoder.AutoencoderStage(settings, train=train, held_out=held_out).score(fabric, network)
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "Dice": score.value, **score.parts, "memory_gb": peak / 1e9, "seconds_per_step": seconds / end.step,
        "weights": sum(parameter.numel() for parameter in network.parameters()), "held_out": len(held_out),
    }  # fmt: skip


def table(rows: dict[tuple[str, str], dict[str, float]]) -> str:
    """Return a Markdown table with a row for each autoencoder."""
    lines = ["| in | out | " + " | ".join(COLUMNS.values()) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for (fusion, output), figures in rows.items():
        cells = [_cell(name, figures.get(name)) for name in COLUMNS]
        lines.append(f"| {fusion} | {output} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    digits = {"Dice": 4, "LAA": 4, "SSIM": 4, "third_percent": 3, "weights": 0}.get(name, 2)
    return f"{value:,.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of cases")
    parser.add_argument("--out", type=Path, required=True, help="folder for the four runs")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--steps", type=int, default=2000, help="of each autoencoder")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="where prepared cases go")
    parser.add_argument("--grid", type=int, nargs=3, help="another grid than the preset's, for a quick look")
    parser.add_argument("--spacing", type=float, default=6.0, help="its voxels in mm")
    options = parser.parse_args()
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for fusion, output in itertools.product(FUSIONS, OUTPUTS):
        record = options.out / f"{fusion}-{output}.json"
        if not record.is_file():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                figures = pool.submit(measure, options, fusion, output).result()
            record.write_text(json.dumps(figures, indent=1))
        rows[fusion, output] = json.loads(record.read_text())
    held_out = int(next(iter(rows.values()))["held_out"])
    print(f"\n{options.steps} steps of each, preset {options.preset}, {held_out} held-out cases:\n\n{table(rows)}")


if __name__ == "__main__":
    main()
