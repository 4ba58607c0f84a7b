"""`tokenizer.json` against sentencepiece, by a plain reading of its rules."""

import io
import itertools
import json
import lzma
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from digest import digest
from hypothesis import given
from hypothesis import strategies as st

from dpscale.data.assets import resolve
from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import InputError
from dpscale.interop.merges import last_merge, merges
from dpscale.interop.tokenizer_files import (
    SentencepieceModel,
    tokenizer_json,
    write_tokenizer_files,
)

NAMES = ["embedded:moby-1024", "embedded:moby-2048"]
ODD = [
    "",
    " ",
    "   a  b ",
    "\n\n\t x\n",
    "é🐳日本 \u0301",
    "</s> <s><pad><unk> <0x41>",
    "\u2581\u2581 a",
]


class Rules:
    """What `tokenizer.json` says, applied word for word: slow, and written apart from the rest."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.normalizers = fields["normalizer"]["normalizers"]
        self.added = {token["content"]: token["id"] for token in fields["added_tokens"]}
        self.model = fields["model"]
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(self.model["merges"])}

    def encode(self, text: str) -> list[int]:
        for step in self.normalizers:
            if step["type"] == "Prepend":
                text = step["prepend"] + text if text else text
            else:
                pattern = step["pattern"]
                found = pattern.get("Regex", re.escape(pattern.get("String", "")))
                text = re.sub(found.replace(r"\z", r"\Z"), step["content"], text)
        if not self.added:
            return self._join(text)
        longest_first = sorted(self.added, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        ids = [[self.added[p]] if p in self.added else self._join(p) for p in parts]
        return list(itertools.chain.from_iterable(ids))

    def _join(self, text: str) -> list[int]:
        symbols: list[str] = []
        vocab = self.model["vocab"]
        for character in text:
            if character in vocab:
                symbols.append(character)
            elif self.model["byte_fallback"]:
                symbols += [f"<0x{byte:02X}>" for byte in character.encode()]
            elif not (self.model["fuse_unk"] and symbols[-1:] == [self.model["unk_token"]]):
                symbols.append(self.model["unk_token"])
        while pairs := [p for p in itertools.pairwise(symbols) if p in self.ranks]:
            best = min(pairs, key=self.ranks.__getitem__)
            at = list(itertools.pairwise(symbols)).index(best)
            symbols[at : at + 2] = ["".join(best)]
        return [vocab[symbol] for symbol in symbols]


TOKENIZERS = {name: Tokenizer(resolve(name)) for name in NAMES}
RULES = {
    name: Rules(tokenizer_json(SentencepieceModel(tokenizer)))
    for name, tokenizer in TOKENIZERS.items()
}


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text).tolist()


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_has_our_ids(name: str, text: str) -> None:
    assert RULES[name].encode(text) == ids_of(TOKENIZERS[name], text)


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(alphabet="athe nis  o.1\n\u2581", max_size=60))
def test_text_of_frequent_letters_has_our_ids(name: str, text: str) -> None:
    assert RULES[name].encode(text) == ids_of(TOKENIZERS[name], text)


@pytest.fixture(scope="session")
def speeches() -> list[str]:
    """The first 3,000 characters of every 20th speech."""
    with lzma.open(resolve("embedded:sotu"), "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"][:3000] for line in itertools.islice(lines, 0, None, 20)]


@pytest.mark.parametrize("name", NAMES)
def test_speeches_and_odd_texts_have_our_ids(name: str, speeches: list[str]) -> None:
    texts = [speech[at : at + 300] for speech in speeches for at in range(0, 3000, 300)] + ODD
    assert len(texts) > 100
    for text in texts:
        assert RULES[name].encode(text) == ids_of(TOKENIZERS[name], text)


def trained(sentences: Sequence[str], path: Path, **settings: Any) -> Tokenizer:
    settings = {"vocab_size": 700, "model_type": "bpe", **settings}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        max_sentence_length=10_000,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    path.write_bytes(model.getvalue())
    return Tokenizer(path)


IDENTITY = {"normalization_rule_name": "identity", "byte_fallback": True}
KINDS = {
    "prefix": {**IDENTITY, "remove_extra_whitespaces": False},
    "no byte pieces": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "vocab_size": 400,
    },
    "fewer spaces": {**IDENTITY, "add_dummy_prefix": False},
    "prefix and fewer spaces": IDENTITY,
    "user-defined": {
        **IDENTITY,
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": [
            "\u2581\u2581",
            "\u2581\u2581\u2581",
            "\n\n",
            "tion",
            "th",
        ],
        "control_symbols": ["<turn>"],
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_models_have_our_ids(kind: str, speeches: list[str], tmp_path: Path) -> None:
    tokenizer = trained(speeches[:6], tmp_path / "a.model", **KINDS[kind])
    rules = Rules(tokenizer_json(SentencepieceModel(tokenizer)))
    texts = [speech[start : start + 150] for speech in speeches for start in (0, 1000, 2000)]
    for text in [*texts, *ODD, "the  nation   thethe<turn>\n\n\n", "  the  "]:
        assert rules.encode(text) == ids_of(tokenizer, text)


@pytest.mark.parity
@pytest.mark.parametrize("kind", [*KINDS, "embedded"])
def test_the_library_has_our_ids_and_our_text(
    kind: str, speeches: list[str], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer as TheirTokenizer

    tokenizer = TOKENIZERS[NAMES[0]]
    if kind != "embedded":
        tokenizer = trained(speeches[:6], tmp_path / "a.model", **KINDS[kind])
    theirs = TheirTokenizer.from_str(json.dumps(tokenizer_json(SentencepieceModel(tokenizer))))
    draw = random.Random(1)
    letters = [draw.choices("aethnis   o.1\n\u2581é日🐳\u0301</s>", k=12) for _ in range(1000)]
    runs = ["".join(draw.choices(some, k=draw.randrange(50))) for some in letters]
    for text in [*speeches, *ODD, *runs]:
        ids = ids_of(tokenizer, text)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "unigram", **IDENTITY}, "not a BPE model"),
        ({"normalization_rule_name": "nmt_nfkc"}, "replaces characters by a table"),
        ({**IDENTITY, "treat_whitespace_as_suffix": True}, "puts spaces behind words"),
        ({**IDENTITY, "byte_fallback": False, "vocab_size": 400}, "has no byte pieces"),
        ({**IDENTITY, "user_defined_symbols": ["ab"]}, "user-defined pieces and changes spaces"),
    ],
)
def test_a_model_that_would_differ_gets_no_tokenizer_json(
    settings: dict[str, Any], message: str, speeches: list[str], tmp_path: Path
) -> None:
    tokenizer = trained(speeches[:6], tmp_path / "a.model", **settings)
    folder = tmp_path / "out"
    folder.mkdir()
    why = write_tokenizer_files(folder, tokenizer, bos_id=1, max_length=8)
    assert why is not None
    assert message in why
    assert [path.name for path in folder.iterdir()] == ["tokenizer.model"]


def test_a_model_that_can_be_told_gets_all_files(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[NAMES[0]]
    assert write_tokenizer_files(tmp_path, tokenizer, bos_id=1, max_length=64) is None
    assert digest((tmp_path / "tokenizer.model").read_bytes()) == digest(tokenizer.model)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == ("</s>",) * 2 + (
        "<pad>",
    )
    assert config["additional_special_tokens"] == ["<s>"]


def test_a_piece_has_the_one_merge_that_forms_it() -> None:
    scores = {"a": 0.0, "b": 0.0, "c": 0.0, "ab": -2.0, "bc": -1.0, "abc": -3.0, "ca": -4.0}
    # "abc" never forms from "ab" and "c": "bc" is joined before "ab".
    assert merges(scores) == [("b", "c"), ("a", "b"), ("a", "bc"), ("c", "a")]
    assert last_merge("ac", scores) is None


def test_merges_that_would_be_open_are_refused() -> None:
    scores = {"a": 0.0, "b": 0.0, "ab": -1.0, "ba": -1.0}
    with pytest.raises(InputError, match="two pieces have the same"):
        merges(scores)
    with pytest.raises(InputError, match="holds 'c', which is no piece"):
        merges({"a": 0.0, "ac": -1.0})
    assert merges({"a": 0.0, "ac": -1.0}, frozen=["c"]) == []
