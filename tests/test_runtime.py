import sys
from pathlib import Path

import pytest

from dpscale.runtime import compile_cache_path, with_compile_cache, worker_environment


def test_the_compile_cache_is_in_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compile_cache_path() == tmp_path / "dpscale" / "xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compile_cache_path() == tmp_path / ".cache" / "dpscale" / "xla"


def test_short_compilations_are_kept_too() -> None:
    # JAX drops compilations under a second by default, and a sweep's small models are that.
    found = with_compile_cache({})
    assert found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    assert found["JAX_COMPILATION_CACHE_DIR"] == str(compile_cache_path())


def test_what_the_user_set_wins_and_the_rest_is_passed_on() -> None:
    mine = {"JAX_COMPILATION_CACHE_DIR": "mine", "MALLOC_MMAP_MAX_": "7", "PATH": "p"}
    found = worker_environment(mine)
    assert {key: found[key] for key in mine} == mine
    assert mine == {"JAX_COMPILATION_CACHE_DIR": "mine", "MALLOC_MMAP_MAX_": "7", "PATH": "p"}


@pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
def test_a_worker_keeps_freed_memory() -> None:
    assert {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"} <= set(worker_environment({}))
