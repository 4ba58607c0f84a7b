"""A task's resources, and the sweep file's [slurm] table, in submitit's words."""

from collections.abc import Mapping
from typing import Any

from dpscale.errors import InputError
from dpscale.sweep.launchers.protocol import Resources

OPTIONS = (
    "account",
    "additional_parameters",
    "array_parallelism",
    "comment",
    "constraint",
    "exclude",
    "exclusive",
    "mail_type",
    "mail_user",
    "mem",
    "mem_per_cpu",
    "mem_per_gpu",
    "nodelist",
    "partition",
    "qos",
    "setup",
    "signal_delay_s",
    "srun_args",
    "time",
)
"""What a [slurm] table may hold: options of sbatch by submitit's names. What says how many nodes,
cores and accelerators a point gets stands in [resources]."""

TIME_MINUTES = 24 * 60
"""Time limit of a job where the table has none. A run that is not done by then is asked to save
its state, put back into the queue, and goes on."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses options that are not known.

    Raises:
      InputError: Names the option and what there is.
    """
    for name in options:
        if name not in OPTIONS:
            raise InputError(f"slurm.{name}", f"unknown option; known: {', '.join(OPTIONS)}.")


def parameters(needs: Resources, options: Mapping[str, Any]) -> dict[str, Any]:
    """What submitit is told about a task.

    `CPU` becomes cores of a task, `GPU` GPUs of a node, anything else a generic resource (gres)
    of a node; one task a node.

    Raises:
      InputError: An amount that Slurm cannot count.
    """
    told: dict[str, Any] = {
        "time": TIME_MINUTES,
        **options,
        "job_name": "dpscale",
        "nodes": needs.hosts,
        "ntasks_per_node": 1,
        "cpus_per_task": needs.cores,
    }
    # Without it srun, since Slurm 22.05, would give a step one core.
    srun = [f"--cpus-per-task={needs.cores}", "--kill-on-bad-exit=1"]
    told["srun_args"] = [*options.get("srun_args", ()), *srun]
    generic = []
    for name, amount in needs.amounts.items():
        if name == "CPU" or not amount:
            continue
        if amount != int(amount):
            raise InputError(f"resources.{name}", f"Slurm counts whole ones, found {amount:g}.")
        if name == "GPU":
            told["gpus_per_node"] = int(amount)
        else:
            generic.append(f"{name}:{int(amount)}")
    if generic:
        told["gres"] = ",".join(generic)
    return told
