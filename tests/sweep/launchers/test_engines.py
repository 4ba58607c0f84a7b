"""What every engine says of itself where it is missing, and how Slurm's jobs are told apart."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from dpscale.errors import InputError
from dpscale.sweep.launchers.ray import RayLauncher
from dpscale.sweep.launchers.slurm import SlurmLauncher
from dpscale.sweep.launchers.slurm_task import coordinator_of, read_end, write_end


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_ray_says_what_to_install() -> None:
    with pytest.raises(InputError, match=r"--launcher: ray is .*pip install 'dpscale\[ray\]'"):
        RayLauncher(address=None)


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_submitit_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--launcher: submitit .*pip install 'dpscale\[slurm\]'"):
        SlurmLauncher(tmp_path, options={})


def test_a_computer_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="--launcher: no Slurm on this computer"):
        SlurmLauncher(tmp_path, options={})


def test_the_end_of_a_host_is_read_as_it_was_left(tmp_path: Path) -> None:
    record = tmp_path / "ended" / "law-w16.0a1b"
    assert read_end(record, 0) is None
    write_end(record, 0, 75)
    write_end(record, 1, -9)
    assert [read_end(record, index) for index in range(3)] == [75, -9, None]


def test_all_hosts_of_a_job_meet_at_one_port_and_two_jobs_at_two() -> None:
    def at(job: str) -> str:
        return coordinator_of({"SLURM_LAUNCH_NODE_IPADDR": "a", "SLURM_JOB_ID": job})

    assert at("12") != at("13")
    assert all(1024 < int(at(str(job)).partition(":")[2]) < 65536 for job in (1, 4095, 10**7))
