"""The module's panels: the only code of the library that uses Qt.

Written for PythonQt: properties are attributes (``button.enabled = True``), Qt calls take no keyword arguments, and
what a connection or a timer needs is kept referenced.
"""
