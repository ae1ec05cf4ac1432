"""Virtual cases: hearts (``heart``), the bodies around them (``body``) and a virtual scanner (``scanner``)."""
