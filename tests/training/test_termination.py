"""Two real hosts that are told to leave, and what becomes of one whose peer is gone."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from process_table import is_alive, wait_until
from real_sweep import CORPUS, dpscale, finish

from dpscale.records import Status, read_status, saved_step
from dpscale.sweep.launchers.gang import free_port, host_command
from dpscale.training.hosts import HEARTBEAT_SECONDS
from dpscale.training.termination import KILLED_BY_SIGTERM

CONFIG = """
purpose = "law-fitting"
model = { vocab_size = 1024, seq_len = 16, shape = "w16" }
data = { path = "data", num_eval_units = 0 }
optimizer = { learning_rate = 0.03 }
training = { iterations = 100000, metrics_every = 5, checkpoint_every = 5 }
law_fitting = { physical_batch_size = 8, noise_batch_ratio = 0.001 }
"""

Hosts = list[subprocess.Popen[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    code, text = finish(dpscale(folder, "prepare", *CORPUS, "--seq-len", "16", "--out", "data"))
    assert code == 0, text
    (folder / "c.toml").write_text(CONFIG)
    return folder


@pytest.fixture
def hosts(folder: Path, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """Two that have taken their first steps together."""
    out = request.node.name
    command = ("train", "c.toml", "--out", out, "--grace-seconds", "8")
    coordinator = f"127.0.0.1:{free_port()}"
    started = [
        dpscale(
            folder,
            *host_command(command, coordinator=coordinator, num_hosts=2, host_index=index),
            JAX_PLATFORMS="cpu",
        )
        for index in range(2)
    ]
    wait_until(lambda: (saved_step(folder / out) or 0) >= 5, seconds=120)
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_one_sigterm_saves_the_state_of_all_and_they_leave_in_order(
    hosts: Hosts, folder: Path, request: pytest.FixtureRequest
) -> None:
    # Catches: a watcher that keeps the signal from JAX.
    hosts[1].send_signal(signal.SIGTERM)
    ended = [finish(process, seconds=60) for process in hosts]
    assert [code for code, _ in ended] == [75, 75], ended
    run_dir = folder / request.node.name
    status = read_status(run_dir)
    assert status is not None
    assert status.status is Status.INTERRUPTED
    assert saved_step(run_dir) == status.step


def test_a_host_that_waits_for_one_that_stands_still_leaves_after_its_grace(hosts: Hosts) -> None:
    # Catches: a host that nothing but SIGKILL ends.
    hosts[0].send_signal(signal.SIGSTOP)
    hosts[1].send_signal(signal.SIGTERM)
    started = time.monotonic()
    code, _ = finish(hosts[1], seconds=HEARTBEAT_SECONDS)
    assert code == KILLED_BY_SIGTERM
    assert 7 < time.monotonic() - started < 20


def test_a_second_sigterm_ends_a_host_at_once(hosts: Hosts) -> None:
    hosts[0].send_signal(signal.SIGSTOP)
    hosts[1].send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert is_alive(hosts[1].pid)
    hosts[1].send_signal(signal.SIGTERM)
    started = time.monotonic()
    code, _ = finish(hosts[1], seconds=30)
    assert code == KILLED_BY_SIGTERM
    assert time.monotonic() - started < 5


@pytest.mark.deep
@pytest.mark.parametrize("victim", [0, 1])
def test_who_loses_a_peer_does_not_wait_for_it_for_long(hosts: Hosts, victim: int) -> None:
    # Catches: accelerators that stand still for minutes because one host is gone.
    hosts[victim].kill()
    started = time.monotonic()
    code, _ = finish(hosts[1 - victim], seconds=HEARTBEAT_SECONDS + 30)
    assert code not in (0, 2, 75)
    assert time.monotonic() - started < HEARTBEAT_SECONDS + 15
