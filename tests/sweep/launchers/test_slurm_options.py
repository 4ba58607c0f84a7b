from typing import Any

import pytest

from dpscale.errors import InputError
from dpscale.sweep.launchers.protocol import Resources
from dpscale.sweep.launchers.slurm_options import check_options, parameters


def needs(**fields: Any) -> Resources:
    return Resources.from_dict(fields, where="t")


def test_resources_become_nodes_cores_gpus_and_generic_ones() -> None:
    told = parameters(needs(CPU=1.5, GPU=2, TPU=4, hosts=3), {"partition": "p", "time": 60})
    assert told == {
        "partition": "p",
        "time": 60,
        "job_name": "dpscale",
        "nodes": 3,
        "ntasks_per_node": 1,
        "cpus_per_task": 2,
        "gpus_per_node": 2,
        "gres": "TPU:4",
        "srun_args": ["--cpus-per-task=2", "--kill-on-bad-exit=1"],
    }


def test_without_resources_a_point_is_one_core_for_a_day_and_srun_keeps_what_it_is_told() -> None:
    told = parameters(needs(), {"srun_args": ["--mpi=none"]})
    assert (told["nodes"], told["cpus_per_task"], told["time"]) == (1, 1, 1440)
    assert told["srun_args"][0] == "--mpi=none"
    assert "gres" not in told
    assert "gpus_per_node" not in told


def test_half_a_gpu_is_refused() -> None:
    with pytest.raises(InputError, match=r"resources.GPU: Slurm counts whole ones, found 0.5"):
        parameters(needs(GPU=0.5), {})


@pytest.mark.parametrize("name", ["nodes", "cpus_per_task", "dependency", "use_srun", "typo"])
def test_an_option_that_is_not_for_the_user_is_named(name: str) -> None:
    with pytest.raises(InputError, match=rf"slurm.{name}: unknown option; known: account, "):
        check_options({"partition": "p", name: 1})
