"""The client with a scripted transport and a clock of its own: any output is handled, and no file is left."""

from __future__ import annotations

import itertools
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from CardiacLDMLib.errors import ClientError
from CardiacLDMLib.image.grid import Volume
from CardiacLDMLib.progress import Progress, remaining_seconds
from CardiacLDMLib.worker import arrays, job_folder, process, wire
from CardiacLDMLib.worker import client as client_module
from CardiacLDMLib.worker.client import WorkerClient
from CardiacLDMLib.worker.job import JobListener, ignore
from CardiacLDMLib.worker.job_folder import JobFolder, sweep
from CardiacLDMLib.worker.messages import ListDevices, SegmentVolume
from CardiacLDMLib.worker.wire import PROTOCOL, Lines, decode, encode
from tests.support.worker import Outcome

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


class Scripted:
    """A transport whose output the test writes; ``sent`` holds the requests."""

    def __init__(self) -> None:
        self.running = False
        self.sent: list[dict[str, Any]] = []
        self.stopped = False

    def start(self, program: Any, environment: Any, on_output: Any, on_error_output: Any, on_end: Any) -> None:
        self.running = True
        self.say_bytes, self.complain, self._on_end = on_output, on_error_output, on_end

    def write(self, data: bytes) -> None:
        self.sent += [json.loads(line) for line in data.splitlines()]

    def stop(self) -> None:
        self.stopped = True

    def say(self, **message: Any) -> None:
        self.say_bytes(encode(message))

    def hello(self) -> None:
        self.say(event="hello", protocol=PROTOCOL, version="1", pid=2**22 + 1)

    def end(self, code: int | None, reason: str = "") -> None:
        self.running = False
        self._on_end(code, reason)


class World:
    """A client with its clock and its processes."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self.processes: list[Scripted] = []
        self.client = WorkerClient(self._process, ["python"], later=self._later)

    def _process(self) -> Scripted:
        self.processes.append(Scripted())
        return self.processes[-1]

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers.append((self.now + seconds, call))

    def next_timer(self, until: float = 0.0) -> bool:
        """Call what is due next; whether there was anything."""
        due = [timer for timer in self._timers if timer[0] <= max(until, self.now)]
        if due:
            timer = min(due, key=lambda t: t[0])
            self._timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        return bool(due)

    def pass_time(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while self.next_timer(end):
            pass
        self.now = end

    @property
    def process(self) -> Scripted:
        return self.processes[-1]

    def segment(self, array: np.ndarray | None = None) -> Outcome:
        """Begin a job and bring it to the point where the worker has it."""
        outcome = Outcome()
        array = np.zeros((4, 5, 6), np.int16) if array is None else array
        self.client.submit(SegmentVolume(image=Volume(array, AFFINE)), outcome.listener())
        self.pass_time()
        if self.process.running and not self.process.sent:
            self.process.hello()
        return outcome

    def answer(self, request: dict[str, Any], labels: np.ndarray) -> None:
        """Do what a worker does at the end of a segmentation."""
        np.save(Path(request["folder"]) / "labels.npy", labels)
        fields = {
            "warnings": ["a"], "seconds": 1.0, "stage_seconds": {}, "network_seconds": 0.5, "device": "cpu",
            "quality": "full", "heart_found": True, "volumes_ml": {"LV": 1.0},
            "package": {"name": "p", "version": "1", "sha256": "0"},
        }  # fmt: skip
        self.send_result(request, fields, {"labels": AFFINE.tolist()})

    def send_result(self, request: dict[str, Any], fields: object, volumes: object = ()) -> None:
        """Answer a request."""
        self.process.say(event="result", id=request["id"], fields=fields, volumes=volumes)

    def list_devices(self) -> Outcome:
        """Submit a job without volumes."""
        outcome = Outcome()
        self.client.submit(ListDevices(), outcome.listener())
        return outcome


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files; nothing may stay there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(process, "end_process_group", lambda pid: None)
    return tmp_path


@pytest.fixture
def world(temporary: Path) -> Iterator[World]:
    world = World()
    yield world
    world.client.shutdown()
    assert not list(temporary.iterdir())


# --- lines ---------------------------------------------------------------------------------------------------------

messages = st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=30), max_size=4)
garbage = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b" "))


@settings(max_examples=80, deadline=None)
@given(st.lists(messages.map(lambda m: (m, encode(m))) | garbage.map(lambda g: (None, g + b"\n"))), st.data())
def test_messages_survive_any_cutting_and_any_garbage_between_them(items: Any, data: st.DataObject) -> None:
    stream = b"".join(line for _, line in items)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    lines = Lines()
    found = [
        line
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for line in lines.feed(stream[start:end])
    ]
    assert len(found) == len(items)
    for line, (message, _) in zip(found, items, strict=True):
        if message is not None:
            assert decode(line) == message
        else:
            decode(line)  # whatever it is, it is no error


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    lines = Lines()
    for _ in range(5):
        assert lines.feed(b"x" * (wire.MAX_LINE // 2)) == []
    first, second = lines.feed(b"\n" + encode({"event": "hello"}))
    assert len(first) == wire.MAX_LINE
    assert decode(second) == {"event": "hello"}


@pytest.mark.parametrize("line", [b"{" * 100_000, b"[1]", b"null", b'{"a"', b"\xff\xfe", b"", b'{"a": \xff}'])
def test_a_line_without_a_message_is_none(line: bytes) -> None:
    assert decode(line) is None


def test_paths_that_are_no_unicode_survive() -> None:
    name = os.fsdecode(b"scan \xff.nii")
    assert decode(encode({"path": name})) == {"path": name}


# --- private folders -----------------------------------------------------------------------------------------------


def test_the_folder_of_a_job_is_private_and_is_removed() -> None:
    folder = JobFolder()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    sweep()
    assert folder.path.exists()  # its owner lives
    assert folder.remove()
    assert not folder.path.exists()


def test_folders_of_dead_processes_are_swept(temporary: Path) -> None:
    code = (
        "import os, tempfile, sys; tempfile.tempdir = sys.argv[1]\n"
        "from CardiacLDMLib.worker.job_folder import JobFolder\n"
        "folder = JobFolder(); (folder.path / 'image.npy').write_text('x'); print(folder.path); sys.stdout.flush()\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(temporary)], capture_output=True, text=True, check=False)
    left = Path(done.stdout.strip())
    assert (left / "image.npy").exists()
    being_made = temporary / f"{left.name}-new"
    being_made.mkdir()
    (temporary / "others").mkdir()
    World()
    assert sorted(path.name for path in temporary.iterdir()) == sorted([being_made.name, "others"])
    os.utime(being_made, (0, 0))
    sweep()
    assert [path.name for path in temporary.iterdir()] == ["others"]
    (temporary / "others").rmdir()


def test_only_folders_of_jobs_are_removed_for_another_process(temporary: Path) -> None:
    mine = JobFolder()
    other = temporary / "documents"
    other.mkdir()
    (other / "owner").touch()
    job_folder.remove_job_folder(other)
    job_folder.remove_job_folder(mine.path)
    assert [path.name for path in temporary.iterdir()] == ["documents"]


# --- a job's way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a,
        np.asfortranarray,
        lambda a: a[::-1, :, ::2],
        lambda a: a.transpose(2, 0, 1),
        lambda a: np.asfortranarray(a)[::-1, ::-1],
        lambda a: a.astype(np.float64),
        lambda a: a[:, :1, :1],
    ],
)
def test_arrays_arrive_as_they_are_and_labels_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    monkeypatch.setattr(arrays, "PIECE_BYTES", 100)
    array = change(np.random.default_rng(0).integers(-1000, 1000, (7, 8, 12)).astype(np.int16))
    outcome = world.segment(array)
    request = world.process.sent[0]
    np.testing.assert_array_equal(np.load(Path(request["folder"]) / "image.npy"), array)
    assert request["volumes"] == {"image": AFFINE.tolist()}
    labels = (np.arange(array.size) % 9).astype(np.uint8).reshape(array.shape)
    world.answer(request, labels)
    np.testing.assert_array_equal(outcome.done.labels.array, labels)
    assert isinstance(outcome.done.labels.array, np.memmap)
    assert outcome.done.warnings == ["a"]
    assert outcome.ends == 1
    assert not world.client.busy
    assert not Path(request["folder"]).exists()


def test_a_large_array_is_written_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "PIECE_BYTES", 1000)
    outcome = Outcome()
    image = Volume(np.zeros((10, 10, 100), np.int16), AFFINE)
    world.client.submit(SegmentVolume(image=image), outcome.listener())
    steps = 0
    while world.next_timer():
        steps += 1
        if steps == 1:
            world.process.hello()
    assert 10 <= steps <= 13
    assert len(world.process.sent) == 1


def test_progress_and_time_left(world: World) -> None:
    outcome = world.segment()
    world.process.say(event="progress", id=1, step=20, total=100, stage="segment", seconds=4.0, new="field")
    world.process.say(event="progress", id=7, step=30, total=100, stage="segment", seconds=5.0)
    world.process.say(event="progress", id=1)
    assert outcome.progress == [Progress(0, 100, "start", 0.0), Progress(20, 100, "segment", 4.0)]
    assert remaining_seconds(outcome.progress[-1]) == pytest.approx(16.0)
    assert remaining_seconds(outcome.progress[0]) is None


def test_one_job_at_a_time(world: World) -> None:
    outcome = world.segment()
    with pytest.raises(ClientError):
        world.list_devices()
    world.process.say(event="error", id=1, kind="input", message="It is no CT.", ending=False)
    assert outcome.failure.message == "It is no CT."
    second = world.segment()
    assert len(world.processes) == 1
    world.answer(world.process.sent[-1], np.zeros((4, 5, 6), np.uint8))
    assert second.done


def test_a_job_may_be_begun_from_the_callback_of_another(world: World) -> None:
    second = []

    def again(_: object) -> None:
        second.append(world.list_devices())

    world.client.submit(ListDevices(), JobListener(done=again, failed=ignore))
    world.pass_time()
    world.process.hello()
    devices = {"devices": [{"device": "cpu", "name": "P", "total_bytes": None, "free_bytes": None}]}
    world.send_result(world.process.sent[0], devices)
    world.pass_time()
    world.send_result(world.process.sent[1], devices)
    assert second[0].done.devices[0].device == "cpu"


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"fields": 3, "volumes": {}},
        {"fields": {}, "volumes": {"labels": AFFINE.tolist()}},
        {"fields": {"warnings": [], "nonsense": 1}, "volumes": {}},
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failure(world: World, result: dict[str, Any]) -> None:
    outcome = world.segment()
    world.process.say(event="result", id=1, **result)
    assert outcome.failure.kind == "internal"
    assert outcome.ends == 1


def test_labels_of_another_shape_are_not_taken(world: World) -> None:
    outcome = world.segment()
    world.answer(world.process.sent[0], np.zeros((6, 5, 4), np.uint8))
    assert outcome.failure.kind == "internal"


def test_a_full_disk_is_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> bool:
        raise OSError(28, "disk full")

    monkeypatch.setattr(arrays.ArrayUpload, "write_piece", full)
    outcome = world.segment()
    assert outcome.failure.kind == "output"
    assert "disk full" in outcome.failure.message


# --- being stopped -------------------------------------------------------------------------------------------------


def test_cancel_is_asked_for_and_then_enforced(world: World) -> None:
    outcome = world.segment()
    world.client.cancel()
    world.client.cancel()
    assert world.process.sent[1:] == [{"job": "cancel", "id": 1}]
    world.process.say(event="progress", id=1, step=20, total=100, stage="segment", seconds=4.0)
    world.pass_time(1.9)
    assert not outcome
    world.pass_time(0.2)
    assert outcome.cancelled
    assert world.process.stopped
    world.process.end(-9)
    assert outcome.ends == 1
    world.segment()
    assert len(world.processes) == 2
    world.client.shutdown()


def test_a_cancelled_job_that_ends_otherwise_is_cancelled_and_leaves_the_worker_warm(world: World) -> None:
    endings: list[Callable[[], None]] = [
        lambda: world.process.say(event="cancelled", id=world.process.sent[-1]["id"]),
        lambda: world.answer(next(r for r in world.process.sent[::-1] if "folder" in r), np.zeros((4, 5, 6), np.uint8)),
        lambda: world.process.say(
            event="error", id=world.process.sent[-1]["id"], kind="input", message="No.", ending=False
        ),
    ]
    for ending in endings:
        outcome = world.segment()
        world.client.cancel()
        ending()
        assert outcome.cancelled
        assert outcome.ends == 1
        world.pass_time(5.0)
    assert len(world.processes) == 1
    assert not world.process.stopped


def test_cancel_before_the_worker_has_the_job_leaves_the_worker_alone(world: World) -> None:
    outcome = Outcome()
    world.client.submit(SegmentVolume(image=Volume(np.zeros((4, 4, 4), np.int16), AFFINE)), outcome.listener())
    world.pass_time()
    world.client.cancel()
    assert not outcome  # never from within the call
    world.pass_time()
    assert outcome.cancelled
    world.process.hello()
    assert world.process.sent == []


def test_shutdown_ends_the_job_and_the_process(world: World) -> None:
    outcome = world.segment()
    world.client.shutdown()
    assert outcome.cancelled
    assert world.process.stopped
    assert not world.client.busy


# --- processes that fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        (-9, ("signal 9", "by hand", "may be")),
        (137, ("signal 9", "by hand", "may be")),
        (-15, ("signal 15", "by hand")),
        (143, ("signal 15", "by hand")),
        (3221225477, ("exit code 3221225477",)),
        (-11, ("signal 11",)),
        (139, ("signal 11",)),
        (1, ("exit code 1",)),
        (0, ("exit code 0",)),
    ],
)
def test_a_process_that_ends_is_reported_with_the_end_of_its_output(
    world: World, code: int, facts: tuple[str, ...]
) -> None:
    outcome = world.segment()
    world.process.say(event="progress", id=1, step=1, total=100, stage="load", seconds=0.0)
    world.process.complain("".join(f"line {n}\n" for n in range(300)).encode() + b"\xff last\nhalf")
    world.process.end(code)
    assert all(fact in outcome.failure.message for fact in facts)
    assert outcome.failure.kind == "crash"
    assert len(outcome.failure.details.splitlines()) == process.TAIL_LINES
    assert outcome.failure.details.endswith("\N{REPLACEMENT CHARACTER} last")
    assert not world.client.busy
    second = world.segment()
    assert len(world.processes) == 2
    world.answer(world.process.sent[-1], np.zeros((4, 5, 6), np.uint8))
    assert second.done


def test_a_program_that_is_not_there(world: World) -> None:
    outcome = world.list_devices()
    world.pass_time()
    world.process.end(None, "no such program")
    assert outcome.failure.kind == "crash"
    assert "no such program" in outcome.failure.message


def test_a_process_that_never_says_hello(world: World) -> None:
    outcome = world.list_devices()
    world.pass_time(client_module.HELLO_SECONDS + 1)
    assert outcome.failure.kind == "internal"
    assert f"{client_module.HELLO_SECONDS:.0f} seconds" in outcome.failure.message
    assert world.process.stopped


@pytest.mark.parametrize("hello", [{"protocol": PROTOCOL + 1, "pid": 1}, {"protocol": PROTOCOL}, {}])
def test_another_protocol_is_refused(world: World, hello: dict[str, Any]) -> None:
    outcome = world.list_devices()
    world.pass_time()
    world.process.say(event="hello", **hello)
    assert outcome.failure.kind == "internal"
    assert world.process.stopped


def test_a_worker_that_had_idled_too_long_just_now_is_replaced_silently(world: World) -> None:
    world.list_devices()
    world.pass_time()
    world.process.hello()
    world.send_result(world.process.sent[0], {"devices": []})
    outcome = world.segment()
    world.process.end(0)
    assert len(world.processes) == 2
    world.process.hello()
    world.answer(world.process.sent[0], np.zeros((4, 5, 6), np.uint8))
    assert outcome.done


def test_a_failure_that_ends_the_worker_waits_for_the_traceback(world: World) -> None:
    outcome = world.segment()
    world.process.say(event="error", id=1, kind="device", message="The GPU failed.", ending=True)
    assert not outcome
    world.process.complain(b"Traceback ...\n")
    world.process.end(0)
    assert (outcome.failure.message, outcome.failure.details) == ("The GPU failed.", "Traceback ...")
    second = world.segment()
    world.process.say(event="error", id=2, kind="device", message="The GPU failed again.", ending=True)
    world.pass_time(3.0)
    assert second.failure.message == "The GPU failed again."
    assert world.process.stopped


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_no_output_whatever_confuses_the_client(data: bytes, cuts: list[int]) -> None:
    world = World()
    outcome = world.segment()
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        world.process.say_bytes(data[start:end])
    world.process.say_bytes(b"\n")
    world.answer(world.process.sent[0], np.zeros((4, 5, 6), np.uint8))
    assert outcome.done
    world.client.shutdown()
