"""`dpscale generate`, on a run that really took place."""

import json

import pytest

from dpscale.cli.main import main
from dpscale.training.loop import train


@pytest.fixture(scope="module")
def run_dir(make_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate") / "run"
    train(make_config(), folder)
    return folder


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_one_prompt_is_printed_with_its_continuation(run_dir, capsys):
    """Catches a stream that differs from the text that is returned."""
    typed = ["generate", str(run_dir), "--prompt", "the whale", "--max-tokens", "7"]
    assert main(typed) == 0
    printed = capsys.readouterr()
    assert main([*typed, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (text,) = answer["texts"]
    assert printed.out == f"the whale{text['text']}\n"
    assert len(text["tokens"]) == 7
    assert "trained on 8" in printed.err  # and these are two and seven


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_prompts_of_a_file_come_out_in_order_and_in_a_file(run_dir, tmp_path, capsys, suffix):
    """Catches prompts that are mixed up, and a batch size that changes a text."""
    prompts = ["the sea", "storm", "ship the crew"]
    file = tmp_path / f"prompts.{suffix}"
    written = prompts if suffix == "txt" else [json.dumps({"prompt": p}) for p in prompts]
    file.write_text("\n".join(written) + "\n", encoding="utf-8")
    seen = []
    for batch_size in ("2", "3"):
        out = tmp_path / f"{batch_size}.jsonl"
        typed = ["generate", str(run_dir), "--prompts", str(file), "--max-tokens", "4"]
        assert main([*typed, "--batch-size", batch_size, "--out", str(out), "--top-p", "0.9"]) == 0
        texts = [json.loads(line) for line in out.read_text().splitlines()]
        assert [text["prompt"] for text in texts] == prompts
        assert lines(capsys) == [
            f"[{n}] {text['prompt']}{text['text']}" for n, text in enumerate(texts, 1)
        ]
        seen.append(texts)
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--prompt: expected either this or --prompts"),
        (["--prompt", "a", "--prompts", "b"], "--prompt: expected either this or --prompts"),
        (["--prompts", "missing.txt"], "--prompts: missing.txt: "),
        (["--prompt", "a", "--temperature", "-1"], "--temperature: expected at least 0"),
        (["--prompt", "a", "--top-p", "0"], "--top-p: expected above 0"),
        (["--prompt", "a", "--batch-size", "0"], "--batch-size: expected at least 1"),
        (["--prompt", "a", "--max-tokens", "-1"], "--max-tokens: expected at least 0"),
    ],
)
def test_mistakes_are_one_line(run_dir, capsys, options, message):
    """Catches a traceback, and a place that is not what was typed."""
    assert main(["generate", str(run_dir), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"dpscale generate: {message}")
    assert "\n" not in error


def test_a_line_that_holds_no_prompt_is_named(run_dir, tmp_path, capsys):
    """Catches a file that is read half."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    assert main(["generate", str(run_dir), "--prompts", str(file)]) == 2
    assert f'{file}:2: expected a JSON object with a text under "prompt"' in capsys.readouterr().err


def test_by_default_a_text_ends_where_the_trained_length_does(run_dir, capsys):
    """Catches a default that is beyond the model, and then warns of itself."""
    assert main(["generate", str(run_dir), "--prompt", "the whale", "--json"]) == 0
    printed = capsys.readouterr()
    (text,) = json.loads(printed.out)["texts"]
    assert len(text["tokens"]) <= 6  # of 8, behind the prompt's two
    assert printed.err == ""
