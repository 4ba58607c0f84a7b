"""Sweeps on a real Ray cluster of several nodes on loopback, and what it does to them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_sweep import ended, statuses, sweep_run, task
from process_table import descendants, is_alive, parent_of, wait_until
from real_sweep import dpscale, finish, furthest_step, losses, make_folder, trainings

from dpscale.config import RunConfig
from dpscale.errors import InputError, RunInterrupted
from dpscale.sweep.launchers.local import LocalLauncher
from dpscale.sweep.launchers.protocol import EngineLost, Task
from dpscale.sweep.launchers.ray import RayLauncher
from dpscale.sweep.launchers.ray_driver import reason_of
from dpscale.sweep.runner import SweepSettings
from dpscale.sweep.survey import RunState

pytestmark = pytest.mark.cluster


class Cluster:
    """Nodes as process groups, so that a node can die like a machine: all at once."""

    def __init__(self, folder: str) -> None:
        self._folder = folder  # short: Ray's sockets lie below it
        self.port = free_port()
        self.nodes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *, cpus: int = 1, resources: dict[str, float] | None = None) -> int:
        """Starts a node, the first one with the head; returns its number."""
        where = ["--address", self.address]
        if not self.nodes:
            where = ["--head", "--port", str(self.port), "--temp-dir", self._folder]
            where += ["--include-dashboard", "false"]
        # A module for `ray`'s script, which a venv without entry points has too.
        ray = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; main()"]
        command = [*ray, "start", *where, "--block", "--num-cpus", str(cpus)]
        command += ["--node-ip-address", "127.0.0.1", "--disable-usage-stats"]
        command += ["--object-store-memory", str(80 * 2**20)]
        if resources:
            command += ["--resources", json.dumps(resources)]
        path = Path(self._folder) / f"node{len(self.nodes)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(process)
        wait_until(lambda: self._is_up(process, path), seconds=90)
        return len(self.nodes) - 1

    def lose(self, node: int) -> None:
        """Kills every process of a node, as if its machine were switched off."""
        process = self.nodes[node]
        for child in descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for node in reversed(range(len(self.nodes))):
            self.lose(node)

    @staticmethod
    def _is_up(process: subprocess.Popen[bytes], log: Path) -> bool:
        text = log.read_text(errors="replace")
        assert process.poll() is None, text
        return "Ray runtime started" in text


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # loopback; no token file in anybody's home
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    with tempfile.TemporaryDirectory(
        prefix="ray", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        nodes = Cluster(folder)
        try:
            yield nodes
        finally:
            nodes.stop()


@pytest.fixture
def launcher(cluster: Cluster) -> Iterator[Callable[[], RayLauncher]]:
    """Connects to the cluster; lets go of it at the end."""
    opened: list[RayLauncher] = []

    def connect() -> RayLauncher:
        opened.append(RayLauncher(address=cluster.address))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_points_run_where_there_are_resources_and_print_to_their_logs(
    cluster: Cluster, launcher: Callable[[], RayLauncher], fake: Any, tmp_path: Path
) -> None:
    cluster.start(cpus=1)
    cluster.start(cpus=2, resources={"TPU": 4})
    ray = launcher()
    assert statuses(sweep_run(fake, ray).run()) == ["finished"] * 3
    (job,) = ray.launch([task(tmp_path, "print('on a TPU')", TPU=4, CPU=1)])
    assert ended(job) == 0
    assert (tmp_path / "t.log").read_text() == "on a TPU\n"
    # Custom resources are counted: the second waits for the first, though cores are free.
    many = [task(tmp_path, "import time; time.sleep(1.5)", TPU=4, CPU=0.5) for _ in range(2)]
    first, second = ray.launch(many)
    wait_until(lambda: first.poll() is None and first.has_started)
    time.sleep(0.5)
    second.poll()
    assert not second.has_started
    assert [ended(first), ended(second)] == [0, 0]


def test_a_worker_killed_in_mid_run_is_started_again(
    cluster: Cluster, launcher: Callable[[], RayLauncher], fake: Any, points: list[RunConfig]
) -> None:
    cluster.start(cpus=2)
    fake.plan({points[0].run_id: "hang once"})
    killed: list[int] = []

    def kill_worker(states: list[RunState]) -> None:
        if states[0].step == 10 and not killed:
            process = next(s["pid"] for s in fake.starts() if s["out"].endswith(points[0].run_id))
            worker = parent_of(process)
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: not is_alive(process))  # it ends with its worker
            killed.append(worker)

    assert statuses(sweep_run(fake, launcher(), observe=kill_worker).run()) == ["finished"] * 3
    assert killed
    assert fake.started_runs().count(points[0].run_id) == 2


def test_a_node_lost_and_another_added(
    cluster: Cluster, launcher: Callable[[], RayLauncher], fake: Any, points: list[RunConfig]
) -> None:
    cluster.start(cpus=0)
    lost = cluster.start(cpus=1)
    fake.plan(dict.fromkeys((point.run_id for point in points), "hang once"))
    swapped: list[int] = []

    def swap(states: list[RunState]) -> None:
        if any(state.step == 10 for state in states) and not swapped:
            cluster.lose(lost)
            swapped.append(cluster.start(cpus=3))
            fake.plan()

    assert statuses(sweep_run(fake, launcher(), observe=swap).run()) == ["finished"] * 3
    assert swapped


def test_a_node_that_is_taken_back_lets_its_run_save_and_go_on_elsewhere(
    cluster: Cluster, launcher: Callable[[], RayLauncher], fake: Any, points: list[RunConfig]
) -> None:
    cluster.start(cpus=0)
    leaving = cluster.start(cpus=1)
    fake.plan({points[0].run_id: "hang once"})
    told: list[float] = []

    def take_back(states: list[RunState]) -> None:
        if states[0].step == 10 and not told:
            told.append(time.monotonic())
            cluster.nodes[leaving].terminate()
            process = next(s["pid"] for s in fake.starts() if s["out"].endswith(points[0].run_id))
            wait_until(lambda: not is_alive(process), seconds=20)  # Ray would kill it after 30
            cluster.start(cpus=1)

    run = sweep_run(fake, launcher(), observe=take_back)
    assert statuses(run.run()) == ["finished"] * 3
    status = run.folder.run_dir(points[0].run_id) / "status.json"
    assert json.loads(status.read_text())["status"] == "interrupted"  # of the first start
    assert fake.started_runs().count(points[0].run_id) == 2


def test_a_point_that_always_fails_harms_no_other(
    cluster: Cluster, launcher: Callable[[], RayLauncher], fake: Any, points: list[RunConfig]
) -> None:
    cluster.start(cpus=2)
    fake.plan({points[1].run_id: "crash"})
    run = sweep_run(fake, launcher(), settings=SweepSettings(retries=1, poll_seconds=0.05))
    states = run.run()
    assert statuses(states) == ["finished", "failed", "finished"]
    assert states[1].error == "exit code 1 without a result: ValueError: the disk is full"
    assert fake.started_runs().count(points[1].run_id) == 2


def test_a_stop_lets_runs_save_drops_what_waits_and_another_engine_goes_on(
    cluster: Cluster, launcher: Callable[[], RayLauncher], fake: Any, points: list[RunConfig]
) -> None:
    cluster.start(cpus=2)
    fake.plan(dict.fromkeys((point.run_id for point in points), "hang once"))
    seen: list[list[RunState]] = []
    run = sweep_run(
        fake,
        launcher(),
        observe=seen.append,
        stop_requests=lambda: int(bool(seen) and sum(s.step > 0 for s in seen[-1]) == 2),
    )
    with pytest.raises(RunInterrupted):
        run.run()
    written = [path.read_text() for path in run.folder.root.glob("runs/*/status.json")]
    assert [json.loads(text)["status"] for text in written] == ["interrupted"] * 2
    assert not any(is_alive(start["pid"]) for start in fake.starts())
    fake.plan()
    local = LocalLauncher(2, environment={})
    assert statuses(sweep_run(fake, local).run()) == ["finished"] * 3


def test_closing_leaves_nothing_behind(
    cluster: Cluster, launcher: Callable[[], RayLauncher], tmp_path: Path
) -> None:
    cluster.start(cpus=1)
    ray = launcher()
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    jobs = ray.launch([task(tmp_path, code), task(tmp_path, code)])
    wait_until(lambda: jobs[0].poll() is None and (tmp_path / "t.log").exists())
    wait_until(lambda: (tmp_path / "t.log").read_text().endswith("\n"))
    ray.close()
    wait_until(lambda: not is_alive(int((tmp_path / "t.log").read_text())))
    other = launcher()  # the cluster has its core again
    assert ended(other.launch([task(tmp_path, "pass")])[0]) == 0


def test_without_its_head_a_sweep_ends_soon_and_can_go_on(
    cluster: Cluster, launcher: Callable[[], RayLauncher], fake: Any, points: list[RunConfig]
) -> None:
    cluster.start(cpus=0)
    cluster.start(cpus=1)
    fake.plan({points[0].run_id: "hang once"})
    lost: list[float] = []

    def lose_head(states: list[RunState]) -> None:
        if states[0].step == 10 and not lost:
            cluster.lose(0)
            lost.append(time.monotonic())

    with pytest.raises(EngineLost, match="the Ray cluster is gone"):
        sweep_run(fake, launcher(), observe=lose_head).run()
    assert time.monotonic() - lost[0] < 60
    cluster.stop()
    wait_until(lambda: not any(is_alive(start["pid"]) for start in fake.starts()))
    assert statuses(sweep_run(fake, LocalLauncher(2, environment={})).run()) == ["finished"] * 3


def test_hosts_of_a_point_run_on_nodes_of_their_own_and_find_each_other(
    cluster: Cluster, launcher: Callable[[], RayLauncher], tmp_path: Path
) -> None:
    cluster.start(cpus=1)
    cluster.start(cpus=1)
    code = "import sys; print(*sys.argv[1:], flush=True)"
    (job,) = launcher().launch([task(tmp_path, code, hosts=2, CPU=1)])
    assert ended(job) == 0
    first, second = sorted(line.split() for line in (tmp_path / "t.log").read_text().splitlines())
    assert first[:4] == second[:4] == ["--coordinator", first[1], "--num-hosts", "2"]
    assert [first[4:], second[4:]] == [["--host-index", "0"], ["--host-index", "1"]]


def test_a_gang_that_loses_one_ends_whole_and_frees_its_place(
    cluster: Cluster, launcher: Callable[[], RayLauncher], tmp_path: Path
) -> None:
    cluster.start(cpus=2)
    ray = launcher()
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    (job,) = ray.launch([task(tmp_path, code, hosts=2)])
    wait_until(
        lambda: (
            job.poll() is None
            and (tmp_path / "t.log").exists()
            and len((tmp_path / "t.log").read_text().splitlines()) == 2
        )
    )
    pids = [int(line) for line in (tmp_path / "t.log").read_text().split()]
    os.kill(parent_of(pids[1]), signal.SIGKILL)
    assert ended(job) is None
    wait_until(lambda: not any(map(is_alive, pids)))
    again = ray.launch([task(tmp_path, "pass", hosts=2)])
    assert ended(again[0]) == 0


def test_a_folder_that_workers_do_not_see_is_named(
    cluster: Cluster, launcher: Callable[[], RayLauncher], tmp_path: Path
) -> None:
    cluster.start(cpus=1)
    elsewhere = Task("t", ("true",), tmp_path / "log", tmp_path / "missing")
    (job,) = launcher().launch([elsewhere])
    assert ended(job) is None
    end = job.poll()
    assert end is not None
    assert f"does not see {tmp_path / 'missing'}; share that folder with it" in end.reason


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        ("System error: No module named 'dpscale'\ntraceback: ...", "dpscale is not installed on"),
        ("System error: no memory\ntraceback: ...\n", "System error: no memory"),
    ],
)
def test_what_a_worker_could_not_do_is_one_line(cause: str, reason: str) -> None:
    from ray.exceptions import RayTaskError

    said = reason_of(RayTaskError("run_host", "a traceback", RuntimeError(cause)))
    assert said.startswith(reason)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("ray://127.0.0.1:10001", "give HOST:PORT of its head; Ray's client protocol is not"),
        ("nowhere.invalid:6379", "not known"),
    ],
)
def test_no_cluster_at_an_address_is_one_line(address: str, reason: str) -> None:
    with pytest.raises(InputError) as error:
        RayLauncher(address=address)
    assert error.value.where == "RAY_ADDRESS"
    assert error.value.message.startswith(f"no Ray cluster at {address!r} (")
    assert reason in error.value.message


def test_the_real_command_survives_a_killed_worker_a_lost_head_and_ctrl_c(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Ends with the results of a sweep that nothing happened to, bit for bit."""
    folder, rough = make_folder(tmp_path), tmp_path / "rough"
    assert finish(dpscale(folder, "sweep", "s.toml", "--out", "calm", "--jobs", "1"))[0] == 0
    command = ("sweep", "s.toml", "--out", str(rough), "--launcher", "ray")
    cluster.start(cpus=1)
    process = dpscale(folder, *command, RAY_ADDRESS=cluster.address)
    wait_until(lambda: furthest_step(rough) >= 10, seconds=120)
    (train,) = trainings(rough)
    os.kill(parent_of(train), signal.SIGKILL)
    wait_until(lambda: not is_alive(train))
    wait_until(lambda: furthest_step(rough) >= 20, seconds=120)
    process.send_signal(signal.SIGINT)
    code, text = finish(process)
    assert code == 75, text
    assert not trainings(rough)
    process = dpscale(folder, *command, RAY_ADDRESS=cluster.address)
    wait_until(lambda: bool(trainings(rough)), seconds=120)
    cluster.lose(0)
    code, text = finish(process)
    assert code == 75, text
    assert "the Ray cluster is gone" in text
    code, text = finish(dpscale(folder, *command))  # Ray on this computer
    assert code == 0, text
    assert losses(rough) == losses(folder / "calm")
    code, text = finish(dpscale(folder, *command))
    assert code == 0, text
    assert "2 finished" in text


def test_a_point_over_two_hosts_trains_as_on_one(cluster: Cluster, tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert finish(dpscale(folder, "sweep", "s.toml", "--out", "one", "--jobs", "1"))[0] == 0
    make_folder(tmp_path, hosts=2)
    cluster.start(cpus=1)
    cluster.start(cpus=1)
    command = ("sweep", "s.toml", "--out", "two", "--launcher", "ray")
    code, text = finish(dpscale(folder, *command, RAY_ADDRESS=cluster.address))
    assert code == 0, text
    assert losses(folder / "two") == pytest.approx(losses(folder / "one"), rel=1e-5)
