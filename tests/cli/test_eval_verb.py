"""`dpscale eval`, on a run that really took place."""

import importlib.util
import json

import pytest

from dpscale.cli.main import main
from dpscale.data.assets import resolve
from dpscale.data.prepare import prepare
from dpscale.data.request import PrepareRequest
from dpscale.inference.trained import open_trained
from dpscale.interop.exporting import export_model
from dpscale.interop.importing import import_model
from dpscale.training.loop import train


@pytest.fixture(scope="module")
def run_dir(make_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "run"
    train(make_config(), folder)
    return folder


def answer(capsys, *typed):
    assert main(["eval", *map(str, typed), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_loss_is_that_of_the_run(run_dir, tmp_path, capsys):
    """Catches other units or parameters than the run's last evaluation had."""
    out = tmp_path / "answer.json"
    found = answer(capsys, run_dir, "--out", out)
    result = json.loads((run_dir / "result.json").read_text())
    assert found["held_out"]["loss"]["value"] == pytest.approx(result["eval_loss"], rel=1e-6)
    assert found["held_out"]["num_units"] == 20
    assert json.loads(out.read_text()) == found


def test_people_read_both_measures(run_dir, capsys):
    """Catches a table without intervals or units."""
    assert main(["eval", str(run_dir), "--num-units", "5"]) == 0
    printed = capsys.readouterr().out
    assert "5 held-out units, 40 tokens" in printed
    assert "nats per token" in printed
    assert "bits_per_byte" in printed


def test_memorization_is_tested_on_the_run_s_own_units(run_dir, capsys):
    """Catches an option that does not reach the test."""
    typed = (run_dir, "--memorization", "--num-units", 6, "--prefix-tokens", 4)
    found = answer(capsys, *typed, "--continuation-tokens", 3)["memorization"]
    assert found["train"]["exact"]["num_units"] == 6
    assert (found["prefix_tokens"], found["continuation_tokens"]) == (4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-units", "0"], "--num-units: expected at least 1"),
        (["--items", "x"], "--items: belongs to --tasks"),
        (["--tasks", "pika"], "--tasks: expected all"),
        (["--tasks", "piqa", "--limit", "0"], "--limit: expected at least 1"),
        (["--data", "nowhere"], "nowhere: no prepared data here"),
        (["--memorization"], "prefix"),
    ],
)
def test_mistakes_are_one_line(run_dir, capsys, options, message):
    """Catches a traceback, and work that is done before the mistake is seen."""
    assert main(["eval", str(run_dir), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("dpscale eval: ")
    assert message in error
    assert "\n" not in error


def test_data_of_another_tokenizer_are_refused(run_dir, tmp_path, capsys):
    """Catches a loss on ids that mean other text than the model learned."""
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "the whale and the sea " * 40}) + "\n")
    other = resolve("embedded:moby-2048")
    request = PrepareRequest(inputs=(tmp_path / "text.jsonl",), tokenizer=other, seq_len=8)
    prepare(request, tmp_path / "data", workers=1)
    assert main(["eval", str(run_dir), "--data", str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err
    assert "--data: " in error
    assert "prepared with another tokenizer than the model's" in error


def test_an_imported_model_is_scored_on_the_data_that_are_named(
    run_dir, prepared, tmp_path, capsys
):
    """Catches parameters that are lost on the way, and data that are guessed."""
    export_model(open_trained(run_dir), tmp_path / "hf", format="gemma2")
    import_model(tmp_path / "hf", tmp_path / "imported")
    assert main(["eval", str(tmp_path / "imported")]) == 2
    assert "--data: an imported model has no data of its own" in capsys.readouterr().err
    typed = ("--data", prepared, "--num-units", 20)
    found = answer(capsys, tmp_path / "imported", *typed)["held_out"]
    assert found == answer(capsys, run_dir, *typed)["held_out"]


def test_tasks_without_the_harness_say_what_to_install(run_dir, capsys, monkeypatch):
    """Catches a traceback where an optional package is missing."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["eval", str(run_dir), "--tasks", "piqa"]) == 2
    assert "lm_eval is not installed; run: pip install 'dpscale[eval]'" in capsys.readouterr().err


def test_an_exported_folder_is_for_tasks_only(tmp_path, capsys):
    """Catches a Hugging Face folder that is taken for a broken run."""
    (tmp_path / "config.json").write_text('{"model_type": "gemma2"}')
    assert main(["eval", str(tmp_path)]) == 2
    assert "--tasks scores it; for the rest run dpscale import" in capsys.readouterr().err
