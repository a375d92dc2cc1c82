"""WHAT it will take: stages and keys, jobs and arrays. Runs on a login node, without torch."""
