"""`dpscale export` and `dpscale import`: runs of both purposes, their cards, and refusals."""

import dataclasses
import filecmp
import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from dpscale.cli.main import main
from dpscale.config import RunConfig
from dpscale.data.manifest import read_manifest
from dpscale.errors import ExitCode
from dpscale.files import write_json_atomically
from dpscale.model.decoder import init_params
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.receipt import ReceiptFacts, make_receipt
from dpscale.training.checkpoint import Checkpoints


def saved_run(folder: Path, config: RunConfig) -> Path:
    """A run's folder with fresh parameters as its checkpoint of step 0, and a key file."""
    folder.mkdir()
    record = {
        "run_id": "a-run",
        "config": config.to_dict(),
        "data_hash": read_manifest(config.data.path).data_hash,
        "versions": {},
    }
    write_json_atomically(folder / "config.json", record)
    write_json_atomically(folder / "private_keys.json", {"noise": "5eC4e7"})
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save_params(init_params(config.model, jax.random.key(0)))
    checkpoints.close()
    return folder


def receipt(*, is_seed_known: bool = False, iterations: int = 12) -> dict[str, Any]:
    facts = ReceiptFacts(
        accounted=SubsampledGaussian(
            dataset_size=1000,
            expected_batch_size=1000,
            iterations=iterations,
            noise_multiplier=20.0,
            truncated_batch_size=1000,
        ),
        planned_iterations=12,
        target_epsilon=8.0,
        target_delta=1e-5,
        privacy_unit="sequence",
        unit_origin="Cut from documents.",
        l2_clip_norm=1.0,
        rescale_to_unit_norm=True,
        norm_margin=1e-5,
        is_seed_known=is_seed_known,
        num_truncated_batches=31,
        num_truncated_examples=1789,
        run_id="a-run",
        config_hash="c" * 64,
        data_hash="d" * 64,
        tuning_not_covered="a sweep on the same sentences",
        versions={"dpscale": "0.1.0"},
        commit=None,
    )
    return make_receipt(facts, with_curve=False)


@pytest.fixture
def private_run(make_config, tmp_path: Path) -> Path:
    return saved_run(tmp_path / "run", make_config("private"))


def exported(run: Path, out: Path, *options: str) -> int:
    return main(["export", str(run), "--format", "gemma2", "--out", str(out), *options])


def test_a_private_runs_card_carries_its_receipt_and_no_secret(private_run, tmp_path) -> None:
    fields = receipt()
    write_json_atomically(private_run / "receipt.json", fields)
    assert exported(private_run, tmp_path / "hf") == ExitCode.OK
    card = (tmp_path / "hf/README.md").read_text()
    shown = float(card.split("at most ")[1].split()[0])
    assert fields["epsilon"] <= shown <= fields["epsilon"] + 1e-4  # rounded up, never down
    for told in ("1e-05", "zero-out", "sequence. Cut from documents.", "a sweep on the same"):
        assert told in card
    for sentence in [*fields["assumptions"], *fields["not_covered"]]:
        assert sentence in card
    assert (
        read_manifest(
            RunConfig.from_dict(
                json.loads((private_run / "config.json").read_text())["config"], where="x"
            ).data.path
        ).data_hash
        in card
    )
    everything = b"".join(path.read_bytes() for path in (tmp_path / "hf").iterdir())
    assert b"5eC4e7" not in everything
    assert "1,789" not in card  # a count of the data without noise
    assert "1789" not in card


def test_a_private_run_with_a_known_seed_claims_nothing(private_run, tmp_path: Path) -> None:
    write_json_atomically(private_run / "receipt.json", receipt(is_seed_known=True))
    assert exported(private_run, tmp_path / "hf") == ExitCode.OK
    card = (tmp_path / "hf/README.md").read_text()
    assert "makes no privacy claim" in card
    assert "seed known: no guarantee" in card
    assert "at most" not in card
    assert "differential-privacy" not in card


def test_a_private_run_without_a_receipt_is_refused(private_run, tmp_path, capsys) -> None:
    assert exported(private_run, tmp_path / "hf") == ExitCode.USAGE
    assert "no receipt.json yet" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def test_a_receipt_older_than_the_checkpoint_is_refused(private_run, tmp_path, capsys) -> None:
    # A run that was interrupted, resumed and killed has spent more than its receipt says.
    write_json_atomically(private_run / "receipt.json", receipt(iterations=4))
    (private_run / "checkpoints/0").rename(private_run / "checkpoints/5")
    assert exported(private_run, tmp_path / "hf") == ExitCode.USAGE
    assert "covers 4 iterations, and the newest checkpoint has 5" in capsys.readouterr().err


def test_a_law_fitting_run_goes_out_and_back_without_a_claim(
    make_config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved_run(tmp_path / "run", make_config())
    assert exported(run, tmp_path / "hf", "--json") == ExitCode.OK
    result = json.loads(capsys.readouterr().out)
    assert result["tokenizer_note"] is None
    card = (tmp_path / "hf/README.md").read_text()
    assert "**This model makes no privacy claim.** It comes from a law-fitting run" in card
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "back")]) == ExitCode.OK
    out = ["--out", str(tmp_path / "again")]
    assert main(["export", str(tmp_path / "back"), "--format", "gemma2", *out]) == ExitCode.OK
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert filecmp.cmp(tmp_path / "again" / name, tmp_path / "hf" / name, shallow=False)


def test_the_wrong_format_is_one_line_with_the_right_one(make_config, tmp_path, capsys) -> None:
    run = saved_run(tmp_path / "run", make_config())
    out = ["--out", str(tmp_path / "hf")]
    assert main(["export", str(run), "--format", "vaultgemma", *out]) == ExitCode.USAGE
    assert capsys.readouterr().err == (
        "dpscale export: --format: the model has norms after its blocks: expected gemma2, "
        "found vaultgemma.\n"
    )


def test_check_says_what_to_install_before_anything_is_written(
    make_config, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved_run(tmp_path / "run", make_config())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert exported(run, tmp_path / "hf", "--check") == ExitCode.USAGE
    assert capsys.readouterr().err == (
        "dpscale export: --check: needs torch: pip install 'dpscale[hf]'.\n"
    )
    assert not (tmp_path / "hf").exists()


def test_an_import_that_is_refused_is_one_line(tmp_path: Path, capsys) -> None:
    assert main(["import", str(tmp_path), "--out", str(tmp_path / "run")]) == ExitCode.USAGE
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_check_compares_with_transformers(make_config, tmp_path: Path, capsys, dtype) -> None:
    run = saved_run(tmp_path / "run", make_config(model={"compute_dtype": "bfloat16"}))
    options = ["--check", "--json", "--dtype", dtype]
    assert exported(run, tmp_path / "hf", *options) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)["check"]
    assert found["num_tokens"] == 8
    assert found["has_same_ids"] is True
    assert (found["max_logit_difference"] <= 2e-5) == (dtype == "float32")


@pytest.mark.parity
def test_check_fails_on_weights_that_are_not_the_models(
    make_config, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpscale.interop import comparison

    def other_model(model, params, tokens):
        return init_logits(dataclasses.replace(model, final_logit_softcap=0.1), params, tokens)

    init_logits = comparison.logits
    monkeypatch.setattr(comparison, "logits", other_model)
    run = saved_run(tmp_path / "run", make_config())
    assert exported(run, tmp_path / "hf", "--check") == ExitCode.FAILED_POINTS
    assert "logits differ by more than" in capsys.readouterr().err
