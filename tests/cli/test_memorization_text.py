"""The memorization part of `dpscale eval`, on a run that was trained for real."""

import dataclasses
import json
import shutil

import pytest

from dpscale.cli import output
from dpscale.cli.memorization_text import run_memorization
from dpscale.cli.output import Output
from dpscale.errors import InputError
from dpscale.evaluation.memorization import MemorizationTest
from dpscale.files import read_json, write_json_atomically
from dpscale.inference.trained import open_trained
from dpscale.training import loop

OPTIONS = MemorizationTest(num_units=12, prefix_tokens=4, continuation_tokens=4)


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memorization") / "run"
    loop.train(make_config(), folder)
    return open_trained(folder)


def test_people_get_tables_and_machines_get_the_same_numbers(trained, capsys, monkeypatch):
    """Catches a table that leaves the control or the notes out, and progress on stdout."""
    monkeypatch.setattr(output, "_QUIET_SECONDS", -1.0)  # quick work is silent otherwise
    found = run_memorization(trained, OPTIONS, Output(json=False))
    shown = capsys.readouterr()
    assert json.loads(json.dumps(found, allow_nan=False))["train"]["exact"]["num_units"] == 12
    assert f"[0.00%, {found['train']['exact']['upper']:.2%}]" in shown.out
    for words in ("training", "held out", "occurs 1", "one-sided p = 1", "NOT PRIVATE"):
        assert words in shown.out
    assert "reading training units" in shown.err
    assert "continuing units: 24/24" in shown.err
    assert "continuing units" not in shown.out


def test_other_data_than_the_runs_is_refused(trained, prepared, tmp_path):
    """Catches a test against units that the model never saw, which would show no memorization."""
    other = tmp_path / "data"
    shutil.copytree(prepared, other)
    run_memorization(trained, OPTIONS, Output(json=True), data=other)  # the same units elsewhere
    manifest = read_json(other / "manifest.json")
    write_json_atomically(other / "manifest.json", {**manifest, "data_hash": "0" * 64})
    with pytest.raises(InputError, match="does not hold the units of this run"):
        run_memorization(trained, OPTIONS, Output(json=True), data=other)


def test_another_tokenizer_is_refused(trained, prepared, tmp_path):
    """Catches ids that mean other words to the model than to the data."""
    other = tmp_path / "data"
    shutil.copytree(prepared, other)
    manifest = read_json(other / "manifest.json")
    write_json_atomically(other / "manifest.json", {**manifest, "tokenizer_sha256": "0" * 64})
    with pytest.raises(InputError, match="another tokenizer"):
        run_memorization(trained, OPTIONS, Output(json=True), data=other)


def test_an_imported_model_needs_its_data_named(trained, prepared, capsys):
    """Catches a guess at what an imported model was trained on."""
    imported = dataclasses.replace(trained, config=None)
    with pytest.raises(InputError, match="--data"):
        run_memorization(imported, OPTIONS, Output(json=True))
    run_memorization(imported, OPTIONS, Output(json=True), data=prepared)
    assert "not known" in capsys.readouterr().err
