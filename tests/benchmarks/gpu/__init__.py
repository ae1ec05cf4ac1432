"""The parts of the check of a GPU, see ``tests/benchmarks/gpu_check.py``."""
