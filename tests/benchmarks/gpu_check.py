"""Check the project on a GPU: labels, time, memory, training of every preset, two processes, short memory.

    make gpu-check                                          # or: python3 tests/benchmarks/gpu_check.py
    python3 tests/benchmarks/gpu_check.py --wheels FOLDER   # wheels that this computer lacks, carried along
    python3 tests/benchmarks/gpu_check.py --device cpu --tiny

It writes ``gpu-check.json`` and ``gpu-check.md``, and with ``--write`` the tables of docs/results/performance.md.
Nothing is installed, and no internet is needed: it takes the Python that runs it, or that of ``.venv`` if only there
torch sees a GPU. Without a GPU it says so and ends well. Each part runs in a process of its own and for its own time at
most, so that a failing part is recorded and the others go on. The exit code is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / "CardiacLDM"), str(ROOT / "training"), str(ROOT)]
sys.path[:0] = PATHS

from tests.benchmarks.figures import processor, write_figures  # noqa: E402 - found by the path above
from tests.benchmarks.gpu.report import BEGIN, markdown, problems_of  # noqa: E402

#: The seconds that each part may take. The first one also makes the virtual case for all.
PARTS = {
    "segmentation": 110, "generation": 110, "memory": 45, "training-gpu": 110, "training-paper": 90,
    "training-demo": 50, "two-processes": 60,
}  # fmt: skip
#: All parts together, and the time after its own in which a part must end what it has begun.
ALL_SECONDS, GRACE_SECONDS = 450, 20
#: A trial on a CPU, beside other work, may take so many times longer.
TRIAL_FACTOR = 4
#: What the parts import, and the packages that hold it.
NEEDED = {
    "torch": "torch", "monai": "monai", "numpy": "numpy", "scipy": "scipy", "pydantic": "pydantic",
    "safetensors": "safetensors", "packaging": "packaging", "cc3d": "connected-components-3d",
    "lightning": "lightning", "tensorboard": "tensorboard", "einops": "einops",
}  # fmt: skip
NO_TORCH = "No torch could be loaded."
_PROBE = """
import json, torch
from CardiacLDMLib.torch_device import choose_device
chosen = choose_device("auto")
print(json.dumps({"device": chosen.name, "remark": chosen.remark}))
"""


def environment(site: Path | None) -> dict[str, str]:
    """Return the environment of the parts, which import from this clone and from carried wheels."""
    paths = [*([str(site)] if site else []), *PATHS, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_WAIT_POLICY": "PASSIVE"}


def probe(python: str, site: Path | None) -> dict[str, str]:
    """Return the device that a Python's torch chooses; nothing if it has no torch."""
    done = subprocess.run(
        [python, "-c", _PROBE], capture_output=True, text=True, env=environment(site), check=False
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}


def choose_python(site: Path | None) -> tuple[str, str, str]:
    """Return Python, device and a remark: this Python, or that of ``.venv`` if only its torch can use a GPU."""
    own = probe(sys.executable, site)
    if not own.get("device", "").startswith("cuda"):
        other = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        found = probe(str(other), site) if other.is_file() else {}
        if found.get("device", "").startswith("cuda"):
            return str(other), found["device"], found["remark"]
    remark = own.get("remark", "") if own else NO_TORCH
    return sys.executable, own.get("device", "cpu"), remark


def install(wheels: Path, site: Path) -> None:
    """Unpack carried wheels into ``site``, without the internet."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"{wheels} holds no wheels.")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*command, "--disable-pip-version-check", "--target", str(site), *files], check=True)


def missing(python: str, site: Path | None) -> list[str]:
    """Return the packages that a Python lacks for the check."""
    code = f"import importlib.util as u; print(*[p for m, p in {NEEDED!r}.items() if u.find_spec(m) is None])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment(site), check=True)
    return done.stdout.split()


# --- parts -----------------------------------------------------------------------------------------------------------


def run_part(name: str, device: str, folder: Path, tiny: bool, seconds: float) -> None:
    """Do one part in this process."""
    from tests.benchmarks.gpu import inference, training
    from tests.benchmarks.gpu.parts import Part, version_facts

    part = Part(name, device, folder, tiny, seconds)
    if name == "segmentation":
        part.record("versions", **version_facts(device))
    kind, _, preset = name.partition("-")
    if kind == "training":
        training.training(part, preset)
    elif name == "two-processes":
        training.two_processes(part)
    else:
        {"segmentation": inference.segmentation, "generation": inference.generation, "memory": inference.memory}[name](
            part
        )


def run_all(python: str, options: argparse.Namespace, folder: Path, site: Path | None) -> dict[str, Any]:
    """Run the chosen parts one after the other; return their rows and seconds."""
    began, factor = time.monotonic(), TRIAL_FACTOR if options.tiny else 1
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in options.parts:
        left = options.seconds * factor - (time.monotonic() - began)
        allowed = min(PARTS[name] * factor, left - GRACE_SECONDS)
        if allowed <= 0:
            rows[name] = [{"row": name, "problem": "no time was left"}]
            continue
        print(f"{name} ({allowed:.0f} s at most) ...", flush=True)
        rows[name] = _run_one(python, options, folder, site, name, allowed)
        for row in rows[name]:
            print(f"  {json.dumps(row)}", flush=True)
    return {"rows": rows, "seconds": round(time.monotonic() - began, 1)}


def _run_one(
    python: str, options: argparse.Namespace, folder: Path, site: Path | None, name: str, allowed: float
) -> list[dict[str, Any]]:
    command = [python, __file__, "--part", name, "--device", options.device, "--folder", str(folder)]
    command += ["--seconds", str(allowed), *(["--tiny"] if options.tiny else [])]
    log = folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment(site), start_new_session=True
        )
        try:
            code: int | None = process.wait(allowed + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
            _end(process)
    file = folder / f"{name}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    if code != 0:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"])[-1]
        why = f"ended after {allowed + GRACE_SECONDS:.0f} s" if code is None else f"exit code {code}: {last}"
        rows.append({"row": name, "problem": why})
    return rows


def _end(process: subprocess.Popen) -> None:
    """End a part and the processes that it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, 9)
    else:
        process.kill()
    process.wait()


# --- the command -----------------------------------------------------------------------------------------------------


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cuda:N, or cpu to try the check itself")
    parser.add_argument("--tiny", action="store_true", help="everything small, as a CPU can do it")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--seconds", type=float, default=ALL_SECONDS, help="for all parts together")
    parser.add_argument("--wheels", type=Path, help="folder of wheels; .whl or wheels of the clone if there is one")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder of the results")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results/performance.md")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def check(options: argparse.Namespace, folder: Path) -> int:
    """Check the GPU; return the exit code."""
    wheels = options.wheels or next(filter(Path.is_dir, (ROOT / ".whl", ROOT / "wheels")), None)
    site = folder / "site" if wheels else None
    if wheels and site:
        install(wheels, site)
    python, device, remark = choose_python(site)
    if options.device == "auto" and device == "cpu":
        if remark == NO_TORCH and shutil.which("nvidia-smi"):
            print(f"{remark} Name a Python that has it (make gpu-check PYTHON=...), or carry its wheels (--wheels).")
            return 2
        print(f"There is no GPU that torch can use here, so there is nothing to check. {remark}".strip())
        return 0
    if options.device == "auto":
        options.device = device
    lacking = missing(python, site)
    if lacking:
        print(f"The check needs {', '.join(lacking)}: put their wheels into a folder and name it with --wheels.")
        return 2
    report = {
        "date": datetime.date.today().isoformat(), "device": options.device, "tiny": options.tiny,
        "processor": processor(), **run_all(python, options, folder, site),
    }  # fmt: skip
    report["problems"] = problems_of(report["rows"])
    text = markdown(report)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu-check.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "gpu-check.md").write_text(text + "\n")
    for log in folder.glob("*.log"):
        shutil.copyfile(log, options.out / f"gpu-check-{log.name}")
    print(f"\n{text}\n\n{options.out / 'gpu-check.json'}: {len(report['problems'])} problems.")
    if options.write:
        write_figures(BEGIN, text)
    return 1 if report["problems"] else 0


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.part:
        run_part(options.part, options.device, options.folder, options.tiny, options.seconds)
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        return check(options, Path(name))


if __name__ == "__main__":
    sys.exit(main())
