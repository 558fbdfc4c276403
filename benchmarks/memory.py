"""The peak memory of a process."""

from pathlib import Path


def peak_megabytes() -> float:
    """The peak resident memory of this process, without that of its parent."""
    # Not getrusage: its ru_maxrss begins with the memory of the parent.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
