"""What this machine has left for more processes: memory and cores, as its limits on this process have it."""

import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_ANSWER_SECONDS = 20


def available_memory() -> float:
    """Bytes that can be taken without pushing something else out; infinite where the system does not say."""
    room = []
    for group in _control_groups():
        limit, used = _text(group / "memory.max"), _text(group / "memory.current")
        if limit.isdecimal() and used.isdecimal():
            # File pages that can be dropped count as free.
            kept = dict(line.split() for line in _text(group / "memory.stat").splitlines())
            room.append(max(0, int(limit) - int(used) + int(kept.get("inactive_file", 0))))
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            room.append(int(line.split()[1]) * 1024)
    return min(room, default=math.inf)


def fitting_processes(bytes_each: float, most: int) -> int:
    """How many processes that each keep two cores busy suit this machine, by cores and memory: 1 to `most`.

    Args:
        bytes_each: memory that one process takes.
        most: the largest number to answer.
    """
    return int(max(1, min(most, usable_cores() // 2, available_memory() // bytes_each)))


def usable_cores() -> int:
    """Cores that this process may run on, at least 1; a container's share of their time counts."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(allowed)]
    for folder in _control_groups():
        quota = _text(folder / "cpu.max").split()  # Time that the group may use, and the period that it is for.
        if len(quota) == 2 and quota[0].isdecimal():
            shares.append(int(quota[0]) / int(quota[1]))
    return max(1, math.floor(min(shares)))


def has_gpu() -> bool:
    """Whether this process may use a GPU of NVIDIA's, as device files and CUDA_VISIBLE_DEVICES have it."""
    return any(Path("/dev").glob("nvidia[0-9]*")) and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")


def gpu_memory() -> float:
    """Bytes that are free on the GPU that this process uses, the first one that it sees; 0 where nobody says."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    query = ["nvidia-smi", f"--id={chosen}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True).stdout
        return float(told.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0.0


def _control_groups() -> Iterator[Path]:
    """The folders of this process's control group and of all above it, in the unified hierarchy."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::"):
            own = _CGROUPS / line.removeprefix("0::").lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(_CGROUPS))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
