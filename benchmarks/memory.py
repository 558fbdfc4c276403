"""What a process needed at most."""

from pathlib import Path


def peak_megabytes() -> float:
    """The most that was resident of this process, without that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
