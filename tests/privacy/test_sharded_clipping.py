"""Clipping over eight devices equals clipping on one.

The number of devices must be known before JAX starts, so each test runs
`clip_on_eight_devices.py` once, in a process of its own, and judges what it found.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "clip_on_eight_devices.py"
RTOL = 2e-6


@pytest.mark.parametrize("group", ["NAMED", pytest.param("ALL_NAMED", marks=pytest.mark.deep)])
def test_named_shardings_do_not_change_the_result(group: str) -> None:
    # Catches: an op whose per-example rule the partitioner cannot follow, a microbatch whose
    # slots lie on few devices, an example that is not finite and spoils those of other shards.
    assert_equal_to_one_device(group)


@pytest.mark.parametrize("group", ["MANUAL", pytest.param("ALL_MANUAL", marks=pytest.mark.deep)])
def test_each_device_of_a_shard_map_clips_its_own(group: str) -> None:
    # Catches: parameters or records that do not vary as the batch does (a sum over devices
    # before the clip), and loops whose state does not. Devices take 0 to 3 turns of the loop.
    for found in assert_equal_to_one_device(group):
        assert found["collectives_in_loops"] == [], found["case"]


def test_each_device_of_a_shard_map_clips_its_own_in_chunks() -> None:
    assert_equal_to_one_device("MANUAL_CHUNKED")


def test_plain_autodiff_in_a_shard_map_sums_over_devices_before_the_clip() -> None:
    # The trap that `varying_with` is there for. A JAX without it may do without the cast.
    found = on_eight_devices("trap")
    # Every device's i-th gradient is the sum of all devices' i-th ones, and nothing fails.
    np.testing.assert_allclose(found["plain"], found["of_sums"], rtol=1e-5)
    assert np.max(np.abs(np.divide(found["plain"], found["single"]) - 1)) > 1
    np.testing.assert_allclose(found["unchecked"], found["single"], rtol=RTOL)
    np.testing.assert_allclose(found["varying"], found["single"], rtol=RTOL)


def test_a_loss_of_plain_operations_is_clipped_by_each_device_too() -> None:
    # Catches: leaving the parameters as they are. The decoder's own ops would refuse that, as
    # their backward passes sum nothing over devices; any other loss goes wrong in silence.
    found = on_eight_devices("plain_loss")
    assert found["collectives_in_loops"] == []
    np.testing.assert_allclose(found["norms"], found["single"], rtol=RTOL)
    np.testing.assert_allclose(found["microbatched"], found["single"], rtol=RTOL)
    assert found["total_error"] <= RTOL


def assert_equal_to_one_device(group: str) -> list[dict[str, Any]]:
    """Runs a group of cases and compares; gives what was found."""
    results: list[dict[str, Any]] = on_eight_devices(group)
    assert results
    for found in results:
        assert found["error"] is None, f"{found['case']}\n{found['error']}"
        assert found["same_slots"], found
        worst = max(found["total_error"], found["norm_error"], found["loss_error"])
        assert worst <= RTOL, found
    return results


NUM_THREADS = "32"
"""Of XLA's pool. By default it has one a device, and a device may wait in two collectives at once:
on a busy computer all eight then wait for partners that find no thread."""


def on_eight_devices(*arguments: str) -> Any:
    """What the script prints on forced host devices."""
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags,
            "PJRT_NPROC": NUM_THREADS,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
