"""`dpscale figures` draws the law that ships, and names what it wrote."""

import json
from pathlib import Path

import pytest

from dpscale.cli.main import main
from dpscale.errors import ExitCode


def test_the_shipped_law_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["figures", "--out", str(tmp_path), "--eps", "2", "--dataset-size", "1e7", "--json"]
    assert main(words) == ExitCode.OK
    paths = [Path(path) for path in json.loads(capsys.readouterr().out)["figures"]]
    assert [path.name for path in paths][:2] == ["held_out.png", "iso_flop_slices.png"]
    assert len(paths) == 6
    assert all(path.exists() for path in paths)


def test_a_budget_out_of_range_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["figures", "--out", str(tmp_path / "new"), "--eps", "2", "0"]
    assert main(words) == ExitCode.USAGE
    assert "--eps: expected a number above 0, found 0." in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
