"""From text to a prepared folder, against a loop over lists; kills, repeats, refusals."""

import dataclasses
import errno
import fcntl
import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digest import digest

from dpscale.data import prepare as prepare_module
from dpscale.data import tokenization
from dpscale.data.manifest import Manifest, read_manifest
from dpscale.data.prepare import prepare
from dpscale.data.request import PrepareRequest
from dpscale.data.tokenizer import Tokenizer
from dpscale.data.units import open_units
from dpscale.errors import InputError

SEQ_LEN = 7


@pytest.fixture
def request_(corpus: Path, tokenizer_path: Path) -> PrepareRequest:
    return PrepareRequest((corpus,), tokenizer_path, SEQ_LEN, eval_fraction=0.2)


@pytest.fixture
def many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few documents, each saved at once."""
    monkeypatch.setattr(tokenization, "CHUNK_BYTES", 600)
    monkeypatch.setattr(prepare_module, "SAVE_EVERY", 1)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: digest(path.read_bytes()) for path in folder.iterdir()}


def slow_units(texts: list[str], tokenizer: Tokenizer, fraction: float) -> list[list[Any]]:
    """Training units and evaluation units, before duplicates are dropped."""
    streams: list[list[int]] = [[], []]
    for text in texts:
        held_out = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64 < fraction
        streams[held_out] += [*tokenizer.encode(text).tolist(), tokenizer.eos_id]
    length = SEQ_LEN + 1
    return [
        [tuple(s[i : i + length]) for i in range(0, len(s) - length + 1, length)] for s in streams
    ]


def test_the_folder_is_what_a_loop_over_lists_gives(
    tmp_path: Path,
    request_: PrepareRequest,
    texts: list[str],
    tokenizer: Tokenizer,
    many_chunks: None,
) -> None:
    manifest = prepare(request_, tmp_path / "out", workers=1)
    train, held_out = slow_units(texts, tokenizer, 0.2)
    assert len(held_out) > 5
    unique_eval = list(dict.fromkeys(held_out))
    unique_train = [unit for unit in dict.fromkeys(train) if unit not in held_out]
    opened = open_units(tmp_path / "out")
    for units, expected in ((opened.train, unique_train), (opened.eval, unique_eval)):
        np.testing.assert_array_equal(units.gather(np.arange(len(units))), np.array(expected))
    overlapping = sum(unit in held_out for unit in train)
    assert manifest.dataset_size == len(unique_train)
    assert manifest.num_eval_units == len(unique_eval)
    assert manifest.num_overlapping_units == overlapping
    assert manifest.num_duplicate_units == len(train) - overlapping - len(unique_train)
    assert manifest.num_duplicate_eval_units == len(held_out) - len(unique_eval)
    assert manifest.num_documents + manifest.num_eval_documents == len(texts)
    assert manifest.num_tokens == len(train) * (SEQ_LEN + 1) + manifest.num_remainder_tokens
    shares = np.array(list(Counter(t for unit in unique_train for t in unit).values()))
    shares = shares / shares.sum()
    assert manifest.unigram_entropy == pytest.approx(-sum(s * math.log(s) for s in shares))


def test_duplicates_stay_on_request(
    tmp_path: Path, request_: PrepareRequest, texts: list[str], tokenizer: Tokenizer
) -> None:
    request = dataclasses.replace(request_, keep_duplicates=True)
    manifest = prepare(request, tmp_path / "out", workers=1)
    train, held_out = slow_units(texts, tokenizer, 0.2)
    assert manifest.dataset_size == sum(unit not in held_out for unit in train)
    assert manifest.num_eval_units == len(held_out)
    assert manifest.num_duplicate_units == manifest.num_duplicate_eval_units == 0


def test_no_unit_and_no_document_stands_on_both_sides(
    tmp_path: Path, request_: PrepareRequest
) -> None:
    prepare(request_, tmp_path / "out", workers=1)
    opened = open_units(tmp_path / "out")
    sides = [{tuple(u) for u in s.gather(np.arange(len(s)))} for s in (opened.train, opened.eval)]
    assert not sides[0] & sides[1]


def test_the_folder_is_the_same_for_any_number_of_workers(
    tmp_path: Path, request_: PrepareRequest, many_chunks: None
) -> None:
    prepare(request_, tmp_path / "one", workers=1)
    prepare(request_, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not (tmp_path / "two.partial").exists()


@pytest.mark.parametrize("killed_at", [0, 3, 6, 1000])
def test_a_killed_preparation_goes_on_and_ends_the_same(
    tmp_path: Path,
    request_: PrepareRequest,
    many_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
) -> None:
    """1000: killed when the chunks are done and the shards are being written."""
    whole = prepare(request_, tmp_path / "whole", workers=1)
    tokenized = 0
    run = tokenization.ChunkTokenizer.run

    def counted(self: Any, *arguments: Any) -> Any:
        nonlocal tokenized
        if tokenized == killed_at:
            raise KeyboardInterrupt
        tokenized += 1
        return run(self, *arguments)

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokenization.ChunkTokenizer, "run", counted)
        patch.setattr(prepare_module, "write_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(request_, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    before, tokenized, killed_at = tokenized, 0, -1
    monkeypatch.setattr(tokenization.ChunkTokenizer, "run", counted)
    assert prepare(request_, tmp_path / "out", workers=1) == whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()
    total = before + tokenized
    fresh = tmp_path / "fresh"
    tokenized = 0
    prepare(request_, fresh, workers=1)
    assert total == tokenized  # nothing was tokenized twice


def test_a_repeat_returns_at_once_and_a_moved_corpus_counts_as_the_same(
    tmp_path: Path, request_: PrepareRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(request_, tmp_path / "out", workers=1)
    monkeypatch.setattr(prepare_module, "_filled_spool", None)  # any work would fail
    assert prepare(request_, tmp_path / "out", workers=1) == first
    moved = tmp_path / "elsewhere" / request_.inputs[0].name
    moved.parent.mkdir()
    moved.write_bytes(request_.inputs[0].read_bytes())
    moved_request = dataclasses.replace(request_, inputs=(moved,))
    assert prepare(moved_request, tmp_path / "out", workers=1) == first


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seq_len": 9}, "made with seq_len=7, not 9"),
        ({"eval_fraction": 0.1}, "made with eval_fraction=0.2, not 0.1"),
        ({"keep_duplicates": True}, "made with keep_duplicates=False, not True"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused(
    tmp_path: Path, request_: PrepareRequest, change: dict[str, Any], complaint: str
) -> None:
    prepare(request_, tmp_path / "out", workers=1)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=rf"^--out: .*{complaint}; choose another --out"):
        prepare(dataclasses.replace(request_, **change), tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == before


def test_a_folder_made_from_other_text_is_refused(tmp_path: Path, request_: PrepareRequest) -> None:
    prepare(request_, tmp_path / "out", workers=1)
    corpus = request_.inputs[0]
    corpus.write_text(corpus.read_text().replace("whale", "snail"))  # of the same size
    with pytest.raises(InputError, match=r"^--out: .*out was made from other files \(corpus\."):
        prepare(request_, tmp_path / "out", workers=1)


def test_half_done_work_of_other_settings_is_not_thrown_away(
    tmp_path: Path,
    request_: PrepareRequest,
    many_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(request_, tmp_path / "out", workers=1)
    with pytest.raises(InputError, match=r"out\.partial was made with seq_len=7, not 9"):
        prepare(dataclasses.replace(request_, seq_len=9), tmp_path / "out", workers=1)
    assert (tmp_path / "out.partial" / "state.json").exists()


def test_half_done_work_of_a_file_that_has_changed_is_started_over(
    tmp_path: Path,
    request_: PrepareRequest,
    many_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(request_, tmp_path / "out", workers=1)
    corpus = request_.inputs[0]
    corpus.write_text(corpus.read_text() + json.dumps({"text": "and one whale more " * 20}) + "\n")
    prepare(request_, tmp_path / "out", workers=1)
    prepare(request_, tmp_path / "fresh", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_mistake_in_the_corpus_leaves_no_litter_and_can_be_mended(
    tmp_path: Path, request_: PrepareRequest
) -> None:
    wrong = dataclasses.replace(request_, text_field="body")
    with pytest.raises(InputError, match=r"corpus\.jsonl:1: no field 'body'"):
        prepare(wrong, tmp_path / "out", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]
    assert prepare(request_, tmp_path / "out", workers=1).dataset_size > 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the corpus is empty"),
        ("\n\n", "the corpus is empty"),
        ('{"text": ""}', "the corpus is empty"),
        ('{"text": "a b c"}', r"no training unit: 1 training documents have 4 tokens, .* needs 8"),
    ],
)
def test_a_corpus_without_a_unit_is_refused(
    tmp_path: Path, tokenizer_path: Path, text: str, complaint: str
) -> None:
    corpus = tmp_path / "a.jsonl"
    corpus.write_text(text)
    request = PrepareRequest((corpus,), tokenizer_path, SEQ_LEN, eval_fraction=0.0)
    with pytest.raises(InputError, match=rf"^--input: {complaint}"):
        prepare(request, tmp_path / "out", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_something_else_at_the_folder_is_left_alone(
    tmp_path: Path, request_: PrepareRequest
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("ten years of work")
    with pytest.raises(InputError, match="exists and is no prepared data"):
        prepare(request_, out, workers=1)
    assert contents(out) == {"thesis.txt": digest(b"ten years of work")}
    (out / "thesis.txt").unlink()
    assert prepare(request_, out, workers=1).dataset_size > 0  # an empty folder is fine


def test_a_folder_that_cannot_be_made_is_said_in_one_line(
    tmp_path: Path, request_: PrepareRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"^--out: .*Not a directory"):
        prepare(request_, tmp_path / "file" / "out", workers=1)
    with pytest.raises(InputError, match=r"^--out: expected the name of a folder"):
        prepare(request_, Path("."), workers=1)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_shards", full)
        with pytest.raises(InputError, match=r"^--out: .*No space left on device; mend that"):
            prepare(request_, tmp_path / "out", workers=1)
    assert prepare(request_, tmp_path / "out", workers=1).dataset_size > 0


def test_two_at_once_are_refused(tmp_path: Path, request_: PrepareRequest) -> None:
    (tmp_path / "out.partial").mkdir()
    with (tmp_path / "out.partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another dpscale prepare is at work"):
            prepare(request_, tmp_path / "out", workers=1)
    assert (tmp_path / "out.partial").exists()


def test_packing_refuses_to_call_a_document_the_unit(request_: PrepareRequest) -> None:
    with pytest.raises(InputError, match=r"^--privacy-unit: 'document' does not hold with packing"):
        dataclasses.replace(request_, privacy_unit="document")
    with pytest.raises(InputError, match=r"^--privacy-unit: expected 'sequence', found 'word'"):
        dataclasses.replace(request_, privacy_unit="word")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"seq_len": 0}, "--seq-len"),
        ({"eval_fraction": 1.0}, "--eval-fraction"),
        ({"eval_fraction": math.nan}, "--eval-fraction"),
    ],
)
def test_numbers_out_of_range_are_refused(
    request_: PrepareRequest, change: dict[str, Any], place: str
) -> None:
    with pytest.raises(InputError, match=f"^{place}: expected"):
        dataclasses.replace(request_, **change)


def test_the_data_hash_follows_the_units_and_not_the_names(
    tmp_path: Path, request_: PrepareRequest
) -> None:
    first = prepare(request_, tmp_path / "a", workers=1)
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_bytes(request_.inputs[0].read_bytes())
    same = dataclasses.replace(request_, inputs=(renamed,))
    assert prepare(same, tmp_path / "b", workers=1).data_hash == first.data_hash
    for text in ("a new whale", "the sea. " * 40):  # drops nothing: the training units differ
        renamed.write_text(renamed.read_text() + json.dumps({"text": text}) + "\n")
    made = prepare(same, tmp_path / "d", workers=1)
    assert made.eval_shards == first.eval_shards
    assert made.data_hash != first.data_hash
    other = dataclasses.replace(request_, seq_len=8)
    assert prepare(other, tmp_path / "c", workers=1).data_hash != first.data_hash


def test_the_manifest_is_read_strictly_and_says_what_is_not_private(
    tmp_path: Path, request_: PrepareRequest
) -> None:
    manifest = prepare(request_, tmp_path / "out", workers=1)
    path = tmp_path / "out" / "manifest.json"
    fields = json.loads(path.read_text())
    assert Manifest.from_dict(fields, where="m") == manifest == read_manifest(tmp_path / "out")
    assert str(tmp_path) not in path.read_text()  # base names only
    assert "NOT PRIVATE" in manifest.not_private
    for change, complaint in (
        ({"format_version": 2}, "format_version: expected 1, found 2"),
        ({"surprise": 1}, "surprise: unknown key"),
        ({"dataset_size": "7"}, "dataset_size: expected int"),
        ({"inputs": "a"}, "inputs: expected a list"),
        ({"inputs": [{"name": "a"}]}, r"inputs\[0\]: num_bytes: missing"),
    ):
        path.write_text(json.dumps({**fields, **change}))
        with pytest.raises(InputError, match=rf"manifest\.json: {complaint}"):
            open_units(tmp_path / "out")
