"""A stand-in for a Slicer application: the unchanged module and its .ui files run in PySide6 on the real MRML scene.

    host = start_host()                     # once a process; later calls return the same host
    widget = open_module("CardiacLDM")      # the module's widget, its parts as in Slicer: widget.ui, widget.logic
    pump(until=lambda: ..., seconds=30)     # run the event loop
    host.check()                            # raises what slots, timers and observers raised meanwhile

It doubles Qt, CTK, the qMRML widgets and Slicer's pure Python helpers, nothing of MRML. It is strict where PythonQt is
strict or fails in silence (see pythonqt.py); where a real Slicer differs, the real Slicer is right.
"""

from .application import Host, close_module, open_module, reload_module, start_host
from .loop import Heartbeat, held_ms, pump

__all__ = ["Heartbeat", "Host", "close_module", "held_ms", "open_module", "pump", "reload_module", "start_host"]
