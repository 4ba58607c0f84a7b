"""A run on a bucket: the same as a local one to the bit, killed and resumed, its keys elsewhere."""

import dataclasses
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpscale.cli.main import main
from dpscale.config import RunConfig
from dpscale.data.bucket_copy import publish
from dpscale.data.units import open_units
from dpscale.errors import FolderBusy, InputError, PrivacyRefusal
from dpscale.files import read_json, write_json_atomically, write_text_atomically
from dpscale.paths import as_path
from dpscale.privacy.keys import KEY_FILE
from dpscale.records import CHECKPOINTS_DIR, Status, read_metrics, saved_step
from dpscale.scaling.reading.runs import read_runs
from dpscale.schema import to_toml
from dpscale.sweep.layout import SweepFolder
from dpscale.sweep.layout import locked as sweep_locked
from dpscale.sweep.survey import survey
from dpscale.sweep.table import write_table
from dpscale.training.checkpoint import restore_params
from dpscale.training.loop import train
from dpscale.training.run_folder import locked, start_or_resume

KILL_AT = Path(__file__).with_name("kill_at_upload.py")

# Checkpoints are due at 5, 10 and 12, metric lines at 4, 8 and 12; after each the lines there are.
KILLS = [
    ("keys drawn, config.json not written", r"config\.json", 1, []),
    ("saved, checksums not written", r"checkpoints/5/checksums\.json", 1, [4]),
    ("in a window after a checkpoint", r"metrics\.jsonl", 4, [4, 8]),
]

Finished = Callable[[str], Path]
Traces = Callable[[Path], dict[str, Any]]


def objects(bucket: str) -> dict[str, bytes]:
    """Every object of a bucket, by name."""
    from dpscale.buckets.objects import filesystem

    storage = filesystem()
    return {name: storage.cat_file(name) for name in storage.find(bucket.removeprefix("gs://"))}


def test_a_private_run_killed_at_many_moments_ends_as_a_local_one_to_the_bit(
    configs: dict[str, RunConfig],
    prepared: Path,
    finished: Finished,
    traces: Traces,
    bucket: str,
    tmp_path: Path,
) -> None:
    # Catches: what a local folder keeps and a bucket does not: lines, states, the record of a run.
    run_dir, keys = as_path(f"{bucket}/runs/a"), tmp_path / "keys"
    publish(prepared, as_path(f"{bucket}/data"))
    file = tmp_path / "config.toml"
    file.write_text(to_toml(configs["private"].to_dict()))
    rest = ["train", str(file), "--out", str(run_dir), "--keys", str(keys)]
    rest += ["--set", f"data.path={bucket}/data"]
    for name, pattern, count, lines in [*KILLS, ("to the end", "no such object", 1, None)]:
        done = subprocess.run(
            [sys.executable, str(KILL_AT), pattern, str(count), *rest],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if lines is None:
            assert done.returncode == 0, done.stderr
            break
        assert done.returncode == -signal.SIGKILL, f"{name}: {done.stdout} {done.stderr}"
        assert [line["step"] for line in read_metrics(run_dir)] == lines, name
        assert not (run_dir / "result.json").exists()
    on_bucket, local = traces(run_dir), traces(finished("private"))
    # The place of the data is no part of a run; everything else is the same.
    assert on_bucket == local
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()}
    assert len(names) == 2, "the first start was killed before it recorded its keys"
    assert set(names.values()) == {0o600}
    secrets = [read_json(path) for path in keys.iterdir()]
    for content in objects(bucket).values():
        for secret in secrets:
            assert secret["noise"].encode() not in content
            assert secret["sampling"].encode() not in content


class TestKeys:
    """On a bucket, and in a folder that several runs share."""

    @pytest.fixture
    def config(self, configs: dict[str, RunConfig]) -> RunConfig:
        """A private run whose keys nobody knows."""
        private = configs["private"].private
        assert private is not None
        return dataclasses.replace(
            configs["private"], private=dataclasses.replace(private, insecure_key_seed=None)
        )

    def test_on_a_bucket_are_refused_before_anything_is_written(
        self, config: RunConfig, bucket: str, tmp_path: Path
    ) -> None:
        run_dir = as_path(f"{bucket}/run")
        with pytest.raises(PrivacyRefusal, match="--keys FOLDER"):
            train(config, run_dir)
        with pytest.raises(PrivacyRefusal, match="expected a local folder"):
            train(config, run_dir, keys_dir=as_path(f"{bucket}/keys"))
        with pytest.raises(PrivacyRefusal, match="never lie on a bucket"):
            start_or_resume(config, run_dir, open_units(config.data.path).manifest)
        assert objects(bucket) == {}

    def test_elsewhere_are_found_again_and_their_place_is_not_told(
        self, config: RunConfig, bucket: str, tmp_path: Path
    ) -> None:
        run_dir, keys = as_path(f"{bucket}/run"), tmp_path / "keys"
        manifest = open_units(config.data.path).manifest
        first = start_or_resume(config, run_dir, manifest, keys_dir=keys)
        again = start_or_resume(config, run_dir, manifest, keys_dir=keys)
        assert again.keys == first.keys != None  # noqa: E711
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        record = read_json(run_dir / "config.json")
        assert [path.stem for path in keys.iterdir()] == [record["key_name"]]
        assert str(keys) not in json.dumps(record)
        assert not (run_dir / KEY_FILE).exists()

    def test_of_the_same_config_in_another_folder_are_others(
        self, config: RunConfig, bucket: str, tmp_path: Path
    ) -> None:
        # Catches: keys found by run_id. Two runs of one config may have other data: the same noise
        # on other gradients gives both away.
        manifest, keys = open_units(config.data.path).manifest, tmp_path / "keys"
        runs = [
            start_or_resume(config, as_path(f"{bucket}/{name}"), manifest, keys_dir=keys)
            for name in ("a", "b")
        ]
        assert runs[0].run_id == runs[1].run_id
        assert runs[0].keys is not None
        assert runs[1].keys is not None
        assert runs[0].keys.noise != runs[1].keys.noise
        assert runs[0].keys.sampling != runs[1].keys.sampling
        again = start_or_resume(config, as_path(f"{bucket}/a"), manifest, keys_dir=keys)
        assert again.keys == runs[0].keys, "goes on with the other's"

    @pytest.mark.parametrize("where", ["bucket", "local"])
    def test_that_are_not_there_are_never_replaced(
        self, config: RunConfig, bucket: str, tmp_path: Path, where: str
    ) -> None:
        run_dir = as_path(f"{bucket}/run") if where == "bucket" else tmp_path / "run"
        manifest, keys, others = open_units(config.data.path).manifest, tmp_path / "k", tmp_path
        start_or_resume(config, run_dir, manifest, keys_dir=keys)
        before = sorted(tmp_path.rglob("*.json"))
        with pytest.raises(PrivacyRefusal, match="keys of this run are gone"):
            start_or_resume(config, run_dir, manifest, keys_dir=others)
        with pytest.raises(PrivacyRefusal, match="name it: --keys FOLDER"):
            start_or_resume(config, run_dir, manifest)
        assert sorted(tmp_path.rglob("*.json")) == before

    def test_of_another_run_under_this_ones_name_are_refused(
        self, config: RunConfig, bucket: str, tmp_path: Path
    ) -> None:
        manifest, keys = open_units(config.data.path).manifest, tmp_path / "keys"
        for name in ("a", "b"):
            start_or_resume(config, as_path(f"{bucket}/{name}"), manifest, keys_dir=keys)
        names = [read_json(f"{bucket}/{name}/config.json")["key_name"] for name in ("a", "b")]
        (keys / f"{names[0]}.json").replace(keys / f"{names[1]}.json")
        with pytest.raises(PrivacyRefusal, match="of another run"):
            start_or_resume(config, as_path(f"{bucket}/b"), manifest, keys_dir=keys)

    def test_in_the_runs_own_folder_stay_there(self, config: RunConfig, tmp_path: Path) -> None:
        manifest = open_units(config.data.path).manifest
        (tmp_path / "run").mkdir()
        start_or_resume(config, tmp_path / "run", manifest)
        with pytest.raises(PrivacyRefusal, match="leave --keys out"):
            start_or_resume(config, tmp_path / "run", manifest, keys_dir=tmp_path / "keys")
        assert not (tmp_path / "keys").exists()

    def test_a_law_fitting_run_has_none(self, configs: dict[str, RunConfig], bucket: str) -> None:
        with pytest.raises(InputError, match="has no secret keys"):
            train(configs["law-fitting"], as_path(f"{bucket}/run"), keys_dir=Path("keys"))
        assert objects(bucket) == {}


def test_a_start_that_lost_its_lease_does_not_undo_the_one_that_took_over(
    configs: dict[str, RunConfig],
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Catches: keys drawn twice for one folder, with the first ones' noise in its checkpoints.
    from dpscale.training import run_folder

    config, run_dir, keys = configs["private"], as_path(f"{bucket}/run"), tmp_path / "keys"
    manifest = open_units(config.data.path).manifest
    draw = run_folder.new_keys

    def overtaken(*arguments: Any) -> Any:
        drawn = draw(*arguments)
        write_json_atomically(run_dir / "config.json", {"of": "another"})
        return drawn

    monkeypatch.setattr(run_folder, "new_keys", overtaken)
    with pytest.raises(FolderBusy, match="another process starts"):
        start_or_resume(config, run_dir, manifest, keys_dir=keys)
    assert read_json(run_dir / "config.json") == {"of": "another"}


def test_two_processes_cannot_train_in_one_folder(
    configs: dict[str, RunConfig],
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dpscale.buckets import lease

    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    run_dir, file = as_path(f"{bucket}/run"), tmp_path / "config.toml"
    file.write_text(to_toml(configs["law-fitting"].to_dict()))
    with locked(run_dir):
        assert main(["train", str(file), "--out", str(run_dir)]) == 75
    assert "another process is training here" in capsys.readouterr().err
    assert not (run_dir / "config.json").exists()


@pytest.fixture(scope="module")
def saved(
    storage_server: str, configs: dict[str, RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished law-fitting run on a bucket. Look, do not touch."""
    from gcs_emulator import new_bucket

    run_dir = as_path(f"{new_bucket()}/run")
    train(configs["law-fitting"], run_dir)
    return run_dir


def test_every_verb_reads_a_run_on_a_bucket(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = str(saved)
    assert main(["status", run_dir, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["finished"] == 1
    assert main(["status", str(saved.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["step"] == 12
    assert main(["generate", run_dir, "--prompt", "whale", "--max-tokens", "2"]) == 0
    assert main(["eval", run_dir]) == 0
    exported = ["--out", str(tmp_path / "exported"), "--format", "gemma2"]
    assert main(["export", run_dir, *exported]) == 0
    assert (tmp_path / "exported" / "model.safetensors").exists()


def test_a_receipt_on_a_bucket_is_shown_and_checked(
    finished: Finished, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = as_path(f"{bucket}/run")
    for name in ("config.json", "receipt.json"):
        write_json_atomically(run_dir / name, read_json(finished("private") / name))
    assert main(["receipt", str(run_dir)]) == 0
    assert "epsilon" in capsys.readouterr().out


def test_a_sweeps_folder_on_a_bucket_is_surveyed_tabled_and_fitted(
    configs: dict[str, RunConfig], bucket: str
) -> None:
    config, folder = configs["law-fitting"], SweepFolder(as_path(f"{bucket}/sweep"))
    other = dataclasses.replace(config, seed=1)
    train(config, folder.run_dir(config.run_id))
    for point in (config, other):
        write_text_atomically(folder.config_path(point.run_id), to_toml(point.to_dict()))
    folder.write_failures({other.run_id: "the machine burnt down"})
    assert {point.run_id for point in folder.read_points()} == {config.run_id, other.run_id}
    states = {state.run_id: state for state in survey(folder.root, now=0.0)}
    assert states[config.run_id].status is Status.FINISHED
    assert states[other.run_id].error == "the machine burnt down"
    write_table(folder, [config, other])
    for source in (folder.root, folder.root / "runs", folder.table_path, folder.table_csv_path):
        (curve,) = read_runs(str(source)).runs
        assert curve.run_id == config.run_id
    with sweep_locked(folder):
        assert (folder.root / ".lock").exists()


def test_a_spoilt_checkpoint_on_a_bucket_is_not_read(
    configs: dict[str, RunConfig], bucket: str
) -> None:
    # Catches: checksums that are not of what stands there now.
    run_dir, config = as_path(f"{bucket}/run"), configs["law-fitting"]
    train(config, run_dir)
    assert restore_params(run_dir, config.model)
    steps = sorted(int(path.name) for path in (run_dir / CHECKPOINTS_DIR).iterdir())
    for step in steps:
        # One that parameters are restored without: Orbax alone would not notice.
        spoilt = next((run_dir / CHECKPOINTS_DIR / str(step) / "counters").iterdir())
        spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="none of the checkpoints"):
        restore_params(run_dir, config.model)


def test_a_checkpoints_checksums_are_those_of_all_its_objects(saved: Path) -> None:
    import google_crc32c

    folder = saved / CHECKPOINTS_DIR / "12"
    checksums = read_json(folder / "checksums.json")
    assert len(checksums) > 3
    for name, checksum in checksums.items():
        assert google_crc32c.value((folder / name).read_bytes()) == checksum, name
    assert saved_step(saved) == 12
