"""Declare, plan, run and analyse reasoning-model experiments on Slurm. Start with `hpc --help`."""

__version__ = "0.1.0"
