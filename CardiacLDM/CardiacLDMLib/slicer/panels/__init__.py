"""The module's panels: the only code besides ``scene`` that knows Slicer and Qt.

Written for PythonQt: properties are attributes (``button.enabled = True``), Qt calls take no keyword arguments, and
what a connection or a timer needs is kept referenced.
"""
