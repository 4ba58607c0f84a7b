"""How hosts find each other; what they do together is in `test_many_devices.py`."""

import pytest

from dpscale.errors import InputError
from dpscale.training.hosts import (
    AgreedStop,
    Hosts,
    agreed_by_first,
    first_then_others,
    join,
    records_folder,
    spans_hosts,
)


@pytest.mark.parametrize(
    ("environment", "spans"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, False),  # one task of a batch script
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
    ],
)
def test_the_environment_says_whether_there_are_others(environment, spans):
    """Catches a process that waits for hosts which are not there, and one that leaves them."""
    assert spans_hosts(environment) is spans


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"coordinator": "a:1"}, "--coordinator"),
        ({"num_hosts": 2, "host_index": 0}, "--coordinator"),
        ({"coordinator": "a:1", "num_hosts": 2, "host_index": 2}, "--host-index"),
        ({"coordinator": "a:1", "num_hosts": 2, "host_index": -1}, "--host-index"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, place):
    """Catches a run that hangs on a host that nobody will start."""
    with pytest.raises(InputError, match=place):
        Hosts(**fields)


def test_one_host_is_alone(tmp_path):
    """Catches one process that waits for others."""
    assert not join(Hosts(), environment={})
    assert not join(Hosts(coordinator="a:1", num_hosts=1, host_index=0), environment={})
    calls = []
    assert first_then_others(lambda: calls.append(1) or 7) == 7
    assert calls == [1]
    assert agreed_by_first(True)
    assert not agreed_by_first(False)
    with records_folder(tmp_path) as folder:
        assert folder == tmp_path


def test_a_stop_on_one_host_is_that_of_the_process():
    """Catches a request that is never seen."""
    requested = []
    stop = AgreedStop(lambda: bool(requested))
    assert not stop.at(1)
    requested.append(True)
    assert stop.at(2)
