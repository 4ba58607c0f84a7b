"""Several hosts in one run: each runs the same program on its own devices, and one writes.

JAX's distributed runtime joins them. All hosts take the same steps with the same batches; the
run's folder is shared between them, and only the first one writes its records.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dpscale.errors import InputError

Settled = TypeVar("Settled")

HEARTBEAT_SECONDS = 30
"""How long a host may be silent before the others end. JAX's own default, 100, is a long time for
accelerators to stand still; a host answers from a thread of its own, whatever it computes."""

_MESSAGE_BYTES = 1024
"""Of a reason that a host gives the others; all send arrays of one shape."""


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """How a process finds the others: all three settings, or none of them.

    Attributes:
      coordinator: Address and port of the first host, `HOST:PORT`, reachable from all.
      num_hosts: How many processes there are, at least 1.
      host_index: Which of them this one is, from 0.
    """

    coordinator: str | None = None
    num_hosts: int | None = None
    host_index: int | None = None

    def __post_init__(self) -> None:
        given = (self.coordinator, self.num_hosts, self.host_index)
        if given.count(None) not in (0, 3):
            raise InputError(
                "--coordinator", "needs --num-hosts and --host-index beside it, and they it."
            )
        if self.num_hosts is None or self.host_index is None:
            return
        if not 0 <= self.host_index < self.num_hosts:
            raise InputError(
                "--host-index", f"expected in [0, {self.num_hosts}), found {self.host_index}."
            )


def join(hosts: Hosts, environment: Mapping[str, str] = os.environ) -> bool:
    """Joins the other hosts, where there are some; before anything else that asks for devices.

    Without settings the environment is asked: a Slurm step of several tasks, or a TPU slice of
    several workers, which JAX then knows by itself.

    Returns:
      Whether there are others.
    """
    if hosts.coordinator is not None:
        if hosts.num_hosts == 1:
            return False
    elif not spans_hosts(environment):
        return False
    jax.distributed.initialize(
        hosts.coordinator,
        hosts.num_hosts,
        hosts.host_index,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    return True


def spans_hosts(environment: Mapping[str, str]) -> bool:
    """Whether the environment is that of one process among several.

    >>> spans_hosts({"SLURM_STEP_NUM_TASKS": "2"}), spans_hosts({"TPU_WORKER_HOSTNAMES": "a"})
    (True, False)
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    workers = environment.get("TPU_WORKER_HOSTNAMES", "")
    return (tasks.isdigit() and int(tasks) > 1) or "," in workers


def is_first() -> bool:
    """Whether this is the host that writes."""
    return jax.process_index() == 0


def first_then_others(settle: Callable[[], Settled]) -> Settled:
    """Calls `settle` on the first host, and then on the others, which find what it left.

    Raises:
      InputError: On every host, where it failed on another; where it failed, what it raised.
    """
    if jax.process_count() == 1:
        return settle()
    settled: list[Settled] = []
    for is_turn in (is_first(), not is_first()):
        failure = None
        if is_turn:
            try:
                settled.append(settle())
            except Exception as error:
                failure = error
        raise_together(failure)
    return settled[0]


def raise_together(failure: Exception | None) -> None:
    """Raises the failure of this host; where only others have failed, one that tells why.

    All hosts call it, so that none waits for one that has left.

    Raises:
      InputError: Another host has failed.
    """
    if jax.process_count() > 1:
        reason = _any_reason("" if failure is None else str(failure) or type(failure).__name__)
        if failure is None and reason:
            raise InputError("another host", reason)
    if failure is not None:
        raise failure


def check_agreement(what: str) -> None:
    """Refuses hosts that do not have the same `what`; only its hash is exchanged.

    Raises:
      InputError: On every host, where one of them has something else.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(what.encode()).digest(), np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(digest))
    if (everyone != everyone[0]).any():
        raise InputError(
            "the run's folder",
            "hosts do not see the same one: they would draw batches and noise of their own; "
            "give all the same shared folder.",
        )


def _any_reason(text: str) -> str:
    """The first text that is not empty of what the hosts say."""
    message = np.zeros(_MESSAGE_BYTES, np.uint8)
    encoded = text.encode()[:_MESSAGE_BYTES]
    message[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(message)).astype(np.uint8)
    texts = [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in everyone]
    return next(filter(None, texts), "")


def wait_for_all(where: str) -> None:
    """Returns when every host has come to `where`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def agreed_by_first(value: bool) -> bool:
    """What the first host says, on every host."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


@contextmanager
def records_folder(run_dir: Path) -> Iterator[Path]:
    """Where this host writes records: the run's folder on the first, one to throw away elsewhere.

    Every host computes every record, as evaluations need all devices.
    """
    if is_first():
        yield run_dir
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


class AgreedStop:
    """A request to stop that all hosts see at the same step.

    On one host it is that of the process. On several JAX's runtime takes note of a SIGTERM on any
    of them, and names a step that none has passed.
    """

    def __init__(self, is_requested: Callable[[], bool]) -> None:
        self._is_requested = is_requested

    def at(self, step: int) -> bool:
        """Whether to stop after `step`; to be asked once after each step."""
        if jax.process_count() == 1:
            return self._is_requested()
        return bool(multihost_utils.reached_preemption_sync_point(step))
