"""``cardiacldm evaluate``"""
def evaluate() -> None:
    """Write a virtual evaluate."""
