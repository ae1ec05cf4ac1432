"""``cardiacldm cohort``"""
def cohort() -> None:
    """Write a virtual cohort."""
