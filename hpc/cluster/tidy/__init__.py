"""What may be deleted: `hpc gc`."""
