"""`dpscale recommend` from a fitted law to a config, with real accounting."""

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from dpscale.cli.main import main
from dpscale.config import RunConfig
from dpscale.privacy.accounting.accountant import accounted
from dpscale.privacy.accounting.pld import epsilon
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian

FLOPS = 6.0 * 60_000 * 256 * 200 * 64


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("law")
    lines = []
    for size in (24_720, 63_776, 184_896):
        for ratio in (0.0, 2.0**-9, 2.0**-7):
            for plan in (200, 400):
                for rate in (0.02, 0.03, 0.05):
                    loss = 1.8 + 250 / size**0.55 + 60 / (64 * plan) ** 0.4 + 14 * ratio**0.6
                    loss *= 1 + (0.01 if rate != 0.03 else 0)
                    run = f"r{len(lines)},law-fitting,finished,,0,{size},16,64,1024,64"
                    run += f",{plan},{plan},{ratio},{rate},{loss},{loss},{plan},{loss},{loss}"
                    lines.append(run)
    header = (
        "run_id,purpose,status,error,seed,num_params,width,seq_len,vocab_size,"
        "physical_batch_size,iterations,steps_taken,noise_batch_ratio,learning_rate,train_loss,"
        "eval_loss,step,step_train_loss,step_eval_loss"
    )
    (folder / "results.csv").write_text("\n".join([header, *lines]) + "\n")
    path = folder / "law.json"
    assert main(["fit", str(folder / "results.csv"), "--out", str(path), "--bootstraps", "3"]) == 0
    return path


def test_the_answer_spends_exactly_its_budget(
    law: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--eps", "8", "--flops", str(FLOPS), "--law", str(law), "--dataset-size", "6e4"]
    assert main(["recommend", *arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    mechanism = SubsampledGaussian(
        dataset_size=60_000,
        expected_batch_size=answer["expected_batch_size"],
        iterations=answer["iterations"],
        noise_multiplier=answer["noise_multiplier"],
    )
    assert accounted(mechanism, delta=answer["delta"]).upper <= 8
    # dp_accounting's own figure is rounded up by its grid.
    assert epsilon(mechanism, delta=answer["delta"]) == pytest.approx(8, rel=1e-3)
    assert answer["delta"] == 1e-8
    assert answer["train_flops"] <= FLOPS
    ratio = answer["noise_multiplier"] / answer["expected_batch_size"]
    assert answer["noise_batch_ratio"] == ratio
    assert answer["predicts"] == "train_loss"
    assert set(answer["assumptions"]) == {"delta", "seq_len", "vocab_size"}
    assert answer["fitted_at"]["physical_batch_size"] == 64


def test_out_writes_a_config_whose_noise_and_cap_meet_the_target(
    law: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "units"
    data.mkdir()
    manifest = {"dataset_size": 60_000, "seq_len": 64, "vocab_size": 1024}
    (data / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "best.toml"
    arguments = ["--epsilon", "8", "--flops", str(FLOPS), "--law", str(law), "--data", str(data)]
    assert main(["recommend", *arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"dpscale train {out}" in printed
    assert "physical batch 64" in printed
    config = RunConfig.from_dict(tomllib.loads(out.read_text()), where="best.toml")
    private = config.private
    assert private is not None
    assert private.noise_multiplier is not None
    capped = SubsampledGaussian(
        dataset_size=60_000,
        expected_batch_size=private.expected_batch_size,
        iterations=config.training.iterations,
        noise_multiplier=private.noise_multiplier,
        truncated_batch_size=private.truncated_batch_size,
    )
    assert accounted(capped, delta=private.target_delta).upper <= private.target_epsilon
    assert epsilon(capped, delta=private.target_delta) == pytest.approx(8, rel=1e-3)
    assert config.data.path == str(data)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--eps", "2", "--flops", "1e12", "--law", "none.json"], "none.json: no such file"),
        (["--eps", "0", "--flops", "1e12", "--law", "LAW"], "--eps: expected a number above 0"),
        (["--eps", "2", "--flops", "1", "--law", "LAW"], "--flops: 1 does not pay"),
        (["--eps", "2", "--flops", "1e12", "--law", "LAW", "--seq-len", "6.5"], "--seq-len: exp"),
        (["--eps", "2", "--flops", "1e12", "--law", "LAW", "--delta", "1"], "--delta: expected"),
        (["--eps", "2", "--flops", "1e12", "--law", "LAW", "--data", "none"], "manifest.json: no"),
        (["--eps", "2", "--law", "LAW", "--max-params", "10"], "--max-params: 10 leaves no sh"),
        (["--eps", "2", "--law", "LAW", "--learning-rate", "0"], "--learning-rate: expected"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    law: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert main(["recommend", *(str(law) if word == "LAW" else word for word in options)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dpscale recommend: ")
    assert expected in error
    assert error.count("\n") == 1


def test_first_words_come_within_two_seconds_and_without_jax_or_pandas(law: Path) -> None:
    program = (
        "import sys; from dpscale.cli.main import main\n"
        f"code = main(['recommend', '--eps', '8', '--flops', '{FLOPS}', '--law', {str(law)!r},"
        " '--dataset-size', '60000'])\n"
        "heavy = sorted({'jax', 'pandas', 'flax', 'grain', 'matplotlib'} & set(sys.modules))\n"
        "print('imported', heavy); sys.exit(code)"
    )
    start = time.monotonic()
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        waited = time.monotonic() - start
        rest = process.stdout.read()
    assert process.returncode == 0
    assert first.startswith("assumed: ")
    assert "imported []" in rest
    assert waited < 8  # 0.5 s on an idle machine; CI machines share their cores


BUDGET = ["recommend", "--eps", "2", "--flops", "1e19", "--dataset-size", "1e7"]


def test_a_fresh_install_answers_from_the_published_law(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(BUDGET) == 0
    printed = capsys.readouterr().out
    assert "law: fitted to Table 2 of arXiv 2501.18914" in printed
    for expected in (
        "noise_multiplier",
        "for one run",
        "for the law itself",
        "resampled fits, 5 to 95 %",
        "within 1 % of the best loss",
        "smallest model there",
        "membership advantage there",
        "saturating compute",
        "with a budget doubled",
        "epochs: the runs behind the law see each unit about once",
        "is untuned",
    ):
        assert expected in printed
    assert "width  layers" not in printed


def test_the_near_optimal_set_is_listed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BUDGET, "--list", "--prefer", "small"]) == 0
    listed = capsys.readouterr().out.splitlines()
    header = next(i for i, line in enumerate(listed) if line.startswith("num_params  width"))
    first = listed[header + 1].split()
    chosen = next(line for line in listed if line.startswith("num_params   ")).split()[1]
    assert first[0] == chosen
    assert first[0].replace(",", "").isdigit()
    assert any("chosen for the smallest model" in line for line in listed)


def test_without_compute_the_saturating_budget_is_spent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ["recommend", "--eps", "2", "--dataset-size", "1e6", "--json"]
    assert main(few) == 0
    answer = json.loads(capsys.readouterr().out)
    assert "flops" in answer["assumptions"]
    assert answer["saturation"]["is_reached"]
    assert answer["budget_flops"] == answer["saturation"]["train_flops"]
    assert 0.9 < answer["train_flops"] / answer["budget_flops"] <= 1
    assert main([*few[:-1], "--flops", "1e26"]) == 0
    assert "more compute buys less than 1 %" in capsys.readouterr().out


def test_everything_printed_is_in_the_json_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "best.toml"
    limits = ["--max-params", "2e7", "--max-epochs", "40", "--learning-rate", "0.0125"]
    assert main([*BUDGET, *limits, "--json", "--out", str(out)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["limits"] == {
        "max_params": 2e7,
        "max_batch": None,
        "min_iterations": None,
        "max_epochs": 40,
    }
    assert answer["num_params"] <= 2e7
    assert answer["epochs"] <= 40
    assert answer["law"] == "published"
    low, high = answer["near_optimal"]["membership_advantage"]
    assert 0 < low <= answer["membership_advantage"] <= high < 1
    assert answer["near_optimal"]["smallest"]["num_params"] in answer["near_optimal"]["num_params"]
    assert len(answer["doublings"]) == 4
    assert set(answer["exact"]) <= set(answer)
    assert answer["optimum_interval"]["replicates"] > 0
    assert answer["learning_rate"] == 0.0125
    assert not answer["learning_rate_is_tuned"]
    config = RunConfig.from_dict(tomllib.loads(out.read_text()), where="best.toml")
    assert config.optimizer.learning_rate == 0.0125
    assert config.training.iterations == answer["iterations"]
    assert "untuned" not in out.read_text()


def test_a_config_from_a_law_without_rates_marks_its_rate(tmp_path: Path) -> None:
    out = tmp_path / "best.toml"
    assert main([*BUDGET, "--out", str(out)]) == 0
    text = out.read_text()
    assert "untuned" in text
    config = RunConfig.from_dict(tomllib.loads(text), where="best.toml")
    assert config.optimizer.learning_rate == 2.0**-8
    assert config.model.vocab_size == 30_522
