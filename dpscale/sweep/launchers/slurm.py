"""Slurm as an engine, through submitit: points become job arrays.

Slurm starts jobs again by itself when they are preempted or their node is lost. What it does not
say without its database, how a job's command left, the job itself leaves in a file.
"""

import importlib.util
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpscale.errors import InputError
from dpscale.files import read_json, write_json_atomically
from dpscale.paths import is_on_bucket
from dpscale.sweep.launchers.process import ProcessSpec
from dpscale.sweep.launchers.protocol import Ended, EngineLost, Job, Resources, Task
from dpscale.sweep.launchers.slurm_options import check_options, parameters
from dpscale.sweep.launchers.slurm_queue import RUNNING, SlurmQueue
from dpscale.sweep.launchers.slurm_task import SlurmTask, read_end

MOST_IN_ARRAY = 1000
"""Slurm's own default allows 1001."""

GONE_SECONDS = 10.0
"""How long a job must be out of the queue, without a record of its end, to count as lost: a
shared folder shows another machine's file a little late."""

_STOP_SECONDS = 60.0

_OUT_OF_REACH = ("Unable to contact", "Socket timed out", "Connection refused")


class SlurmLauncher:
    """Runs tasks as jobs of Slurm.

    What an earlier sweep in the same folder left in the queue (it was killed) is taken out first.

    Args:
      folder: For what submitit needs, and the ends of jobs; all nodes see it.
      options: The sweep file's [slurm] table.

    Raises:
      InputError: submitit or Slurm is missing, or an option is not known.
    """

    has_room = True
    """Slurm has a queue of its own."""

    def __init__(self, folder: Path, *, options: Mapping[str, Any]) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise InputError("--launcher", "submitit is missing; pip install 'dpscale[slurm]'.")
        if shutil.which("srun") is None:
            raise InputError(
                "--launcher", "no Slurm on this computer (no srun); use one that submits jobs."
            )
        check_options(options)
        if is_on_bucket(folder):
            raise InputError("--out", "Slurm's jobs need a folder that all nodes see, no bucket.")
        self._folder = folder.resolve()
        self._options = options
        self._queue = SlurmQueue()
        self._jobs: list[_SlurmJob] = []
        self._stop_left_over()

    def launch(self, tasks: Sequence[Task]) -> list[Job]:
        """Submits tasks, all of them; those of equal needs as arrays, in order.

        Raises:
          InputError: Slurm refuses them.
          EngineLost: Slurm cannot be reached.
        """
        jobs: dict[str, _SlurmJob] = {}
        for needs in _distinct([task.resources for task in tasks]):
            alike = [task for task in tasks if task.resources == needs]
            for start in range(0, len(alike), MOST_IN_ARRAY):
                part = alike[start : start + MOST_IN_ARRAY]
                for task, job in zip(part, self._submit(part, needs), strict=True):
                    jobs[task.name] = job
        self._jobs += jobs.values()
        self._note_jobs()
        return [jobs[task.name] for task in tasks]

    def close(self) -> None:
        """Takes out what is still in the queue."""
        self._queue.cancel([job.number for job in self._jobs if job.ended is None])

    def _submit(self, tasks: Sequence[Task], needs: Resources) -> "list[_SlurmJob]":
        import submitit

        executor = submitit.SlurmExecutor(folder=self._folder, max_num_timeout=10**6)
        executor.update_parameters(**parameters(needs, self._options))
        calls = [self._call(task) for task in tasks]
        try:
            with executor.batch():
                submitted = [executor.submit(call) for call in calls]
        except submitit.core.utils.FailedJobError as error:
            raise _refusal(error) from None
        return [
            _SlurmJob(self._queue, str(job.job_id), call.record, call.num_hosts)
            for job, call in zip(submitted, calls, strict=True)
        ]

    def _call(self, task: Task) -> SlurmTask:
        spec = ProcessSpec(task.command, task.log.resolve(), task.working_dir, task.grace_seconds)
        record = self._folder / "ended" / f"{task.name}.{uuid.uuid4().hex}"
        return SlurmTask(spec, record, task.resources.hosts)

    @property
    def _jobs_file(self) -> Path:
        return self._folder / "jobs.json"

    def _note_jobs(self) -> None:
        left = [job.number for job in self._jobs if job.ended is None]
        write_json_atomically(self._jobs_file, {"jobs": left})

    def _stop_left_over(self) -> None:
        """Lets jobs of a sweep that was killed save and leave: their runs are ours now."""
        if not self._jobs_file.exists():
            return
        jobs = set(read_json(self._jobs_file)["jobs"])
        deadline = time.monotonic() + _STOP_SECONDS
        self._queue.signal(sorted(jobs & self._queue.look()[0].keys()), "TERM")
        while left := jobs & self._queue.look()[0].keys():
            if time.monotonic() > deadline:
                self._queue.cancel(sorted(left))
                break
            time.sleep(0.5)


class _SlurmJob:
    """A job of Slurm's."""

    def __init__(self, queue: SlurmQueue, number: str, record: Path, num_hosts: int) -> None:
        self.number = number
        self.ended: Ended | None = None
        self._queue = queue
        self._record = record
        self._num_hosts = num_hosts
        self._here_at = time.monotonic()  # when it was last known to be in the queue
        self._state = "PENDING"

    def poll(self) -> Ended | None:
        """How its hosts left; None while it waits or runs, or was put back into the queue."""
        if self.ended is None:
            self.ended = self._end_by_record() or self._end_by_queue()
        return self.ended

    @property
    def has_started(self) -> bool:
        """Whether Slurm says that it runs."""
        return self._state in RUNNING

    def terminate(self) -> None:
        """Asks it to save its state and leave; one that waits is taken out."""
        self._queue.signal([self.number], "TERM")

    def kill(self) -> None:
        """Takes it out, with what it runs."""
        self._queue.signal([self.number], "KILL")
        self._queue.cancel([self.number])

    def _end_by_record(self) -> Ended | None:
        codes = self._codes()
        return Ended(_worst(codes)) if len(codes) == self._num_hosts else None

    def _end_by_queue(self) -> Ended | None:
        states, seen_at = self._queue.look()
        if self.number in states:
            self._state = states[self.number]
            self._here_at = max(self._here_at, seen_at)
            return None
        if seen_at - self._here_at < GONE_SECONDS:
            return None
        # Hosts that were lost have left no code.
        return Ended(_worst(self._codes()) or None, f"job {self.number} left Slurm's queue")

    def _codes(self) -> list[int]:
        """What those of its hosts that have left returned."""
        codes = (read_end(self._record, index) for index in range(self._num_hosts))
        return [code for code in codes if code is not None]


def _worst(codes: Sequence[int]) -> int:
    """The exit code that says why: of one that left by itself before one that was ended."""
    failures = [code for code in codes if code]
    return next((code for code in failures if code > 0), failures[0] if failures else 0)


def _distinct(needs: Sequence[Resources]) -> list[Resources]:
    """Each once, in the order of their first task."""
    return [need for index, need in enumerate(needs) if need not in needs[:index]]


def _refusal(error: Exception) -> InputError | EngineLost:
    reason = " ".join(str(error).split())
    if any(words in reason for words in _OUT_OF_REACH):
        return EngineLost(f"Slurm cannot be reached ({reason}); run the same command again.")
    return InputError("--launcher slurm", f"sbatch refused: {reason}")
