"""Experiments: networks trained by several arms, protocols and seeds of one plan, tested on the same cases."""
