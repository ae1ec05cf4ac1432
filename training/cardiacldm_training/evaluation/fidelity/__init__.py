"""Fidelity of generated pairs: each figure stands beside that of held-out cases compared among themselves."""
