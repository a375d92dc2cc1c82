"""What a cluster is like: `hpc doctor` and its checks, probe, draft of a profile and build of kernels."""
