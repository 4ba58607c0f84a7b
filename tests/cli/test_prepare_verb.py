"""`dpscale prepare` as it is typed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpscale.cli.main import main
from dpscale.data.units import open_units
from dpscale.errors import ExitCode

TOKENIZER = ["--tokenizer", "embedded:moby-1024"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    lines = [{"text": f"chapter {i}: the whale and the sea. " * 9} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def arguments(corpus: Path, *more: str) -> list[str]:
    out = str(corpus.parent / "out")
    base = ["prepare", "--input", str(corpus), *TOKENIZER, "--seq-len", "16", "--out", out]
    return [*base, "--workers", "1", *more]


def test_json_has_the_glossarys_numbers(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(corpus, "--json")) == ExitCode.OK
    numbers = json.loads(capsys.readouterr().out)
    manifest = open_units(corpus.parent / "out").manifest
    for name in ("dataset_size", "num_eval_units", "seq_len", "vocab_size", "privacy_unit"):
        assert numbers[name] == getattr(manifest, name)
    assert numbers["data_hash"] == manifest.data_hash
    assert "train_shards" not in numbers


def test_people_read_what_was_made_and_dropped(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(corpus)) == ExitCode.OK
    out = capsys.readouterr().out
    size = open_units(corpus.parent / "out").manifest.dataset_size
    assert f"{size:,} training units" in out
    assert "dropped units:" in out
    assert "not private" in out


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--privacy-unit", "document"], "dpscale prepare: --privacy-unit: 'document' does not"),
        (["--seq-len", "0"], "dpscale prepare: --seq-len: expected at least 1, found 0."),
        (["--eval-fraction", "1"], "dpscale prepare: --eval-fraction: expected in [0, 1)"),
        (["--workers", "0"], "dpscale prepare: --workers: expected at least 1, found 0."),
        (["--text-field", "body"], "corpus.jsonl:1: no field 'body'; there are text"),
        (["--tokenizer", "embedded:x"], "dpscale prepare: embedded:x: no such embedded file"),
        (["--tokenizer", "nothing"], "dpscale prepare: --tokenizer: nothing: No such file"),
        (["--input", "nothing.txt"], "dpscale prepare: nothing.txt: no such file."),
        (["--input"], "dpscale prepare: --input: no file given."),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    corpus: Path, more: list[str], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(corpus, *more)) == ExitCode.USAGE
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("dpscale")]
    assert len(lines) == 1
    assert complaint in lines[0]
    assert not (corpus.parent / "out").exists()


def test_too_few_documents_to_hold_out_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the whale and the sea. " * 20)  # one document, on the training side
    assert main(arguments(path)) == ExitCode.OK
    assert "warning: no held-out unit" in capsys.readouterr().err


def test_a_preparation_killed_with_sigkill_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """Real processes: the second call finds the saved work, and no worker outlives the first."""
    corpus = tmp_path / "a.jsonl"
    paragraph = "the whale went down to the sea and the sea was calm. "
    lines = (json.dumps({"text": f"{i} " + paragraph * 40}) + "\n" for i in range(1600))
    corpus.write_text("".join(lines))
    command = [
        *(sys.executable, "-c"),
        "import sys; from dpscale.data import prepare; prepare.SAVE_EVERY = 1;"
        "from dpscale.cli.main import main; sys.exit(main())",
        *("prepare", "--input", str(corpus), *TOKENIZER, "--seq-len", "32", "--workers", "2"),
    ]
    state = tmp_path / "out.partial" / "state.json"
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not (tmp_path / "out").exists()
    for name in ("out", "whole"):
        subprocess.run(
            [*command, "--out", str(tmp_path / name)], check=True, stderr=subprocess.DEVNULL
        )
    first, second = (open_units(tmp_path / name).manifest for name in ("out", "whole"))
    assert first == second
    assert not any(_alive(pid) for pid in workers)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
