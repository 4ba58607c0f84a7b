"""Process settings that must stand before Python, or JAX, starts; it imports nothing of ours.

They are applied to child processes (sweep workers, quickstart's stages) through their
environment.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def compile_cache_path() -> Path:
    """Where compiled programs are kept between processes: the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "dpscale" / "xla"


def with_compile_cache(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with JAX's persistent compilation cache on, unless it is set already.

    Every compilation is kept, however quick: a sweep of short runs starts many processes
    that need the same few programs.
    """
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(compile_cache_path()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {**defaults, **environment}


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a training process.

    glibc gives freed memory back to the kernel eagerly, and a training step that asks for
    the same megabytes again pays for page faults; the two allocator settings keep it.
    """
    allocator = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
    settings = allocator if sys.platform == "linux" else {}
    return {**settings, **with_compile_cache(environment)}
