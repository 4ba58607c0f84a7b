"""The sentencepiece wrapper."""

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from dpscale.data.assets import resolve
from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import InputError

MODELS = ["embedded:moby-1024", "embedded:moby-2048"]
SHARED = {name: Tokenizer(resolve(name)) for name in MODELS}
TEXT = (
    "Call me Ishmael. Some years ago - never mind how long precisely -\n\nhaving 1,234 pence  é🐳 "
)


@pytest.mark.parametrize(("name", "vocab_size"), [(MODELS[0], 1024), (MODELS[1], 2048)])
def test_the_embedded_models_are_what_their_names_say(name: str, vocab_size: int) -> None:
    assert (SHARED[name].vocab_size, SHARED[name].eos_id) == (vocab_size, 1)


@given(st.text(alphabet=st.characters(exclude_characters="\u2581", exclude_categories=["Cs"])))
def test_every_text_survives_the_way_to_ids_and_back(text: str) -> None:
    tokenizer = SHARED[MODELS[0]]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("piece_chars", [14, 20, 50])
def test_a_long_text_in_pieces_has_the_ids_of_the_whole(name: str, piece_chars: int) -> None:
    text = TEXT * 20
    whole = SHARED[name].encode(text)
    np.testing.assert_array_equal(SHARED[name].encode(text, piece_chars=piece_chars), whole)


def test_a_long_text_without_spaces_still_decodes_to_itself() -> None:
    tokenizer, text = SHARED[MODELS[0]], "0123456789" * 20
    ids = tokenizer.encode(text, piece_chars=32)
    assert tokenizer.decode(ids).replace(" ", "") == text


def test_the_name_of_the_end_token_in_a_text_does_not_end_a_document() -> None:
    tokenizer = SHARED[MODELS[0]]
    assert tokenizer.eos_id not in tokenizer.encode("a </s> b<s></s>")


def test_decode_takes_numpy_ids_and_drops_the_end_token() -> None:
    tokenizer = SHARED[MODELS[0]]
    ids = np.append(tokenizer.encode("a whale"), tokenizer.eos_id).astype(np.uint16)
    assert tokenizer.decode(ids) == "a whale"


def test_an_id_outside_the_vocabulary_names_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(resolve(MODELS[0]))
    monkeypatch.setattr(tokenizer, "_encode", lambda text: [5, 1024])
    with pytest.raises(InputError, match=r"^a\.jsonl:3: token id 1024 is outside .* of 1024"):
        tokenizer.encode("a", where="a.jsonl:3")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--tokenizer: .*No such file"):
        Tokenizer(tmp_path / "a.model", where="--tokenizer")
    (tmp_path / "a.model").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"^--tokenizer: .*not a sentencepiece model"):
        Tokenizer(tmp_path / "a.model", where="--tokenizer")


def trained(path: Path, **settings: int) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g abc abc def"] * 20),
        model_writer=model,
        vocab_size=16,
        model_type="bpe",
        minloglevel=3,
        **settings,
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.mark.parametrize(
    "settings", [{"add_dummy_prefix": 1}, {"add_dummy_prefix": 0, "remove_extra_whitespaces": 0}]
)
def test_pieces_join_whether_or_not_the_model_puts_a_space_before_a_text(
    tmp_path: Path, settings: dict[str, int]
) -> None:
    path = trained(tmp_path / "a.model", **settings)
    tokenizer, text = Tokenizer(path), "abc def g abc a b def " * 5
    np.testing.assert_array_equal(tokenizer.encode(text, piece_chars=9), tokenizer.encode(text))


def test_a_model_without_an_end_token_is_refused(tmp_path: Path) -> None:
    path = trained(tmp_path / "a.model", eos_id=-1)
    with pytest.raises(InputError, match="no end-of-text token"):
        Tokenizer(path)
