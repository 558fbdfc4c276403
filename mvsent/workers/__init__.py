"""Where work runs: this process, other processes, Ray, ranks."""
