"""A real sweep whose folder lies on a bucket: the same as a local one."""

from pathlib import Path

import pytest
from real_sweep import dpscale, finish, losses, make_folder

from dpscale.errors import InputError
from dpscale.paths import as_path
from dpscale.sweep.layout import SweepFolder, locked


def test_a_sweep_on_a_bucket_ends_as_a_local_one(tmp_path: Path, bucket: str) -> None:
    folder, out = make_folder(tmp_path), f"{bucket}/sweep"
    (folder / "s.toml").write_text(
        (folder / "s.toml").read_text().replace("iterations = 60", "iterations = 12")
    )
    command = ("sweep", "s.toml", "--out", out)
    code, text = finish(dpscale(folder, *command))
    assert code == 0, text
    assert finish(dpscale(folder, "sweep", "s.toml", "--out", "local"))[0] == 0
    assert losses(as_path(out)) == losses(folder / "local")
    for log in (as_path(out) / "logs").iterdir():
        assert "finished after 12 iterations" in log.read_text()
    assert (as_path(out) / "results.csv").exists()
    code, text = finish(dpscale(folder, *command))
    assert code == 0, text
    assert "2 finished" in text
    code, text = finish(dpscale(folder, "status", out))
    assert code == 0, text
    assert text.count("finished") >= 2
    assert not list(folder.glob("gs:*"))


def test_two_sweeps_in_one_folder_of_a_bucket_are_one_too_many(bucket: str) -> None:
    folder = SweepFolder(as_path(f"{bucket}/sweep"))
    with locked(folder), pytest.raises(InputError, match="another sweep works in"), locked(folder):
        pass
