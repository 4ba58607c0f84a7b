"""Process settings: the compile cache, and an allocator that keeps freed memory."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpscale import runtime
from dpscale.runtime import (
    available_cores,
    compile_cache_path,
    keep_freed_memory,
    with_compile_cache,
)

glibc_only = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's mallopt"
)

# Page faults of ten buffers of 100 MiB, one after the other, each written to and freed.
REUSE = """
import resource, threading
from dpscale.runtime import keep_freed_memory
if {keeps}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use_again_and_again():
    bytearray(100 << 20)
    before = faults()
    for _ in range(10):
        bytearray(100 << 20)
    print(faults() - before)
if {in_thread}:
    thread = threading.Thread(target=use_again_and_again)
    thread.start()
    thread.join()
else:
    use_again_and_again()
"""
PAGES = (100 << 20) // os.sysconf("SC_PAGE_SIZE")


def faults(*, keeps: bool, in_thread: bool, **environment: str) -> int:
    clean = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    clean.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", REUSE.format(keeps=keeps, in_thread=in_thread)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_the_compile_cache_is_in_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compile_cache_path(2) == tmp_path / "dpscale" / "xla" / "2-cores"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compile_cache_path(2) == tmp_path / ".cache" / "dpscale" / "xla" / "2-cores"


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_what_was_compiled_on_fewer_cores_is_not_taken_on_more() -> None:
    # XLA divides operations by the cores of the process that compiles, which JAX's key leaves out.
    code = (
        "from dpscale.runtime import *; print(with_compile_cache({})['JAX_COMPILATION_CACHE_DIR'])"
    )
    pinned = f"import os; os.sched_setaffinity(0, {available_cores()[:1]}); {code}"
    (one,) = subprocess.check_output([sys.executable, "-c", pinned], text=True).splitlines()
    assert one == str(compile_cache_path(1))
    here = with_compile_cache({})["JAX_COMPILATION_CACHE_DIR"]
    assert here == str(compile_cache_path(len(available_cores())))


def test_short_compilations_are_kept_too() -> None:
    # JAX drops compilations under a second by default, and a sweep's small models are that.
    found = with_compile_cache({})
    assert found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    assert found["JAX_COMPILATION_CACHE_DIR"] == str(compile_cache_path(len(available_cores())))


def test_what_the_user_set_wins_and_the_rest_is_passed_on() -> None:
    mine = {"JAX_COMPILATION_CACHE_DIR": "mine", "PATH": "p"}
    found = with_compile_cache(mine)
    assert {key: found[key] for key in mine} == mine
    assert mine == {"JAX_COMPILATION_CACHE_DIR": "mine", "PATH": "p"}


@glibc_only
@pytest.mark.parametrize("in_thread", [False, True])
def test_freed_memory_is_used_again_without_a_page_fault(in_thread: bool) -> None:
    # Catches: a parameter number or value that glibc reads differently; and settings that hold
    # for the main thread only, while the device computes in others.
    assert faults(keeps=True, in_thread=in_thread) < PAGES / 10
    huge_pages = 512  # where the kernel hands them out, a fault is worth that many
    assert faults(keeps=False, in_thread=in_thread) >= 10 * PAGES / huge_pages


HUGE = """
from dpscale.runtime import keep_freed_memory
keep_freed_memory()
kept = bytearray(100 << 20)
lines = open("/proc/self/smaps_rollup").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("AnonHugePages")))
"""


@glibc_only
@pytest.mark.parametrize(
    ("tunables", "is_huge"), [("", True), ("glibc.malloc.hugetlb=0", False)], ids=["ours", "theirs"]
)
def test_the_heap_asks_for_huge_pages(tunables: str, is_huge: bool) -> None:
    # Catches: advice for other addresses than the heap's next ones; what the user set, undone.
    policy = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = policy.read_text() if policy.exists() else "[never]"
    expected = "[always]" in chosen or ("[madvise]" in chosen and is_huge)
    done = subprocess.run(
        [sys.executable, "-c", HUGE],
        env={**os.environ, "GLIBC_TUNABLES": tunables},
        capture_output=True,
        text=True,
        check=True,
    )
    # In kB. Not all of it: the kernel may find no free huge page for some.
    assert (int(done.stdout) > 50_000) == expected


@glibc_only
@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_MMAP_MAX_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}],
)
def test_an_allocator_setting_of_the_user_wins(environment: dict[str, str]) -> None:
    assert faults(keeps=True, in_thread=False, **environment) >= 10 * PAGES / 512


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(name: str | None) -> object:
        raise AssertionError("looked for a C library")

    monkeypatch.setattr(runtime.sys, "platform", "darwin")
    monkeypatch.setattr(runtime.ctypes, "CDLL", unexpected)
    keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.sys, "platform", "linux")
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: object())
    keep_freed_memory()


def test_a_process_is_prepared_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a verb's process without its compile cache or its allocator.
    called = []
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: called.append("allocator"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "mine")
    runtime.prepare_process()
    assert called == ["allocator"]
    expected = str(compile_cache_path(len(available_cores())))
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == expected
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "mine"


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("4", "4")])
def test_one_blas_thread_unless_the_environment_says_otherwise(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
    runtime.use_one_blas_thread()
    assert os.environ["OPENBLAS_NUM_THREADS"] == after
