"""A run's folder: what may change between two starts, what is refused, and where keys may be."""

import dataclasses
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dpscale.config import RunConfig
from dpscale.data.manifest import Manifest
from dpscale.data.units import open_units
from dpscale.errors import InputError, PrivacyRefusal
from dpscale.files import read_json, write_json_atomically
from dpscale.privacy.keys import KEY_FILE, read_key_file
from dpscale.privacy.noise import noise_key
from dpscale.training.loop import train
from dpscale.training.run_folder import PINNED_VERSIONS, locked, start_or_resume


@pytest.fixture(scope="module")
def manifest(prepared: Path) -> Manifest:
    return open_units(prepared).manifest


@pytest.fixture(scope="module")
def started(
    configs: dict[str, RunConfig], manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder of each purpose, just after its first start. Look, do not touch."""
    folders = {}
    for purpose, config in configs.items():
        folders[purpose] = tmp_path_factory.mktemp(purpose)
        start_or_resume(config, folders[purpose], manifest)
    return folders


def changed(config: RunConfig, name: str, value: Any) -> RunConfig:
    fields = json.loads(json.dumps(config.to_dict()))
    *sections, key = name.split(".")
    table = fields
    for section in sections:
        table = table[section]
    assert table[key] != value
    table[key] = value
    return RunConfig.from_dict(fields, where="test")


ESSENTIAL = {
    "seed": 1,
    "model.num_layers": 3,
    "model.rope_theta": 500.0,
    "model.compute_dtype": "bfloat16",
    "data.num_eval_units": 10,
    "optimizer.learning_rate": 0.02,
    "optimizer.warmup_fraction": 0.5,
    "optimizer.decay_factor": 2.0,
    "optimizer.b1": 0.8,
    "clipping.l2_clip_norm": 2.0,
    "clipping.rescale_to_unit_norm": False,
    "training.iterations": 13,
    "training.metrics_every": 2,
    "training.eval_every": 0,
}
ESSENTIAL_PRIVATE = {
    "private.target_epsilon": 9.0,
    "private.target_delta": 1e-4,
    "private.expected_batch_size": 21,
    "private.noise_multiplier": 0.5,
    "private.truncated_batch_size": 56,
    "private.insecure_key_seed": 2,
}
ESSENTIAL_LAW_FITTING = {
    "law_fitting.physical_batch_size": 21,
    "law_fitting.noise_batch_ratio": 0.02,
}


def check_refused(config: RunConfig, run_dir: Path, manifest: Manifest, name: str) -> None:
    before = read_json(run_dir / "config.json")
    with pytest.raises(InputError) as caught:
        start_or_resume(config, run_dir, manifest)
    assert f"cannot resume with changed {name}: " in str(caught.value)
    assert "start over in another folder" in str(caught.value)
    is_private = config.private is not None
    assert isinstance(caught.value, PrivacyRefusal) == is_private
    assert ("its noise would be used twice" in str(caught.value)) == is_private
    assert read_json(run_dir / "config.json") == before


@pytest.mark.parametrize(("name", "value"), [*ESSENTIAL.items(), *ESSENTIAL_PRIVATE.items()])
def test_a_private_run_is_not_resumed_with_another(
    name: str,
    value: Any,
    configs: dict[str, RunConfig],
    started: dict[str, Path],
    manifest: Manifest,
) -> None:
    # Catches: the same noise on two different gradients, whose difference has no noise at all.
    config = changed(configs["private"], name, value)
    check_refused(config, started["private"], manifest, name)


@pytest.mark.parametrize(("name", "value"), [*ESSENTIAL.items(), *ESSENTIAL_LAW_FITTING.items()])
def test_a_law_fitting_run_is_not_resumed_with_another(
    name: str,
    value: Any,
    configs: dict[str, RunConfig],
    started: dict[str, Path],
    manifest: Manifest,
) -> None:
    config = changed(configs["law-fitting"], name, value)
    check_refused(config, started["law-fitting"], manifest, name)


def test_several_changes_are_all_named(
    configs: dict[str, RunConfig], started: dict[str, Path], manifest: Manifest
) -> None:
    config = changed(changed(configs["private"], "seed", 3), "optimizer.b2", 0.99)
    check_refused(config, started["private"], manifest, "optimizer.b2, seed")


def test_the_other_purpose_is_refused_in_a_folder(
    configs: dict[str, RunConfig], started: dict[str, Path], manifest: Manifest
) -> None:
    with pytest.raises(PrivacyRefusal, match=r"changed .*purpose.*used twice"):
        start_or_resume(configs["law-fitting"], started["private"], manifest)
    with pytest.raises(InputError, match=r"changed .*purpose.*holds another run"):
        start_or_resume(configs["private"], started["law-fitting"], manifest)


@pytest.mark.parametrize("purpose", ["private", "law-fitting"])
def test_other_data_are_refused(
    purpose: str, configs: dict[str, RunConfig], started: dict[str, Path], manifest: Manifest
) -> None:
    other = dataclasses.replace(manifest, data_hash="0" * 64)
    check_refused(configs[purpose], started[purpose], other, "data_hash")


@pytest.mark.parametrize("package", PINNED_VERSIONS)
def test_other_versions_are_refused_for_a_private_run_alone(
    package: str,
    configs: dict[str, RunConfig],
    started: dict[str, Path],
    manifest: Manifest,
    tmp_path: Path,
) -> None:
    # Catches: another NumPy that draws other batches, another JAX that draws other noise.
    for purpose in ("private", "law-fitting"):
        run_dir = Path(shutil.copytree(started[purpose], tmp_path / purpose))
        record = read_json(run_dir / "config.json")
        record["versions"][package] = "0.0.1"
        write_json_atomically(run_dir / "config.json", record)
        if purpose == "private":
            check_refused(configs[purpose], run_dir, manifest, f"version of {package}")
        else:
            start_or_resume(configs[purpose], run_dir, manifest)


@pytest.mark.parametrize("purpose", ["private", "law-fitting"])
def test_what_changes_no_result_may_change(
    purpose: str,
    configs: dict[str, RunConfig],
    started: dict[str, Path],
    manifest: Manifest,
    prepared: Path,
    tmp_path: Path,
) -> None:
    # Catches: a run that cannot go on after its data were moved or on a smaller machine.
    config = configs[purpose]
    for name, value in {
        "data.path": str(shutil.copytree(prepared, tmp_path / "moved")),
        "clipping.microbatch_size": 12,
        "training.checkpoint_every": 3,
        "training.keep_checkpoints": 4,
    }.items():
        config = changed(config, name, value)
    first = start_or_resume(configs[purpose], started[purpose], manifest)
    again = start_or_resume(config, started[purpose], open_units(config.data.path).manifest)
    assert again.config.clipping.microbatch_size == 12
    assert (again.run_id, again.config_hash) == (first.run_id, first.config_hash)
    assert (again.mechanism, again.keys) == (first.mechanism, first.keys)


def test_noise_and_cap_are_settled_at_the_first_start(
    make_config: Any, manifest: Manifest, tmp_path: Path
) -> None:
    # Catches: a cap that follows a changed microbatch, noise that is calibrated anew.
    open_config = make_config("private")
    assert open_config.private.noise_multiplier is None
    first = start_or_resume(open_config, tmp_path, manifest)
    saved = read_json(tmp_path / "config.json")["config"]["private"]
    assert saved["noise_multiplier"] > 0
    assert saved["truncated_batch_size"] % 8 == 0
    other_microbatch = changed(open_config, "clipping.microbatch_size", 7)
    again = start_or_resume(other_microbatch, tmp_path, manifest)
    assert again.mechanism == first.mechanism
    for name in ("noise_multiplier", "truncated_batch_size"):
        assert getattr(again.config.private, name) == saved[name]
    spelt_out = RunConfig.from_dict({**open_config.to_dict(), "private": saved}, where="test")
    assert start_or_resume(spelt_out, tmp_path, manifest).config_hash == first.config_hash
    assert again.run_id == first.run_id == open_config.run_id


@pytest.mark.parametrize(
    ("purpose", "batch_size", "size"),
    [
        ("private", "private.expected_batch_size", 4),
        ("law-fitting", "law_fitting.physical_batch_size", 16),
    ],
)
def test_a_microbatch_is_settled_for_batches_that_vary_or_do_not(
    configs: dict[str, RunConfig],
    manifest: Manifest,
    tmp_path: Path,
    purpose: str,
    batch_size: str,
    size: int,
) -> None:
    # Catches: a Poisson batch taken for one of a fixed size, half of whose slots would be padding.
    open_config = changed(configs[purpose], "clipping.microbatch_size", None)
    run = start_or_resume(changed(open_config, batch_size, 16), tmp_path, manifest)
    assert run.config.clipping.microbatch_size == size


def test_a_private_run_that_would_miss_its_target_starts_nothing(
    configs: dict[str, RunConfig], manifest: Manifest, tmp_path: Path
) -> None:
    config = changed(configs["private"], "private.noise_multiplier", 0.1)
    with pytest.raises(PrivacyRefusal, match="would meet it"):
        start_or_resume(config, tmp_path, manifest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("purpose", ["private", "law-fitting"])
@pytest.mark.parametrize("left", ["checkpoints", "result.json"])
def test_a_folder_that_lost_its_config_is_refused(
    purpose: str, left: str, configs: dict[str, RunConfig], manifest: Manifest, tmp_path: Path
) -> None:
    # Catches: states of an unknown run continued under new keys, and a receipt for all of it.
    (tmp_path / left).mkdir()
    with pytest.raises(PrivacyRefusal, match=rf"holds {left} but no config\.json"):
        start_or_resume(configs[purpose], tmp_path, manifest)
    assert not (tmp_path / KEY_FILE).exists()


@pytest.mark.parametrize(
    ("field", "value"), [("seq_len", 16), ("vocab_size", 512), ("num_eval_units", 0)]
)
def test_data_that_do_not_fit_the_model_are_refused(
    field: str, value: int, configs: dict[str, RunConfig], manifest: Manifest, tmp_path: Path
) -> None:
    other = dataclasses.replace(manifest, **{field: value})
    with pytest.raises(InputError, match=rf"(model|data)\.{field}"):
        start_or_resume(configs["law-fitting"], tmp_path, other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "run_id: missing"),
        ('{"run_id": "a", "config": {}, "data_hash": "b", "versions": {}}', "purpose: missing"),
    ],
)
def test_a_damaged_record_is_one_line(
    record: str, place: str, configs: dict[str, RunConfig], manifest: Manifest, tmp_path: Path
) -> None:
    # Catches: a traceback, or a run that takes a damaged record for none and draws new keys.
    (tmp_path / "config.json").write_text(record)
    with pytest.raises(InputError, match=rf"config\.json.*{place}"):
        start_or_resume(configs["private"], tmp_path, manifest)
    assert not (tmp_path / KEY_FILE).exists()


def test_two_processes_cannot_train_in_one_folder(
    configs: dict[str, RunConfig], tmp_path: Path
) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another process is training here"):
        train(configs["law-fitting"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


class TestKeys:
    def test_are_for_their_owner_alone_and_survive_a_restart(
        self, make_config: Any, configs: dict[str, RunConfig], manifest: Manifest, tmp_path: Path
    ) -> None:
        config = changed(configs["private"], "private.insecure_key_seed", None)
        old_mask = os.umask(0)  # the widest: the mode must not lean on it
        try:
            first = start_or_resume(config, tmp_path, manifest)
        finally:
            os.umask(old_mask)
        assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
        assert start_or_resume(config, tmp_path, manifest).keys == first.keys

    def test_are_new_in_another_folder(
        self, configs: dict[str, RunConfig], manifest: Manifest, tmp_path: Path
    ) -> None:
        # Catches: keys derived from the seed or the config: starting over must draw others.
        config = changed(configs["private"], "private.insecure_key_seed", None)
        runs = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            runs.append(start_or_resume(config, tmp_path / name, manifest))
        first, second = (run.keys for run in runs)
        assert first is not None
        assert second is not None
        assert first.noise != second.noise
        assert first.sampling != second.sampling
        assert runs[0].run_id == runs[1].run_id

    def test_of_a_start_that_never_wrote_its_config_are_drawn_anew(
        self, configs: dict[str, RunConfig], manifest: Manifest, tmp_path: Path
    ) -> None:
        (tmp_path / KEY_FILE).write_text('{"noise": "1')  # killed while it was written
        start_or_resume(configs["private"], tmp_path, manifest)
        assert read_key_file(tmp_path).noise != 1

    def test_that_are_gone_are_not_replaced(
        self,
        configs: dict[str, RunConfig],
        started: dict[str, Path],
        manifest: Manifest,
        tmp_path: Path,
    ) -> None:
        # Catches: a run that goes on with other batches and noise than its first steps had.
        run_dir = Path(shutil.copytree(started["private"], tmp_path / "run"))
        (run_dir / KEY_FILE).unlink()
        with pytest.raises(PrivacyRefusal, match=r"keys of this run are gone; start over"):
            start_or_resume(configs["private"], run_dir, manifest)
        assert not (run_dir / KEY_FILE).exists()

    def test_that_others_can_read_are_not_used(
        self,
        configs: dict[str, RunConfig],
        started: dict[str, Path],
        manifest: Manifest,
        tmp_path: Path,
    ) -> None:
        run_dir = Path(shutil.copytree(started["private"], tmp_path / "run"))
        (run_dir / KEY_FILE).chmod(0o640)
        with pytest.raises(PrivacyRefusal, match="expected mode 0600, found 0640"):
            start_or_resume(configs["private"], run_dir, manifest)

    def test_are_drawn_for_private_runs_only(self, started: dict[str, Path]) -> None:
        assert (started["private"] / KEY_FILE).exists()
        assert not (started["law-fitting"] / KEY_FILE).exists()

    def test_stand_in_no_other_file_and_no_repr(
        self,
        configs: dict[str, RunConfig],
        finished: Callable[[str], Path],
        manifest: Manifest,
        saved_leaves: Callable[[Path], dict[str, bytes]],
    ) -> None:
        # Catches: a key, or a half of one, in a config, hash, receipt, checkpoint or message.
        run_dir = finished("private")
        spellings = key_spellings(run_dir)
        files = [path for path in run_dir.rglob("*") if path.is_file() and path.name != KEY_FILE]
        assert {"config.json", "metrics.jsonl", "status.json", "receipt.json", "result.json"} <= {
            path.name for path in files
        }
        run = start_or_resume(configs["private"], run_dir, manifest)
        contents = {str(path): path.read_bytes() for path in files}
        contents |= {f"state{name}": leaf for name, leaf in saved_leaves(run_dir).items()}
        contents |= {"repr(run)": repr(run).encode(), "repr(keys)": repr(run.keys).encode()}
        assert run.mechanism is not None
        assert run.keys is not None
        contents["repr(sampler)"] = repr(run.mechanism.sampler(run.keys)).encode()
        for name, content in contents.items():
            for spelling in spellings:
                assert spelling not in content, f"a key stands in {name}"


def key_spellings(run_dir: Path) -> list[bytes]:
    """A run's keys, and their 64-bit halves, as hexadecimal, decimal, JSON and raw bytes."""
    keys = read_key_file(run_dir)
    numbers = [keys.noise, keys.sampling, keys.sampling >> 64, keys.sampling & (2**64 - 1)]
    spellings = []
    for number in numbers:
        length = (number.bit_length() + 7) // 8
        texts = [f"{number:x}", f"{number:X}", str(number)]
        spellings += [text.encode() for text in texts]
        spellings += [number.to_bytes(length, order) for order in ("big", "little")]
    words = np.asarray(jax.random.key_data(noise_key(keys.noise)))
    return [*spellings, words.tobytes(), (run_dir / KEY_FILE).read_bytes()]


def test_a_law_fitting_run_makes_no_privacy_claim(finished: Callable[[str], Path]) -> None:
    # Catches: an epsilon, a receipt, keys or a "not private" mark where nothing is private.
    run_dir = finished("law-fitting")
    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        ".lock",
        "config.json",
        "metrics.jsonl",
        "status.json",
        "result.json",
        "checkpoints",
    }
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    texts = [(run_dir / name).read_text() for name in names if name.endswith(".json")]
    for text in [*texts, *lines]:
        for key, value in flat(json.loads(text)):
            if any(word in key for word in ("epsilon", "delta", "private", "noise_multiplier")):
                assert value is None, f"{key} = {value}"


def flat(fields: dict[str, Any], head: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in fields.items():
        inner = isinstance(value, dict)
        pairs += flat(value, f"{head}{key}.") if inner else [(f"{head}{key}", value)]
    return pairs
