"""The Generate panel: generates synthetic pairs of CT and labels from a package, a seed and conditions."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import vtk
from slicer.i18n import tr as _

import slicer

from ....errors import UserError
from ....progress import Preview, Progress
from ....worker.device import Device
from ....worker.job import Failure
from ...pairs import SyntheticPair
from ..install import ensure_dependencies
from ..keys import add_apply_keys
from ..parts import ATTENTION, Choice, ErrorBox, device_labels, show_progress
from ..process import Dispatcher
from .conditions import Conditions
from .facts import DEFAULT_GENERATOR, Effort, Facts, facts_of, installed_generators, number_of_pairs
from .jobs import PairListener, PairSettings, PairsJob
from .saving import SaveJob, SaveListener, missing_space
from .viewer import PairViewer

if TYPE_CHECKING:
    from ..parameters import CardiacLDMParameterNode

#: The largest number that a spin box takes.
MAX_SEED = 2**31 - 1
PREVIEW_PIXELS = 192


class GeneratePanel:
    """Connects Generate.ui to the worker, the settings in the scene and the views. ``ui``: the form's children."""

    def __init__(self, ui: Any, dispatcher: Dispatcher) -> None:
        self.ui, self._dispatcher = ui, dispatcher
        self._parameters: CardiacLDMParameterNode | None = None
        self._job: PairsJob | SaveJob | None = None
        self._showing = False
        self._facts = Facts()
        self._pair_seconds: dict[tuple[Any, ...], float] = {}  # seconds per pair, by the settings that it depends on
        self._viewer = PairViewer(ui)
        self._observers = slicer.util.VTKObservationMixin()
        self._errors = ErrorBox(ui, self.settings)
        self.package = Choice(ui.package, lambda value: self._remember("package", value))
        self.device = Choice(ui.device, lambda value: self._remember("device", value))
        self.conditions = Conditions(ui.conditions, self._conditions_changed)
        self.show_devices([])
        self._connect()
        self.show_packages()
        self._show_pairs()

    def _connect(self) -> None:
        ui = self.ui
        for name in ("count", "seed", "steps"):
            getattr(ui, name).connect("valueChanged(int)", lambda value, name=name: self._remember(name, value))
        ui.check.connect("toggled(bool)", lambda on: self._remember("check", on))
        for button, slot in (
            (ui.packageFolder, self._choose_folder), (ui.dice, self._roll), (ui.apply, self._apply_or_cancel),
            (ui.saveAll, self._save_all),
        ):  # fmt: skip
            button.connect("clicked()", slot)
        add_apply_keys(ui.apply, lambda: self.running)
        ui.warningsLabel.styleSheet = f"color: {ATTENTION}"

    # --- what the module calls ---

    @property
    def running(self) -> bool:
        """Whether a job of this panel runs."""
        return self._job is not None

    def settings(self) -> PairSettings:
        """Return the settings that the form shows."""
        ui = self.ui
        return PairSettings(
            self.package.value or None, ui.count.value, ui.seed.value, ui.steps.value or None, self.conditions.values,
            self.device.value, ui.check.checked,
        )  # fmt: skip

    def set_parameters(self, parameters: CardiacLDMParameterNode | None) -> None:
        """Show and store the choices in this parameter node; None while there is no scene."""
        self._observers.removeObservers()
        self._parameters = parameters
        if parameters is not None:
            node = parameters.parameterNode  # type: ignore[attr-defined]  # made by the decorator
            self._observers.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
            self._observers.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.NodeRemovedEvent, self._node_removed)
        elif not self.running:
            self._show_result("", ())  # it was about the scene that closes
        self._parameters_changed()
        self._show_pairs()

    def show_devices(self, devices: list[Device]) -> None:
        """Offer the automatic choice, the CPU and the GPUs among ``devices``."""
        self.device.offer(device_labels(devices))

    def show_packages(self) -> None:
        """Offer the generator packages that are installed now."""
        names = installed_generators()
        self.package.offer({name: name for name in names} or {"": _("none installed")})
        self._choose(self.package.value)

    def cancel(self) -> None:
        """Stop the job, if one runs. Finished pairs stay."""
        if self._job is not None:
            self.ui.progressLabel.text = _("Cancelling")
            self._job.cancel()

    def leave(self) -> None:
        """Give the user's layout back: another panel or module is looked at."""
        self._viewer.leave()

    def cleanup(self) -> None:
        """Stop everything that could call the widgets, before they are deleted."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        self._viewer.stop()
        self._observers.removeObservers()

    # --- settings ---

    def _remember(self, name: str, value: Any) -> None:
        """Store a choice in the scene, unless the widget changed because a scene is loaded or closed."""
        if self._parameters is not None and not self._showing and not slicer.mrmlScene.IsBatchProcessing():
            setattr(self._parameters.generate, name, value)
        if name == "package":
            self._package_changed()
        self.refresh()

    def _conditions_changed(self) -> None:
        self._remember("conditions", json.dumps(self.conditions.values))

    def _parameters_changed(self, *_unused: Any) -> None:
        if self._showing or self._parameters is None:
            return
        self._showing = True
        try:
            self._show_choices()
        finally:
            self._showing = False
        self.refresh()

    def _show_choices(self) -> None:
        assert self._parameters is not None
        kept, ui = self._parameters.generate, self.ui
        installed = installed_generators()
        chosen = kept.package or (installed[0] if installed else "")
        if chosen != self.package.value:
            self._choose(chosen)
        ui.count.value, ui.seed.value, ui.steps.value = kept.count, kept.seed, kept.steps
        ui.check.checked = kept.check
        self.device.set(kept.device)
        self.conditions.set(_conditions(kept.conditions))

    def _package_changed(self) -> None:
        """Show the conditions and the usual steps of the chosen package."""
        self._facts = facts_of(self.package.value)
        self.conditions.offer(self._facts.choices, self._facts.numbers)
        usual = _("default ({n})").format(n=self._facts.steps) if self._facts.steps else _("default")
        self.ui.steps.specialValueText = usual
        self.refresh()

    def _choose_folder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.ui.apply, _("Use a generator package in a folder"))
        if folder:
            self._choose(str(folder))
            self._remember("package", str(folder))

    def _choose(self, package: str) -> None:
        """Show a package as chosen, without a signal. A package in a folder is added to the list."""
        if os.path.isabs(package) and os.path.isdir(package):
            self.package.add(package, Path(package).name)
        else:
            self.package.set(package)
        self._package_changed()

    def _roll(self) -> None:
        self.ui.seed.value = random.SystemRandom().randint(0, MAX_SEED)

    # --- what can be done now ---

    def refresh(self) -> None:
        """Enable what is possible now; show what is missing before Generate, or else the expected time and memory."""
        ui, running = self.ui, self.running
        hint = self._hint()
        ui.hint.text = hint
        ui.hint.visible = bool(hint) and not running
        ui.effort.text = "" if hint or not self._facts.shape else self._effort_in_words()
        ui.effort.visible = bool(ui.effort.text) and not running
        ui.apply.text = _("&Cancel") if running else _("&Generate")
        ui.apply.toolTip = _("Stop. Finished pairs stay in the scene.") if running else _("Generate the pairs")
        ui.apply.enabled = running or not hint
        for name in ("package", "packageFolder", "count", "seed", "dice", "steps", "check", "device"):
            getattr(ui, name).enabled = not running
        self.conditions.enable(not running)
        ui.saveAll.enabled = bool(self._viewer.pairs) and not running and not self._dispatcher.busy
        ui.progressBox.visible = running
        self._errors.hide_outdated()

    def _hint(self) -> str:
        """Return what is missing before pairs can be generated, empty if nothing is."""
        if self._facts.problem:
            return self._facts.problem
        if self.conditions.problem:
            return self.conditions.problem
        if not self.running and self._dispatcher.busy:
            return _("Another job is running: wait for it, or cancel it.")
        return ""

    def _effort(self) -> Effort:
        count, pace = self.ui.count.value, self._pair_seconds.get(_pace_key(self.settings()))
        return Effort(count, None if pace is None else pace * count, self._facts.pair_bytes * count)

    def _effort_in_words(self) -> str:
        size = " x ".join(str(side) for side in self._facts.shape)
        grid = _("{size} voxels of {mm:g} mm").format(size=size, mm=self._facts.spacing_mm)
        return f"{self._effort().in_words()}. {grid}."

    # --- generating ---

    def _apply_or_cancel(self) -> None:
        if self.running:
            self.cancel()
        elif ensure_dependencies() and self._confirm_effort():  # installing makes more facts about the package readable
            self._apply()

    def _confirm_effort(self) -> bool:
        self._package_changed()
        if self._hint():
            return False
        effort = self._effort()
        question = _("{effort}. Continue?").format(effort=effort.in_words())
        return not effort.is_large or bool(slicer.util.confirmOkCancelDisplay(question))

    def _apply(self) -> None:
        self._remember("package", self.package.value)  # the scene may not hold it yet if it is the default
        settings, began, finished = self.settings(), time.monotonic(), list[SyntheticPair]()

        def arrived(pair: SyntheticPair) -> Iterator[None]:
            finished.append(pair)
            self._pair_seconds[_pace_key(settings)] = (time.monotonic() - began) / len(finished)
            return self._arrived(pair, first=len(finished) == 1)

        def ended(ending: str = "", warnings: tuple[str, ...] | list[str] = ()) -> None:
            self._show_result(_summary(settings, finished, time.monotonic() - began, ending), warnings)
            self._ended()

        def failed(failure: Failure) -> None:
            ended(_("stopped by an error"))
            self._errors.show(failure)

        self._begin(_("Starting"))
        self._viewer.expect()
        listener = PairListener(
            progress=lambda index, progress: self._progress(index, settings.count, progress),
            preview=self._preview,
            pair=self._while_running(arrived),
            done=self._while_running(lambda warnings: ended(warnings=warnings)),
            failed=self._while_running(failed),
            cancelled=self._while_running(lambda: ended(_("cancelled"))),
        )
        try:
            self._job = PairsJob(self._dispatcher, settings, listener)
        except UserError as error:
            self._errors.show(Failure.from_error(error))
        self.refresh()

    def _while_running(self, call: Any) -> Any:
        """Return a function that calls ``call`` only while the job of this panel runs."""
        return lambda *arguments: call(*arguments) if self._job is not None else None

    def _begin(self, words: str) -> None:
        self._errors.hide()
        self._show_result("", ())
        self.ui.preview.visible = self.ui.previewCaption.visible = False
        show_progress(self.ui.progressBar, self.ui.progressLabel, Progress(0, 100, "start", 0.0))
        self.ui.progressLabel.text = words

    def _progress(self, index: int, count: int, progress: Progress) -> None:
        if self._job is None:
            return
        ui = self.ui
        show_progress(ui.progressBar, ui.progressLabel, progress, steps=False)
        words = ui.progressLabel.text
        number = _("Pair {n} of {count}").format(n=index + 1, count=count)
        ui.progressLabel.text = f"{number}: {words[:1].lower()}{words[1:]}"

    def _preview(self, preview: Preview) -> None:
        """Show the picture of the unfinished pair. It is read at once, since its file is deleted with the job."""
        if self._job is None:
            return
        picture = qt.QPixmap(preview.file)
        size = qt.QSize(PREVIEW_PIXELS, PREVIEW_PIXELS)
        self.ui.preview.setPixmap(picture.scaled(size, qt.Qt.KeepAspectRatio, qt.Qt.SmoothTransformation))
        words = _("Synthetic. Middle slice after step {step} of {total}")
        self.ui.previewCaption.text = words.format(step=preview.step, total=preview.total)
        self.ui.preview.visible = self.ui.previewCaption.visible = True

    def _arrived(self, pair: SyntheticPair, first: bool) -> Iterator[None]:
        """Return the steps that show a new pair."""
        return self._viewer.arrive(pair, first)

    def _ended(self) -> None:
        self._job = None
        self._show_pairs()
        self.refresh()

    # --- results ---

    def _show_result(self, text: str, warnings: tuple[str, ...] | list[str]) -> None:
        self.ui.resultLabel.text = text
        self.ui.resultLabel.visible = bool(text)
        self.ui.warningsLabel.text = "\n".join(warnings)
        self.ui.warningsLabel.visible = bool(warnings)

    def _node_removed(self, *_unused: Any) -> None:
        self._show_pairs()

    def _show_pairs(self) -> None:
        """Show the synthetic pairs of the scene in the table."""
        self._viewer.fill(self._parameters is not None)
        self.ui.saveAll.enabled = bool(self._viewer.pairs) and not self.running and not self._dispatcher.busy

    # --- saving ---

    def _save_all(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.ui.apply, _("Save all synthetic pairs in a folder"))
        if not folder or not ensure_dependencies():
            return
        out, pairs = Path(str(folder)), list(self._viewer.pairs)
        self._begin(_("Writing"))
        problem = missing_space(pairs, out)
        if problem:
            self._errors.show(Failure(problem, "", "output"))
            return
        listener = SaveListener(
            progress=lambda progress: show_progress(self.ui.progressBar, self.ui.progressLabel, progress),
            done=self._while_running(lambda written: self._saved(written, out, "")),
            failed=self._while_running(lambda written, why: self._saved(written, out, why)),
        )
        try:
            self._job = SaveJob(self._dispatcher, pairs, out, listener)
        except UserError as error:
            self._errors.show(Failure.from_error(error))
        self.refresh()

    def _saved(self, written: int, out: Path, why: str) -> None:
        text = _("{pairs} saved in {folder}.").format(pairs=number_of_pairs(written), folder=out.name)
        self._show_result(text, ())
        if why:
            self._errors.show(Failure(why, "", "input"))
        self._ended()


def _conditions(text: str) -> dict[str, str | float]:
    """Return the conditions stored in the scene; none if the text is not valid."""
    try:
        kept = json.loads(text or "{}")
    except ValueError:
        return {}
    return kept if isinstance(kept, dict) else {}


def _pace_key(settings: PairSettings) -> tuple[Any, ...]:
    """Return the settings that the time of a pair depends on."""
    return (settings.package, settings.steps, settings.device, settings.check)


def _summary(settings: PairSettings, finished: list[SyntheticPair], seconds: float, ending: str) -> str:
    """Return ``3 of 3 pairs of seed 42 in 14 s with virtual-pairs-v2, checked, 1 generated again.``"""
    again = sum(pair.provenance.get("acceptance", {}).get("attempts", 1) - 1 for pair in finished)
    words = _("{n} of {pairs} of seed {seed} in {seconds:.0f} s with {package}").format(
        n=len(finished), pairs=number_of_pairs(settings.count), seed=settings.seed, seconds=seconds,
        package=Path(settings.package or DEFAULT_GENERATOR).name,
    )  # fmt: skip
    checked = _("checked, {n} generated again").format(n=again) if settings.check else _("not checked")
    return ", ".join([words, *([checked] if finished else []), *([ending] if ending else [])]) + "."
