import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpscale.sweep.launcher import LocalJob, LocalLauncher, available_cores

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="pinning and leash are Linux's")


def wait(job: LocalJob) -> int:
    deadline = time.monotonic() + 20
    while (code := job.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return code


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_what_a_command_prints_is_appended_to_its_log(tmp_path: Path) -> None:
    launcher, log = LocalLauncher(1, environment={}), tmp_path / "logs" / "a.log"
    for _ in range(2):
        code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
        assert wait(launcher.launch(python(code), log=log)) == 3
    assert sorted(log.read_text().split()) == ["err", "err", "out", "out"]


@linux_only
def test_each_running_command_has_a_core_of_its_own(tmp_path: Path) -> None:
    cores = available_cores()
    launcher = LocalLauncher(len(cores), environment={})
    code = "import os, time; print(sorted(os.sched_getaffinity(0))); time.sleep(0.5)"
    jobs = [
        launcher.launch(python(code), log=tmp_path / f"{number}.log")
        for number in range(len(cores))
    ]
    assert [wait(job) for job in jobs] == [0] * len(cores)
    found = sorted((tmp_path / f"{number}.log").read_text() for number in range(len(cores)))
    assert found == sorted(f"[{core}]\n" for core in cores)


@linux_only
def test_a_core_is_given_again_when_its_command_has_left(tmp_path: Path) -> None:
    launcher = LocalLauncher(1, environment={})
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    for _ in range(2):
        wait(launcher.launch(python(code), log=tmp_path / "log"))
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first == second == f"[{available_cores()[0]}]"


@linux_only
def test_with_more_slots_than_cores_nothing_is_pinned(tmp_path: Path) -> None:
    launcher = LocalLauncher(len(available_cores()) + 1, environment={})
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    wait(launcher.launch(python(code), log=tmp_path / "log"))
    assert (tmp_path / "log").read_text().strip() == str(available_cores())


def test_commands_share_the_compile_cache_and_keep_the_users_settings(tmp_path: Path) -> None:
    environment = {"XLA_FLAGS": "--xla_mine=1", "XDG_CACHE_HOME": str(tmp_path)}
    code = "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR'], os.environ['XLA_FLAGS'])"
    wait(LocalLauncher(1, environment=environment).launch(python(code), log=tmp_path / "log"))
    cache, *flags = (tmp_path / "log").read_text().split()
    assert cache
    assert "--xla_mine=1" in flags


@linux_only
def test_commands_die_with_the_process_that_launched_them(tmp_path: Path) -> None:
    # Without it a killed sweep leaves runs that write to folders the next sweep starts in.
    parent = f"""
import time
from pathlib import Path
from dpscale.sweep.launcher import LocalLauncher
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
job = LocalLauncher(1, environment={{}}).launch(
    [{sys.executable!r}, "-S", "-c", code],
    log=Path({str(tmp_path / "log")!r}))
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", parent])
    deadline = time.monotonic() + 20
    while not ((tmp_path / "log").exists() and (tmp_path / "log").read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child = int((tmp_path / "log").read_text())
    assert alive(child)
    process.kill()
    process.wait()
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@linux_only
def test_a_command_whose_parent_is_gone_before_the_leash_is_on_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dpscale.sweep.leash", "1", "any", "echo", "started"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""


def test_ctrl_c_reaches_the_sweep_alone(tmp_path: Path) -> None:
    code = "import os; print(os.getpgid(0))"
    wait(LocalLauncher(1, environment={}).launch(python(code), log=tmp_path / "log"))
    assert int((tmp_path / "log").read_text()) != os.getpgid(0)


def test_terminate_and_kill_end_a_command(tmp_path: Path) -> None:
    launcher = LocalLauncher(1, environment={})
    for end, number in ((LocalJob.terminate, signal.SIGTERM), (LocalJob.kill, signal.SIGKILL)):
        job = launcher.launch(["sleep", "60"], log=tmp_path / "log")
        end(job)
        assert wait(job) == -number
        end(job)  # a job that has left already is left alone
