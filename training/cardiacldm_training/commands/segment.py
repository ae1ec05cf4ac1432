"""``cardiacldm segment``"""
def segment() -> None:
    """Write a virtual segment."""
