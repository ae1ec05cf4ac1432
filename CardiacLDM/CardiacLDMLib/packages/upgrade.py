"""Read manifests of older schema versions."""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 2

#: Fields of the entry ``generator`` that schema 1 kept flat, and that schema 2 keeps in ``sampling``.
_SAMPLING = ("schedule", "solver", "steps", "guidance", "time_shift")
#: Settings of schema 1 that are post-processing steps in schema 2: (old field, step, its field).
_STEPS = (
    ("smoothing", "smooth_latents", "widths"),
    ("deblocking_hu", "deblock", "width_hu"),
    ("tone", "tone", "curve"),
    ("texture", "texture", "spectra"),
)


def upgrade(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a manifest of schema 1 or 2 in schema 2.

    Nothing is checked here: validation of the result refuses values that schema 1 did not allow.
    """
    if manifest.get("schema_version") != 1:
        return manifest
    upgraded = {**manifest, "schema_version": SCHEMA_VERSION}
    if isinstance(manifest.get("generator"), dict):
        upgraded["generator"] = _nested(manifest["generator"])
    return upgraded


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return the generator's record of schema 1 in schema 2."""
    moved = {*_SAMPLING, "restarts", "restart_gains", *(old for old, _, _ in _STEPS)}
    sampling = {"solver": "euler", **{name: flat[name] for name in _SAMPLING if name in flat}}
    restarts = _restarts(flat.get("restarts", []), flat.get("restart_gains", []))
    steps = [{"step": step, field: flat[old]} for old, step, field in _STEPS if flat.get(old) not in (None, [], {})]
    return {
        **{name: value for name, value in flat.items() if name not in moved},
        "sampling": {**sampling, "restarts": restarts},
        "postprocess": steps,
    }


def _restarts(times: Any, gains: Any) -> Any:
    """Return the restarts as records. Values that schema 1 did not allow are passed on for validation to refuse."""
    if not isinstance(times, list):
        return times
    if gains and (not isinstance(gains, list) or len(gains) != len(times)):
        return [{"time": time, "gains": gains} for time in times] or gains
    return [{"time": time, "gains": own} for time, own in zip(times, gains or [[]] * len(times), strict=True)]
