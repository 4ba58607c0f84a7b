"""Runs on many devices end like the same runs on one, whatever the mesh.

The number of devices must be known before JAX starts, so runs train in processes of their own
(`train_on_many_devices.py`). Keys are pinned, so that private runs meet the same noise.
"""

import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dpscale.errors import ExitCode
from dpscale.files import read_json
from dpscale.records import read_metrics
from dpscale.training.checkpoint import restore_params

SCRIPT = Path(__file__).parent / "train_on_many_devices.py"
NUM_THREADS = "32"  # of XLA's pool; see tests/privacy/test_sharded_clipping.py

STRATEGIES = (
    ("vmap", "auto"),
    ("ghost", "gram"),
    ("bookkeeping", "gram"),
    ("bookkeeping", "direct"),
)
MESHES = {
    "private": [(2, 1, 1), (1, 1, 2), (2, 2, 1), (1, 2, 2), (8, 1, 1), (1, 8, 1), (2, 2, 2)],
    "law-fitting": [(2, 1, 1), (1, 2, 2), (2, 2, 2)],
}
"""What differs between the purposes is where batches and noise keys come from, not how they meet
the mesh."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A run, and the mesh it takes place on."""

    purpose: str
    strategy: tuple[str, str]
    mesh: tuple[int, int, int]
    has_secret_keys: bool = False

    @property
    def name(self) -> str:
        return "-".join(map(str, (self.purpose, *self.strategy, *self.mesh)))

    def on(self, mesh: tuple[int, int, int]) -> "Case":
        return dataclasses.replace(self, mesh=mesh)


@pytest.fixture(scope="module")
def config_of(make_config):
    """Configs of cases; the large `norm_eps` makes gradients well-conditioned in float32."""

    def config(case: Case) -> dict[str, Any]:
        strategy, norm_rule = case.strategy
        sections: dict[str, Any] = {
            "clipping": {
                "strategy": strategy,
                "norm_rule": norm_rule,
                "microbatch_size": 8,
                "l2_clip_norm": 0.5,
            },
            "mesh": dict(zip(("data", "fsdp", "tensor"), case.mesh, strict=True)),
        }
        if case.purpose == "private":
            sections["private"] = {
                "target_epsilon": 8.0,
                "target_delta": 1e-5,
                "expected_batch_size": 20,
                "insecure_key_seed": None if case.has_secret_keys else 5,
            }
        made = make_config(case.purpose, **sections).to_dict()
        return {**made, "model": {**made["model"], "norm_eps": 1.0}}

    return config


@pytest.fixture(scope="module")
def trained(config_of, tmp_path_factory):
    """Trains cases on so many devices of each host, one after the other; gives their folders."""
    folder = tmp_path_factory.mktemp("devices")

    def train(
        num_devices: int,
        cases: list[Case],
        *,
        num_hosts: int = 1,
        stop_after: int | None = None,
        name: str = "",
        refusal: str | None = None,
    ) -> list[Path]:
        runs = [folder / (name or case.name) for case in cases]
        jobs = [
            {"config": config_of(case), "run_dir": str(run), "stop_after": stop_after}
            for case, run in zip(cases, runs, strict=True)
        ]
        hosts: list[list[str]] = [[]]
        if num_hosts > 1:
            coordinator = f"localhost:{free_port()}"
            hosts = [[coordinator, str(num_hosts), str(index)] for index in range(num_hosts)]
        started = [start(num_devices, json.dumps(jobs), *arguments) for arguments in hosts]
        for process in started:
            _, errors = process.communicate(timeout=600)
            if refusal is not None:
                assert refusal in errors
                continue
            expected = ExitCode.OK if stop_after is None else ExitCode.INTERRUPTED
            assert process.returncode == expected, errors[-3000:]
        return runs

    return train


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def start(num_devices: int, *arguments: str) -> subprocess.Popen[str]:
    """One host's process, with so many devices of its own."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
            "PJRT_NPROC": NUM_THREADS,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(run_dir: Path, config_of, case: Case) -> dict[str, Any]:
    """What a run came to, and must not depend on its devices."""
    from dpscale.config import RunConfig

    model = RunConfig.from_dict(config_of(case), where="test").model
    result = read_json(run_dir / "result.json")
    receipt = run_dir / "receipt.json"
    return {
        "params": restore_params(run_dir, model),
        "losses": [line["train_loss"] for line in read_metrics(run_dir)],
        "eval_loss": result["eval_loss"],
        "run_id": result["run_id"],
        # Somebody may commit while tests run.
        "receipt": {**read_json(receipt), "commit": None} if receipt.exists() else None,
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """To float32 rounding, each array by its own size."""
    for one, other in zip(
        jax.tree.leaves(found["params"]), jax.tree.leaves(expected["params"]), strict=True
    ):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * scale)
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=2e-6)
    np.testing.assert_allclose(found["eval_loss"], expected["eval_loss"], rtol=2e-6)
    assert found["run_id"] == expected["run_id"]
    assert found["receipt"] == expected["receipt"]


def check(trained, config_of, cases: list[Case]) -> None:
    """Each case against the same run on one device."""
    alone = list(dict.fromkeys(case.on((1, 1, 1)) for case in cases))
    expected = {
        case: outcome(run, config_of, case)
        for case, run in zip(alone, trained(1, alone), strict=True)
    }
    by_devices = itertools.groupby(sorted(cases, key=num_devices), key=num_devices)
    for count, group in by_devices:
        here = list(group)
        for case, run in zip(here, trained(count, here), strict=True):
            assert_same(outcome(run, config_of, case), expected[case.on((1, 1, 1))])


def num_devices(case: Case) -> int:
    return int(np.prod(case.mesh))


def test_runs_on_many_devices_end_like_the_same_runs_on_one(trained, config_of):
    """Catches noise drawn anew by each device, examples counted twice, a batch cut differently."""
    check(
        trained,
        config_of,
        [
            Case("private", STRATEGIES[2], (2, 2, 2)),
            Case("private", STRATEGIES[0], (8, 1, 1)),
            Case("law-fitting", STRATEGIES[3], (1, 8, 1)),
            Case("law-fitting", STRATEGIES[1], (1, 1, 2)),
        ],
    )


@pytest.mark.deep
@pytest.mark.parametrize("purpose", ["private", "law-fitting"])
def test_every_strategy_and_mesh(trained, config_of, purpose):
    """The same for all of them."""
    cases = [Case(purpose, s, mesh) for s in STRATEGIES for mesh in MESHES[purpose]]
    check(trained, config_of, cases)


def test_a_run_goes_on_with_other_devices(trained, config_of):
    """Catches a state that only its own mesh can read, and batches or noise that change with it."""
    case = Case("private", STRATEGIES[2], (2, 2, 2))
    (whole,) = trained(1, [case.on((1, 1, 1))], name="whole")
    for count, mesh, stop_after in ((8, (2, 2, 2), 4), (1, (1, 1, 1), 8), (2, (1, 1, 2), None)):
        (run,) = trained(count, [case.on(mesh)], stop_after=stop_after, name="moved")
    expected, found = (outcome(r, config_of, case) for r in (whole, run))
    assert_same(found, expected)


@pytest.mark.deep
def test_a_run_over_two_hosts_ends_like_the_same_run_on_one(trained, config_of):
    """Catches hosts that write over each other, that draw batches of their own, or that wait for
    each other at different places."""
    cases = [
        Case("private", STRATEGIES[2], (2, 2, 1)),
        Case("law-fitting", STRATEGIES[1], (1, 2, 2)),
    ]
    for case in cases:  # in folders of their own: elsewhere another test may have trained them
        (run,) = trained(2, [case], num_hosts=2, name=f"two-hosts-{case.purpose}")
        (alone,) = trained(1, [case.on((1, 1, 1))], name=f"one-host-{case.purpose}")
        expected, found = (outcome(folder, config_of, case) for folder in (alone, run))
        assert_same(found, expected)
        # Each host reads its own half of the slots, and together they read what one would.
        first, second = units_read(run, 0), units_read(run, 1)
        assert first + second == units_read(alone, 0)
        assert second > 0 or case.purpose == "private"  # whose second half may be padding


def units_read(run_dir: Path, host: int) -> int:
    return int(run_dir.with_name(f"{run_dir.name}.read{host}").read_text())


def test_hosts_agree_where_to_stop_and_one_host_goes_on(trained, config_of):
    """Catches a host that stops by itself, and a state that needs as many hosts as saved it."""
    case = Case("private", STRATEGIES[2], (2, 1, 2))
    (run,) = trained(2, [case], num_hosts=2, stop_after=4, name="preempted")
    assert read_json(run / "status.json")["status"] == "interrupted"
    assert read_json(run / "receipt.json")["iterations"] < 12
    trained(1, [case.on((1, 1, 1))], name="preempted")
    (alone,) = trained(1, [case.on((1, 1, 1))])
    expected, found = (outcome(folder, config_of, case) for folder in (alone, run))
    assert_same(found, expected)


def test_hosts_that_do_not_share_a_folder_are_refused(trained, config_of):
    """Catches hosts with keys of their own: batches and noise that no accountant knows of."""
    case = dataclasses.replace(Case("private", STRATEGIES[2], (2, 1, 1)), has_secret_keys=True)
    trained(1, [case], num_hosts=2, name="apart-{host}", refusal="hosts do not see the same one")
