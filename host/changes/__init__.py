"""Changes of plugins while the kernel runs: led by the parent, followed by every worker."""
