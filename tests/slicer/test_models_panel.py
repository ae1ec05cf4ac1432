"""The Models & device panel in the stand-in host, and installing what a Slicer lacks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest

from CardiacLDMLib.errors import ClientError, PackageError
from CardiacLDMLib.packages import archive, cards, store
from CardiacLDMLib.slicer import dependencies
from CardiacLDMLib.worker.device import DeviceCheck
from CardiacLDMLib.worker.job import Failure, JobListener
from CardiacLDMLib.worker.messages import CheckedDevice, CheckedPackage, ImportPackage, Request
from tests.support.host import Heartbeat, pump, start_host
from tests.support.package import write_tiny_package

HOST = start_host()
install = importlib.import_module("CardiacLDMLib.slicer.panels.install")
models = importlib.import_module("CardiacLDMLib.slicer.panels.models.panel")
process = importlib.import_module("CardiacLDMLib.slicer.panels.process")
SHIPPED = sorted(folder.name for folder in store.shipped_packages_dir().iterdir())


@pytest.fixture
def user_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's packages: none yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return store.user_packages_dir()


@pytest.fixture(autouse=True)
def host() -> Iterator[Any]:
    HOST.reset()
    yield HOST
    HOST.check()


class FakeDispatcher:
    """Keeps each request and its listener; the test decides how the job ends."""

    def __init__(self) -> None:
        self.requests: list[Request[Any]] = []
        self.listener: JobListener[Any]
        self.busy, self.cancelled, self.jobs_ended = False, 0, 0

    def submit(self, request: Request[Any], listener: JobListener[Any]) -> None:
        if self.busy:
            raise ClientError("The worker is busy.")
        self.requests.append(request)
        self.listener = listener

    def cancel(self) -> bool:
        self.cancelled += 1
        return True

    def report_end(self) -> None:
        self.jobs_ended += 1


def checked(name: str) -> CheckedPackage:
    return CheckedPackage(name=name, version="1.0", sha256="0" * 64, size_bytes=1)


def make_panel(dispatcher: Any = None) -> Any:
    """A panel in a parent of its own, with the packages listed."""
    import qt

    parent = qt.QWidget()
    qt.QVBoxLayout(parent)
    panel = models.ModelsPanel(parent, types.SimpleNamespace(dispatcher=dispatcher or FakeDispatcher()))
    panel.parent_of_test = parent
    wait(panel)
    return panel


def wait(panel: Any) -> None:
    pump(until=lambda: panel._listing is None, seconds=10)


def column(panel: Any, number: int) -> list[str]:
    table = panel.ui.packageTable
    return [table.item(line, number).text() for line in range(table.rowCount)]


def choose(panel: Any, name: str) -> None:
    panel.ui.packageTable.selectRow([row.name for row in panel._rows].index(name))


def shown_card(panel: Any) -> str:
    return str(panel.ui.cardBrowser.plainText)


# --- the list and the card -----------------------------------------------------------------------------------------


def test_shipped_packages_are_listed_with_a_card(user_dir: Path) -> None:
    panel, shipped = make_panel(), store.open_package(store.locate_package()).manifest
    all_shipped = [store.open_package(store.shipped_packages_dir() / name).manifest for name in SHIPPED]
    assert column(panel, 0) == [f"{manifest.title} ({manifest.version})" for manifest in all_shipped]
    assert column(panel, 2) == ["shipped"] * len(SHIPPED)
    choose(panel, store.DEFAULT_PACKAGE)
    text = shown_card(panel)
    for words in (
        "Labels the four chambers", "Not a medical device", "Trained on:", f"{shipped.training.cases} cases",
        "Licence: Apache-2.0", "9.7 MB", f"Figures on {shipped.figures[0].on}", "Narayanan",
    ):  # fmt: skip
        assert words in text
    assert panel.ui.installBox.isHidden()
    assert panel.ui.verifyButton.enabled
    assert not panel.ui.removeButton.enabled


def test_bad_packages_are_shown_with_the_reason(user_dir: Path) -> None:
    write_tiny_package(user_dir / "good")
    cut = write_tiny_package(user_dir / "cut") / "segmenter.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    (user_dir / "empty").mkdir()
    write_tiny_package(user_dir / store.DEFAULT_PACKAGE)
    panel = make_panel()
    others = slice(len(SHIPPED), None)
    assert dict(zip([row.name for row in panel._rows[others]], column(panel, 2)[others], strict=True)) == {
        "cut": "unusable", "empty": "unusable", "good": "imported", store.DEFAULT_PACKAGE: "unusable",
    }  # fmt: skip
    for name, reason in (("cut", "segmenter.safetensors is cut short"), ("empty", "holds no manifest.json")):
        choose(panel, name)
        assert reason in shown_card(panel)
        assert reason in panel.ui.packageTable.item(panel.ui.packageTable.currentRow(), 0).toolTip()
        assert panel.ui.removeButton.enabled


def test_packages_of_equal_title_are_told_apart(user_dir: Path) -> None:
    for name in ("clinic-a", "clinic-b"):
        write_tiny_package(user_dir / name)
    panel = make_panel()
    titles = column(panel, 0)
    assert len(set(titles)) == len(titles) == len(SHIPPED) + 2
    for name in ("clinic-a", "clinic-b"):
        choose(panel, name)
        line = panel.ui.packageTable.currentRow()
        assert name in titles[line]
        assert str(user_dir / name) in panel.ui.packageTable.item(line, 0).toolTip()


def test_cards_show_what_a_package_says_as_text(user_dir: Path) -> None:
    folder = write_tiny_package(user_dir / "tiny")
    opened = store.open_package(folder)
    manifest = opened.manifest.model_copy(update={"title": "<img src='x'>", "summary": "a < b & c", "figures": []})
    row = cards.Row(folder, False, 1, store.ModelPackage(folder, manifest, "0" * 64))
    html = cards.card(row)
    assert "<img" not in html
    assert "a &lt; b &amp; c" in html
    assert "measured" in html


def test_large_packages_are_listed_without_hashing(user_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = write_tiny_package(user_dir / "tiny") / "segmenter.safetensors"
    weights.write_bytes(weights.read_bytes()[::-1])
    monkeypatch.setattr(cards, "HASHED_BYTES", 10)
    row = next(row for row in cards.rows() if row.name == "tiny")
    assert row.origin == "imported"
    assert "not checked" in cards.card(row)
    monkeypatch.undo()


# --- remove --------------------------------------------------------------------------------------------------------


def test_removing_asks_first(user_dir: Path, host: Any) -> None:
    folder = write_tiny_package(user_dir / "tiny")
    panel, calls = make_panel(), []
    panel.packagesChanged.append(lambda: calls.append(True))
    choose(panel, "tiny")
    panel.ui.removeButton.click()
    assert folder.exists()
    assert "tiny" in host.texts("confirm")[-1]
    host.answer("Delete", True)
    panel.ui.removeButton.click()
    wait(panel)
    assert list(user_dir.iterdir()) == []
    assert column(panel, 2) == ["shipped"] * len(SHIPPED)
    assert calls == [True]


def test_shipped_packages_are_never_removed(user_dir: Path) -> None:
    panel = make_panel()
    panel._remove()
    row = panel._chosen()
    with pytest.raises(PackageError, match=store.DEFAULT_PACKAGE):
        cards.remove(row)
    with pytest.raises(PackageError):
        cards.remove(cards.Row(row.folder, False, 1, row.package))
    assert row.folder.exists()


# --- jobs ----------------------------------------------------------------------------------------------------------


def importing(panel: Any, host: Any, source: Path) -> None:
    host.answer("getOpenFileName", str(source))
    panel.ui.importZipButton.click()


def test_import_ends_in_the_list(user_dir: Path, host: Any, tmp_path: Path) -> None:
    dispatcher = FakeDispatcher()
    panel, calls = make_panel(dispatcher), []
    panel.packagesChanged.append(lambda: calls.append(True))
    importing(panel, host, tmp_path / "tiny.zip")
    assert dispatcher.requests == [ImportPackage(source=tmp_path / "tiny.zip")]
    assert panel.ui.cancelButton.enabled
    assert not panel.ui.verifyButton.enabled
    write_tiny_package(user_dir / "tiny")
    dispatcher.listener.done(checked("tiny"))
    wait(panel)
    assert panel._chosen().name == "tiny"
    assert "tiny" in panel.ui.messageLabel.text
    assert calls == [True]
    assert dispatcher.jobs_ended == 1


def test_import_asks_before_replacing(user_dir: Path, host: Any, tmp_path: Path) -> None:
    dispatcher = FakeDispatcher()
    panel = make_panel(dispatcher)
    importing(panel, host, tmp_path / "tiny.zip")
    dispatcher.listener.failed(Failure("it is there already", "", "exists"))
    assert len(dispatcher.requests) == 1
    importing(panel, host, tmp_path / "tiny.zip")
    host.answer("Replace it?", True)
    dispatcher.listener.failed(Failure("it is there already", "", "exists"))
    assert dispatcher.requests[-1] == ImportPackage(source=tmp_path / "tiny.zip", replace=True)


def test_refusals_and_a_busy_worker_are_shown(user_dir: Path, host: Any, tmp_path: Path) -> None:
    dispatcher = FakeDispatcher()
    panel = make_panel(dispatcher)
    host.answer("getExistingDirectory", str(tmp_path))
    panel.ui.importFolderButton.click()
    failure = Failure("x is refused: y is missing.", "", "package")
    dispatcher.listener.failed(failure)
    assert panel.ui.messageLabel.text == failure.message
    assert panel.ui.importFolderButton.enabled
    dispatcher.busy = True
    panel.ui.verifyButton.click()
    assert "busy" in panel.ui.messageLabel.text  # the dispatcher's words
    assert panel.ui.verifyButton.enabled


def test_cancelling_and_closing(user_dir: Path) -> None:
    dispatcher = FakeDispatcher()
    panel = make_panel(dispatcher)
    panel.ui.verifyButton.click()
    panel.ui.cancelButton.click()
    assert dispatcher.cancelled == 1
    dispatcher.listener.cancelled()
    wait(panel)
    assert panel.ui.messageLabel.text
    panel.ui.verifyButton.click()
    panel.cleanup()
    assert dispatcher.cancelled == 2
    panel.ui.messageLabel.text = "as it was"
    dispatcher.listener.done(checked("x"))  # too late: the panel is gone
    assert panel.ui.messageLabel.text == "as it was"


def test_device_check_can_be_pasted(user_dir: Path) -> None:
    import qt

    dispatcher = FakeDispatcher()
    panel = make_panel(dispatcher)
    assert not panel.ui.copyButton.enabled
    panel.ui.deviceButton.click()
    text = f"torch: 2.13.0\nsee {Path.home()}/x and {sys.prefix}/lib"
    check = DeviceCheck(True, None, "cpu", 0.1, {}, [], text)
    dispatcher.listener.done(CheckedDevice(check=check))
    panel.ui.copyButton.click()
    pasted = qt.QApplication.clipboard().text()
    assert pasted == panel.ui.deviceText.plainText
    assert "Slicer: 5.12.0" in pasted
    assert "torch: 2.13.0" in pasted
    assert str(Path.home()) not in pasted
    assert sys.prefix not in pasted


def test_with_a_real_worker(user_dir: Path, host: Any, tmp_path: Path) -> None:
    """Import from a zip, then a bad one, verify and check the device; the window is never held."""
    made = write_tiny_package(tmp_path / "made" / "tiny")
    good = archive.export_package(store.open_package(made), tmp_path / "good.zip")
    bad = tmp_path / "bad.zip"
    bad.write_bytes(good.read_bytes()[:-50])
    dispatcher = process.Dispatcher(lambda: None)
    panel = make_panel(dispatcher)
    messages = []

    def finished() -> None:
        pump(until=lambda: not panel._running, seconds=120)
        wait(panel)
        messages.append(panel.ui.messageLabel.text)

    with Heartbeat(clock=time.thread_time) as beat:
        for source in (bad, good, good):
            importing(panel, host, source)
            finished()
        for button in (panel.ui.verifyButton, panel.ui.deviceButton):
            button.click()
            finished()
    dispatcher.close()
    print(f"longest hold of the window: {beat.longest_ms:.0f} ms")
    refused, imported, asked, verified, checked_device = messages
    assert "bad.zip" in refused
    assert "tiny" in imported
    assert asked == ""  # whether to replace it; no was the answer
    assert "tiny" in verified
    assert checked_device == ""
    assert [entry.name for entry in user_dir.iterdir()] == ["tiny"]
    assert "cpu: passed" in panel.ui.deviceText.plainText
    assert beat.longest_ms < 500  # of computing in the window: reading a package there would take longer


# --- a Slicer that lacks packages ----------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What this Slicer does not have; taking a name out of the set installs it."""
    absent = {"torch", "monai", "safetensors", "pydantic", "cc3d"}
    look = importlib.util.find_spec
    monkeypatch.setattr(
        dependencies.importlib.util, "find_spec",  # type: ignore[attr-defined]
        lambda name, *rest: None if name in absent else look(name, *rest),
    )  # fmt: skip
    return absent


class FakeTorchExtension(types.ModuleType):
    """The PyTorch extension."""

    def __init__(self, installs: Any) -> None:
        super().__init__("PyTorchUtils")
        self.asked: list[dict[str, Any]] = []
        outer = self

        class PyTorchUtilsLogic:
            def installTorch(  # noqa: N802
                self, askConfirmation: bool = False, forceComputationBackend: Any = None,  # noqa: N803
                torchVersionRequirement: Any = None,  # noqa: N803
            ) -> Any:  # fmt: skip
                outer.asked.append({
                    "ask": askConfirmation, "wanted": torchVersionRequirement, "held": constraints(),
                })  # fmt: skip
                return installs()

        self.PyTorchUtilsLogic = PyTorchUtilsLogic


def constraints() -> list[str]:
    """What pip would be held to now."""
    from urllib.parse import unquote, urlsplit

    return Path(unquote(urlsplit(os.environ["PIP_CONSTRAINT"]).path)).read_text().split()


@pytest.fixture
def pytorch(fresh: set[str], monkeypatch: pytest.MonkeyPatch) -> FakeTorchExtension:
    extension = FakeTorchExtension(lambda: fresh.discard("torch") or types.ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    return extension


def with_pip(monkeypatch: pytest.MonkeyPatch, ensure: Any) -> None:
    monkeypatch.setattr(sys.modules["slicer.packaging"], "pip_ensure", ensure)


def test_nothing_is_asked_where_nothing_is_missing(host: Any) -> None:
    assert dependencies.missing() == []
    assert install.ensure_dependencies()
    assert host.messages == []


def test_installing_announces_packages_and_sizes_first(
    fresh: set[str], pytorch: FakeTorchExtension, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def ensure(requirements: list[Any], requester: str) -> None:
        calls.append(([str(one) for one in requirements], requester, constraints()))
        fresh.clear()

    with_pip(monkeypatch, ensure)
    host.answer("To download", True)
    assert install.ensure_dependencies()
    announcement = host.texts("confirm")[0]
    for fact in ("torch", "monai", "connected-components-3d", "MB", "3 GB", "numpy and SimpleITK"):
        assert fact in announcement
    assert pytorch.asked[0]["ask"] is True
    assert pytorch.asked[0]["wanted"] in {">=2.6,<3", "<3,>=2.6"}
    assert any(line.startswith("numpy==") for line in pytorch.asked[0]["held"])
    assert not any(line.startswith("torch") for line in pytorch.asked[0]["held"])
    requirements, requester, held = calls[0]
    assert requester == "CardiacLDM"
    assert {line.split("==")[0] for line in held} == {"numpy", "SimpleITK", "torch"}
    assert not any(line.startswith(("torch", "numpy", "SimpleITK")) for line in requirements)
    assert "PIP_CONSTRAINT" not in os.environ


def test_declining_installs_nothing(fresh: set[str], pytorch: FakeTorchExtension, host: Any) -> None:
    assert not install.ensure_dependencies()
    assert pytorch.asked == []
    assert host.installed == []
    assert host.texts("error") == []


@pytest.mark.parametrize("at", ["torch", "the rest"])
def test_declining_later_is_no_error(
    at: str, fresh: set[str], pytorch: FakeTorchExtension, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decline(*_: Any, **__: Any) -> None:
        raise RuntimeError("User declined package installation")

    if at == "torch":
        monkeypatch.setattr(pytorch.PyTorchUtilsLogic, "installTorch", lambda *_, **__: None)
    with_pip(monkeypatch, decline)
    host.answer("To download", True)
    assert not install.ensure_dependencies()
    assert host.texts("error") == []


def test_a_missing_pytorch_extension_is_named(fresh: set[str], host: Any) -> None:
    assert not install.ensure_dependencies()
    (message,) = host.texts("error")
    assert "Extensions Manager" in message
    assert "PyTorch" in message


def test_older_slicers_are_refused(fresh: set[str], host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    assert not install.ensure_dependencies()
    assert "5.12" in host.texts("error")[0]


@pytest.mark.parametrize(
    ("printed", "fact"),
    [
        ("ERROR: [Errno 28] No space left on device", "disk"),
        ("NewConnectionError: [Errno -2] Name or service not known\nNo matching distribution found for monai",
         "network"),
        ("ProxyError('Cannot connect to proxy.')", "proxy"),
        ("SSLError(SSLCertVerificationError(1, 'CERTIFICATE_VERIFY_FAILED'))", "certificate"),
        ("PermissionError: [WinError 5] Access is denied", "administrator"),
        ("ERROR: ResolutionImpossible: for help visit", "already"),
        ("ERROR: No matching distribution found for monai", "build"),
        ("something unheard of", "installed"),
    ],
)  # fmt: skip
def test_a_failing_pip_is_one_sentence_details_and_a_way_out(
    printed: str, fact: str, fresh: set[str], pytorch: FakeTorchExtension, host: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: Any, **__: Any) -> None:
        print(printed)
        raise CalledProcessError(1, "pip install")

    with_pip(monkeypatch, fail)
    out = sys.stdout
    host.answer("To download", True)
    assert not install.ensure_dependencies()
    ((_, text, details),) = [message for message in host.messages if message[0] == "error"]
    assert fact in text.splitlines()[0]
    assert "install.md" in text
    assert printed in details
    assert sys.stdout is out
    assert "PIP_CONSTRAINT" not in os.environ


def test_packages_that_still_cannot_be_found(
    fresh: set[str], pytorch: FakeTorchExtension, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under --testing, where Slicer installs nothing and does not say so."""
    with_pip(monkeypatch, lambda *_, **__: None)
    host.answer("To download", True)
    assert not install.ensure_dependencies()
    assert "restart Slicer" in host.texts("error")[0]


def test_pip_keeps_the_users_own_constraints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_CONSTRAINT", "/own/constraints.txt")
    with install.pinned(["numpy", "no-such-distribution"]):
        assert os.environ["PIP_CONSTRAINT"].startswith("/own/constraints.txt file://")
    assert os.environ["PIP_CONSTRAINT"] == "/own/constraints.txt"


def test_only_the_main_thread_may_install() -> None:
    import threading

    raised = []

    def attempt() -> None:
        try:
            install.ensure_dependencies()
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(raised) == 1
    assert "main thread" in raised[0]


def test_the_panel_opens_in_a_fresh_slicer(
    user_dir: Path, fresh: set[str], pytorch: FakeTorchExtension, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = ("CardiacLDMLib.packages", "CardiacLDMLib.networks", "CardiacLDMLib.text", "CardiacLDMLib.worker.messages")
    for name in [name for name in sys.modules if name.startswith(rooms)]:
        monkeypatch.delitem(sys.modules, name)
    with monkeypatch.context() as blocked:
        blocked.setitem(sys.modules, "pydantic", None)
        panel = make_panel()
        assert not panel.ui.installBox.isHidden()
        assert "pydantic" in panel.ui.installLabel.text
        assert "installed" in shown_card(panel)
        assert not panel.ui.verifyButton.enabled
        panel.ui.deviceButton.click()
        for fact in ("Slicer: 5.12.0", "numpy: ", "torch is missing"):
            assert fact in panel.ui.deviceText.plainText
        assert panel.ui.copyButton.enabled
    with_pip(monkeypatch, lambda *_, **__: fresh.clear())
    host.answer("To download", True)
    panel.ui.installButton.click()
    wait(panel)
    assert panel.ui.installBox.isHidden()
    assert column(panel, 2) == ["shipped"] * len(SHIPPED)
