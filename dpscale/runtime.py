"""Process settings that must stand before JAX or NumPy is imported; it imports nothing of ours.

Every verb that computes with JAX calls `prepare_process` first, so that a run is the same
whether a person, a sweep or quickstart started it.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dpscale.paths import cache_folder


def prepare_process() -> None:
    """The settings of a process that trains or evaluates; call it before importing JAX.

    What the environment sets already stays as it is. For a process of one's own: libraries
    leave it to the program that imports them, and so does `dpscale.training.loop.train`.
    """
    os.environ.update(with_compile_cache(os.environ))
    keep_freed_memory()


def use_one_blas_thread() -> None:
    """Keeps NumPy's matrix products in one thread; call it before importing NumPy.

    They are small here: on a busy computer waiting for a second thread made accounting 3 to 6
    times slower. JAX has threads of its own. What the environment sets already stays as it is.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def compile_cache_path(cores: int) -> Path:
    """Where compiled programs are kept between processes: in the user's cache folder.

    XLA divides a CPU's operations by the cores that the compiling process may use, and JAX's key
    does not tell such programs apart: a private gradient that was compiled on one core took 1.05
    to 1.1 of the time on two (`docs/performance.md`). So each number of cores has a folder.
    """
    return cache_folder() / "xla" / f"{cores}-cores"


def with_compile_cache(
    environment: Mapping[str, str], *, cores: int | None = None
) -> dict[str, str]:
    """`environment` with JAX's persistent compilation cache on, unless it is set already.

    Every compilation is kept, however quick: a sweep of short runs starts many processes
    that need the same few programs.

    Args:
      environment: Of the process that is to be.
      cores: How many that process may use; absent: as many as this one.
    """
    cores = cores or len(available_cores())
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(compile_cache_path(cores)),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {**defaults, **environment}


class _MallocSetting(NamedTuple):
    """A parameter of glibc's allocator: the variable and tunable that also set it."""

    variable: str
    tunable: str
    parameter: int
    value: int


_KEEP_FREED = (
    _MallocSetting("MALLOC_MMAP_MAX_", "glibc.malloc.mmap_max", -4, 0),
    _MallocSetting("MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold", -1, -1),
    _MallocSetting("MALLOC_ARENA_MAX", "glibc.malloc.arena_max", -8, 1),
)
"""Parameter numbers of mallopt(3). It takes an int; -1 becomes the largest size_t."""


def keep_freed_memory() -> None:
    """Makes glibc's allocator keep what is freed, in huge pages, for the next step to use.

    Without it large buffers go back to the kernel as they are freed, and a step on a CPU that
    asks for the same megabytes again pays a page fault for each 4 KiB: some tenth of its time,
    or more. No memory of its own for large buffers, no trimming of the heap, and one arena for
    all threads: a further arena cannot hold 64 MiB at once, and buffers above that would be
    mapped and unmapped whatever the other two say. The price is memory: such a process was
    seen to hold up to 1.9 times as much at its peak, and never gives it back.

    The heap then asks for pages of 2 MiB, where the kernel gives them on request only: buffers
    of megabytes in pages of 4 KiB cost another sixth of a step in address translation.

    Does nothing without glibc, and leaves alone what an environment variable sets. Threads
    that have allocated before keep their arenas, so call it first of all.
    """
    if sys.platform != "linux":
        return
    glibc = ctypes.CDLL(None)
    mallopt = getattr(glibc, "mallopt", None)
    if mallopt is None:  # another C library
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    for setting in _KEEP_FREED:
        if setting.variable not in os.environ and setting.tunable not in tunables:
            mallopt(setting.parameter, setting.value)
    if "glibc.malloc.hugetlb" not in tunables:
        _use_huge_pages(glibc)


_HUGE_PAGE = 2 << 20
_MADV_HUGEPAGE = 14


def _use_huge_pages(glibc: ctypes.CDLL) -> None:
    """Extends the heap by half of the machine's memory, and asks for huge pages there.

    The glibc tunable for this must stand before the process starts. Nothing is touched, so that
    no memory is used; what a limit on the process refuses is left at small pages.
    """
    glibc.malloc.restype = ctypes.c_void_p
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    start = glibc.malloc(ctypes.c_size_t(size))
    if not start:
        return
    first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    length = (start + size - first) // _HUGE_PAGE * _HUGE_PAGE
    glibc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_HUGEPAGE)
    glibc.free(ctypes.c_void_p(start))
