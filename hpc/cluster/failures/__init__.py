"""Why jobs fail and wait: evidence, the table of signs, causes with their cures. `hpc why X` shows it."""
