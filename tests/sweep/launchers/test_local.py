import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpscale.runtime import available_cores, compile_cache_path
from dpscale.sweep.launchers.local import LocalLauncher
from dpscale.sweep.launchers.protocol import PYTHON, Job, Resources, Task

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="pinning and leash are Linux's")


def task(command: list[str], log: Path, **resources: float) -> Task:
    needs = Resources.from_dict(resources, where="t")
    return Task(log.stem, tuple(command), log, Path.cwd(), needs, grace_seconds=1.0)


def launch(launcher: LocalLauncher, command: list[str], log: Path, **resources: float) -> Job:
    (job,) = launcher.launch([task(command, log, **resources)])
    return job


def wait(job: Job) -> int:
    deadline = time.monotonic() + 20
    while (ended := job.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ended.exit_code is not None
    return ended.exit_code


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_what_a_command_prints_is_appended_to_its_log(tmp_path: Path) -> None:
    launcher, log = LocalLauncher(1, environment={}), tmp_path / "logs" / "a.log"
    for _ in range(2):
        code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
        assert wait(launch(launcher, python(code), log)) == 3
    assert sorted(log.read_text().split()) == ["err", "err", "out", "out"]


@linux_only
def test_each_running_command_has_a_core_of_its_own(tmp_path: Path) -> None:
    cores = available_cores()
    launcher = LocalLauncher(len(cores), environment={})
    code = "import os, time; print(sorted(os.sched_getaffinity(0))); time.sleep(0.5)"
    tasks = [task(python(code), tmp_path / f"{number}.log") for number in range(len(cores))]
    jobs = launcher.launch(tasks)
    assert [wait(job) for job in jobs] == [0] * len(cores)
    found = sorted((tmp_path / f"{number}.log").read_text() for number in range(len(cores)))
    assert found == sorted(f"[{core}]\n" for core in cores)


@linux_only
def test_a_core_is_given_again_when_its_command_has_left(tmp_path: Path) -> None:
    launcher = LocalLauncher(1, environment={})
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    for _ in range(2):
        wait(launch(launcher, python(code), tmp_path / "log"))
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first == second == f"[{available_cores()[0]}]"


@linux_only
def test_with_more_slots_than_cores_nothing_is_pinned(tmp_path: Path) -> None:
    launcher = LocalLauncher(len(available_cores()) + 1, environment={})
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    wait(launch(launcher, python(code), tmp_path / "log"))
    assert (tmp_path / "log").read_text().strip() == str(available_cores())


def test_commands_share_the_compile_cache_and_keep_the_users_settings(tmp_path: Path) -> None:
    environment = {"XLA_FLAGS": "--xla_mine=1", "XDG_CACHE_HOME": str(tmp_path)}
    code = "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR'], os.environ['XLA_FLAGS'])"
    launcher = LocalLauncher(1, environment=environment)
    wait(launch(launcher, python(code), tmp_path / "log"))
    cache, *flags = (tmp_path / "log").read_text().split()
    assert cache
    assert "--xla_mine=1" in flags


@linux_only
def test_a_pinned_command_has_the_compile_cache_of_its_own_cores(tmp_path: Path) -> None:
    # Catches: programs that were compiled on one core, taken by a process that has more.
    launcher = LocalLauncher(1, environment={"XDG_CACHE_HOME": str(tmp_path)})
    code = "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
    wait(launch(launcher, python(code), tmp_path / "log"))
    assert (tmp_path / "log").read_text().strip() == str(compile_cache_path(1))


@linux_only
def test_commands_die_with_the_process_that_launched_them(tmp_path: Path) -> None:
    # Without it a killed sweep leaves runs that write to folders the next sweep starts in.
    parent = f"""
import time
from pathlib import Path
from dpscale.sweep.launchers.local import LocalLauncher
from dpscale.sweep.launchers.protocol import Task
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
command = ({sys.executable!r}, "-S", "-c", code)
job = LocalLauncher(1, environment={{}}).launch(
    [Task("a", command, Path({str(tmp_path / "log")!r}), Path.cwd())])
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
        [sys.executable, "-m", "dpscale.sweep.launchers.leash", "1", "any", "echo", "started"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""


def test_ctrl_c_reaches_the_sweep_alone(tmp_path: Path) -> None:
    code = "import os; print(os.getpgid(0))"
    wait(launch(LocalLauncher(1, environment={}), python(code), tmp_path / "log"))
    assert int((tmp_path / "log").read_text()) != os.getpgid(0)


def test_terminate_and_kill_end_a_command(tmp_path: Path) -> None:
    launcher = LocalLauncher(1, environment={})
    for name, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
        job = launch(launcher, ["sleep", "60"], tmp_path / "log")
        getattr(job, name)()
        assert wait(job) == -number
        getattr(job, name)()  # a job that has left already is left alone


def test_no_more_tasks_than_slots_are_taken(tmp_path: Path) -> None:
    launcher = LocalLauncher(2, environment={})
    tasks = [task(["sleep", "60"], tmp_path / f"{number}.log") for number in range(3)]
    jobs = launcher.launch(tasks)
    assert len(jobs) == 2
    assert not launcher.has_room
    assert launcher.launch(tasks[2:]) == []
    launcher.close()
    assert [wait(job) for job in jobs] == [-signal.SIGKILL] * 2
    assert launcher.has_room


def test_python_is_the_interpreter_of_the_machine(tmp_path: Path) -> None:
    code = "import sys; print(sys.executable)"
    wait(launch(LocalLauncher(1, environment={}), [PYTHON, "-c", code], tmp_path / "log"))
    assert (tmp_path / "log").read_text().strip() == sys.executable


@linux_only
def test_a_task_gets_as_many_cores_as_it_needs(tmp_path: Path) -> None:
    cores = available_cores()
    launcher = LocalLauncher(1, environment={}, cores=len(cores))
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    wait(launch(launcher, python(code), tmp_path / "log", CPU=len(cores)))
    assert (tmp_path / "log").read_text().strip() == str(cores)


@linux_only
def test_the_hosts_of_a_task_find_each_other_and_share_its_cores(tmp_path: Path) -> None:
    cores = available_cores()[:2]
    launcher = LocalLauncher(1, environment={}, cores=2)
    code = "import os, sys; print(sorted(os.sched_getaffinity(0)), *sys.argv[1:])"
    assert wait(launch(launcher, python(code), tmp_path / "log", hosts=2)) == 0
    first, second = sorted(
        line.split("] ") for line in (tmp_path / "log").read_text().split("\n")[:2]
    )
    assert [first[0], second[0]] == [f"[{core}" for core in cores]
    words = [line[1].split() for line in (first, second)]
    assert words[0][:2] == words[1][:2]
    assert words[0][0] == "--coordinator"
    assert [line[2:] for line in words] == [
        ["--num-hosts", "2", "--host-index", str(index)] for index in range(2)
    ]


def test_hosts_whose_peer_has_died_are_ended_at_once(tmp_path: Path) -> None:
    code = "import sys, time; time.sleep(0.2 if sys.argv[-1] == '1' else 60); sys.exit(3)"
    launcher, started = LocalLauncher(1, environment={}), time.monotonic()
    assert wait(launch(launcher, python(code), tmp_path / "log", hosts=2)) == 3
    assert time.monotonic() - started < 15
