"""Benchmarks beside peers; see bench/run.py."""

from hpc.errors import HpcError


class Absent(HpcError):
    """What a benchmark measures on is not here: `make bench` goes on without it."""
