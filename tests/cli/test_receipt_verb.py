"""`dpscale receipt` shows what a run guarantees, checks it, and explains why there is none."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpscale.cli.main import main
from dpscale.cli.numbers import bounds, rounded_up
from dpscale.errors import ExitCode
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.receipt import NO_EPSILON, ReceiptFacts, make_receipt

FACTS = ReceiptFacts(
    accounted=SubsampledGaussian(
        dataset_size=1000,
        expected_batch_size=1000,
        iterations=30,
        noise_multiplier=20.0,
        truncated_batch_size=1000,
    ),
    planned_iterations=50,
    target_epsilon=8.0,
    target_delta=1e-5,
    privacy_unit="sequence",
    unit_origin="Cut from documents.",
    l2_clip_norm=0.5,
    rescale_to_unit_norm=True,
    norm_margin=1e-5,
    is_seed_known=False,
    num_truncated_batches=3,
    num_truncated_examples=14,
    run_id="a-run",
    config_hash="c" * 64,
    data_hash="d" * 64,
    tuning_not_covered="a sweep on the same speeches",
    versions={"dpscale": "0.1.0"},
    commit="abc123",
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "receipt.json").write_text(json.dumps(make_receipt(FACTS, with_curve=True)))
    return tmp_path


def tampered(run_dir: Path, **changes: Any) -> Path:
    path = run_dir / "receipt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_people_get_sections(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["receipt", str(run_dir)]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if not line.startswith("  ")]
    assert titles == [
        "Receipt of a-run",
        "Mechanism",
        "At other deltas",
        "What an attacker gets, at most",
        "Assumed",
        "Not covered",
        "Not private (counts of the data without noise)",
        "Origin",
    ]
    text = " ".join(" ".join(lines).split())
    receipt = json.loads((run_dir / "receipt.json").read_text())
    epsilon = bounds(receipt["epsilon_lower"], receipt["epsilon"])
    advantage = receipt["attacker"]["membership_advantage"]
    for words in (
        f"epsilon {epsilon} at delta 1e-05 (certified)",
        f"epsilon {epsilon} at delta 1e-05 epsilon ",
        f"membership advantage {rounded_up(100 * advantage, digits=3)} %",
        "true positives at 0.1 % false",
        "30 taken of 50",
        "zero-out",
        "Cut from documents.",
        "threefry2x32, 64 bits",
        "operating system entropy",
        "margin 1e-05",
        "Tuning before the run: a sweep on the same speeches",
        "never exceeds 7.54 standard deviations",
        "abc123",
    ):
        assert words in text
    counts = text[text.index("Not private (") :].split()
    assert {"3", "14"} <= set(counts)


def test_what_was_not_worked_out_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Catches: a crash on the receipt of an interrupted run, or of one without an epsilon.
    receipt = make_receipt(FACTS, with_curve=False)
    receipt |= {"epsilon": None, "epsilon_upper": None, "epsilon_lower": None, "commit": None}
    receipt |= {"guarantee": NO_EPSILON, "is_certified": False, "truncated_batch_size": None}
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    assert main(["receipt", str(tmp_path)]) == ExitCode.OK
    text = capsys.readouterr().out
    assert text.count("not worked out: the run was interrupted") == 2
    for words in ("unknown at delta 1e-05 (not certified)", NO_EPSILON, "no cap", "not known"):
        assert words in text


def test_machines_get_the_receipt_itself(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_dir / "receipt.json"
    assert main(["receipt", str(path), "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text())


def test_an_honest_receipt_passes_its_check(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["receipt", str(run_dir), "--check"]) == ExitCode.OK
    assert "follows from its mechanism" in capsys.readouterr().out
    assert main(["receipt", str(run_dir), "--check", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["mismatches"] == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"epsilon": 0.1}, "epsilon: states 0.1, recomputed "),
        ({"iterations": 29}, "epsilon: states "),
        ({"noise_multiplier": 30.0}, "epsilon: states "),
        ({"epsilon": "0.1"}, "epsilon: '0.1' is not of type "),
    ],
)
def test_a_tampered_one_does_not(
    changes: dict[str, Any], line: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tampered(run_dir, **changes)
    assert main(["receipt", str(run_dir), "--check"]) == ExitCode.FAILED_POINTS
    lines = capsys.readouterr().out.splitlines()
    assert any(each.startswith(f"{path}: {line}") for each in lines)
    assert all(each.startswith(f"{path}: ") for each in lines)
    assert main(["receipt", str(run_dir), "--check", "--json"]) == ExitCode.FAILED_POINTS
    assert len(json.loads(capsys.readouterr().out)["mismatches"]) == len(lines)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["receipt", *arguments]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.mark.parametrize("options", [[], ["--check"]])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read as JSON"),
        ('{"format_version": 1, "epsilon": 2.0}', "expected 2, found 1: written by another"),
    ],
)
def test_what_is_no_receipt_of_ours_is_one_line(
    text: str,
    reason: str,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "receipt.json").write_text(text)
    line = refusal(capsys, str(tmp_path), *options)
    assert line.startswith(f"dpscale receipt: {tmp_path / 'receipt.json'}")
    assert reason in line


def test_one_that_breaks_its_schema_is_not_shown(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tampered(run_dir, delta=2)
    line = refusal(capsys, str(run_dir))
    assert line.startswith(f"dpscale receipt: {path}: delta: 2 ")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "no receipt.json here; expected the folder of a private run"),
        ({"config": {"purpose": "law-fitting"}}, "a law-fitting run makes no privacy claim"),
        ({"config": {"purpose": "private"}}, "when it ends or is interrupted"),
    ],
)
def test_a_folder_without_one_says_why(
    config: dict[str, Any] | None,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert reason in refusal(capsys, str(tmp_path))


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gone.json: no such file" in refusal(capsys, str(tmp_path / "gone.json"))


def test_it_needs_no_jax(run_dir: Path) -> None:
    # Catches: an auditor who must install an accelerator's libraries to check a file.
    code = (
        "import sys\n"
        "from dpscale.cli.main import main\n"
        f"assert main(['receipt', {str(run_dir)!r}, '--check']) == 0\n"
        "assert 'dpscale.privacy.receipt_check' in sys.modules\n"
        "assert not {'jax', 'jaxlib', 'flax'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
