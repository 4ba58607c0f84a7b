"""Runs that the tests of this folder share: one of each purpose, trained once, never killed."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from digest import digest

from dpscale.config import RunConfig
from dpscale.data.units import open_units
from dpscale.files import read_json
from dpscale.privacy import receipt
from dpscale.records import read_metrics
from dpscale.training import loop
from dpscale.training.checkpoint import Checkpoints, Counters
from dpscale.training.run_folder import StartedRun, start_or_resume
from dpscale.training.step import TrainState, init_state

Copier = Callable[[str], Path]


@pytest.fixture(scope="session", autouse=True)
def one_tracing() -> Iterator[None]:
    """Runs of equal shapes share one compiled step; tracing it would take most of a test's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_train_step", functools.cache(loop.make_train_step))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_curve() -> Iterator[None]:
    """Runs of one mechanism have one curve; working it out would take most of a test's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receipt, "curve_fields", functools.cache(receipt.curve_fields))
        yield


@pytest.fixture(scope="session")
def configs(make_config: Any) -> dict[str, RunConfig]:
    """A config of each purpose. Noise and cap of the private one are given, its keys are known."""
    settled = {"noise_multiplier": 0.4, "truncated_batch_size": 48, "insecure_key_seed": 1}
    return {
        "private": make_config("private", private=settled),
        "law-fitting": make_config("law-fitting"),
    }


@pytest.fixture(scope="session")
def runs(
    configs: dict[str, RunConfig], prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, StartedRun]:
    """A run of each purpose, settled, with no step taken."""
    manifest = open_units(prepared).manifest
    return {
        purpose: start_or_resume(config, tmp_path_factory.mktemp(purpose), manifest)
        for purpose, config in configs.items()
    }


@pytest.fixture(scope="session")
def finished(
    configs: dict[str, RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a finished run of a purpose. Look, do not touch."""

    @functools.cache
    def train(purpose: str) -> Path:
        run_dir = tmp_path_factory.mktemp("finished") / purpose
        loop.train(configs[purpose], run_dir)
        return run_dir

    return train


@pytest.fixture
def copied(finished: Callable[[str], Path], tmp_path: Path) -> Copier:
    """A copy of a finished run's folder, to be spoilt."""

    def copy(purpose: str) -> Path:
        return Path(shutil.copytree(finished(purpose), tmp_path / "copy" / purpose))

    return copy


def saved_state(run_dir: Path) -> tuple[TrainState, Counters]:
    """The newest state in a run's folder."""
    config = RunConfig.from_dict(read_json(run_dir / "config.json")["config"], where="test")
    like = init_state(config.model, config.optimizer, jax.random.key(99))
    checkpoints = Checkpoints(run_dir, keep=None)
    try:
        restored = checkpoints.restore_newest(like)
    finally:
        checkpoints.close()
    assert restored is not None
    return restored


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


@pytest.fixture(scope="session")
def saved_leaves() -> Callable[[Path], dict[str, bytes]]:
    """The bytes of each array in the newest state of a run's folder."""

    def read(run_dir: Path) -> dict[str, bytes]:
        leaves = jax.tree_util.tree_leaves_with_path(saved_state(run_dir)[0])
        return {jax.tree_util.keystr(path): leaf.tobytes() for path, leaf in leaves}

    return read


@pytest.fixture(scope="session")
def traces(saved_leaves: Callable[[Path], dict[str, bytes]]) -> Callable[[Path], dict[str, Any]]:
    """Everything that a run left which must not depend on how often it was killed.

    Wall-clock fields are left out, and the commit: somebody may commit while tests run.
    """

    def collect(run_dir: Path) -> dict[str, Any]:
        counters = saved_state(run_dir)[1]
        receipt_file = run_dir / "receipt.json"
        return {
            "state": {path: digest(leaf) for path, leaf in saved_leaves(run_dir).items()},
            "counters": without(dataclasses.asdict(counters), "wall_seconds"),
            "metrics": [without(line, "wall_seconds") for line in read_metrics(run_dir)],
            "result": without(read_json(run_dir / "result.json"), "wall_seconds", "commit"),
            "receipt": read_json(receipt_file) if receipt_file.exists() else None,
        }

    return collect
