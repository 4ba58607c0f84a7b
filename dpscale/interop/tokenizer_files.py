"""Tokenizer files that Transformers loads, with the ids of the sentencepiece model they are from.

`tokenizer.json` (the format of Hugging Face's `tokenizers`) is written only where it gives the
same ids on every text: for BPE models without a table of character replacements. Others are
refused, because the library differs from sentencepiece there:

- it applies the tables (`nmt_nfkc`, ...) grapheme by grapheme and drops what follows the first
  character that it replaces, such as the accent of a full-width letter;
- it adds the scores of unigram models in double precision, sentencepiece in single, and on
  repetitive text round-off decides between segmentations of equal score.

Control pieces such as `</s>` are no added tokens of `tokenizer.json`, and Transformers is told
to split them (`split_special_tokens`): their names in a text stand for themselves, as for us.
"""

import json
from pathlib import Path
from typing import Any

from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import InputError
from dpscale.interop.merges import merges

SPACE = "\u2581"
"""What stands for a space in pieces."""

ALL_SPACES = 2**31 - 1
"""More spaces than a text begins with."""

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


class SentencepieceModel:
    """The inside of a sentencepiece model: its pieces by kind, and how it normalizes.

    Attributes:
      pieces: By id.
      scores: Of each piece that can come out of joining.
      user_defined: Pieces that are cut out of a text first; ids by piece.
      control: Pieces that no text gives, in order of their ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        from sentencepiece import sentencepiece_model_pb2

        messages: Any = sentencepiece_model_pb2  # its names are made when it is imported
        proto = messages.ModelProto()
        proto.ParseFromString(tokenizer.model)
        kinds = messages.ModelProto.SentencePiece
        self.trainer = proto.trainer_spec
        self.normalizer = proto.normalizer_spec
        self.denormalizer = proto.denormalizer_spec
        self.pieces = [str(piece.piece) for piece in proto.pieces]
        self.scores = {p.piece: p.score for p in proto.pieces if p.type == kinds.NORMAL}
        self.user_defined = {
            p.piece: token for token, p in enumerate(proto.pieces) if p.type == kinds.USER_DEFINED
        }
        self.control = [p.piece for p in proto.pieces if p.type == kinds.CONTROL]
        self.has_unused = any(p.type == kinds.UNUSED for p in proto.pieces)
        self.unknown = next(p.piece for p in proto.pieces if p.type == kinds.UNKNOWN)
        self.is_bpe = self.trainer.model_type == messages.TrainerSpec.BPE

    def piece(self, token: int) -> str | None:
        """The piece of an id; None for an id below 0, which means that there is none."""
        return self.pieces[token] if token >= 0 else None


def pad_id(tokenizer: Tokenizer) -> int | None:
    """The id of the model's padding piece, None where it has none."""
    token: int = SentencepieceModel(tokenizer).trainer.pad_id
    return token if 0 <= token < tokenizer.vocab_size else None


def write_tokenizer_files(
    folder: Path, tokenizer: Tokenizer, *, bos_id: int, max_length: int
) -> str | None:
    """Writes `tokenizer.model`, and `tokenizer.json` with its config where they are exact.

    Args:
      bos_id: The token that a text begins with. It is put before every text, unless it is the end
        of the document before: our own models see that only before a bare text.
      max_length: Tokens of a text, at most, in the eyes of Transformers.

    Returns:
      Why there is no `tokenizer.json`; None where there is one.
    """
    (folder / "tokenizer.model").write_bytes(tokenizer.model)
    model = SentencepieceModel(tokenizer)
    begins = bos_id if bos_id != tokenizer.eos_id else None
    try:
        fields = tokenizer_json(model, begins=begins)
    except InputError as error:
        return str(error)
    text = json.dumps(fields, ensure_ascii=False, indent=1)
    (folder / TOKENIZER_JSON).write_text(text + "\n", encoding="utf-8")
    config = _tokenizer_config(model, tokenizer, bos_id=bos_id, max_length=max_length)
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / TOKENIZER_CONFIG).write_text(text + "\n", encoding="utf-8")
    return None


def tokenizer_json(model: SentencepieceModel, *, begins: int | None = None) -> dict[str, Any]:
    """The content of `tokenizer.json`.

    Args:
      begins: The token to put before every text; None: none.

    Raises:
      InputError: The model has something that this file cannot say exactly.
    """
    _check_is_expressible(model)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(piece, token) for piece, token in model.user_defined.items()],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": None,
        "post_processor": None if begins is None else _put_before(model.pieces[begins], begins),
        "decoder": {"type": "Sequence", "decoders": _decoders(model)},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,  # as sentencepiece, which gives one id to a run of unknowns
            "byte_fallback": bool(model.trainer.byte_fallback),
            "ignore_merges": False,
            "vocab": {piece: token for token, piece in enumerate(model.pieces)},
            "merges": [list(pair) for pair in merges(model.scores, frozen=model.user_defined)],
        },
    }


def _put_before(piece: str, token: int) -> dict[str, Any]:
    """Before a text, and before each of two."""
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    special = {"SpecialToken": {"id": piece, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, special, second],
        "special_tokens": {piece: {"id": piece, "ids": [token], "tokens": [piece]}},
    }


def _check_is_expressible(model: SentencepieceModel) -> None:
    normalizer = model.normalizer
    is_plain = not (normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces)
    refusals = {
        "it is not a BPE model": not model.is_bpe,
        "it replaces characters by a table": bool(normalizer.precompiled_charsmap),
        "it replaces characters when it decodes": bool(model.denormalizer.precompiled_charsmap),
        "it keeps spaces as they are": not normalizer.escape_whitespaces,
        "it puts spaces behind words": bool(model.trainer.treat_whitespace_as_suffix),
        "it has unused pieces": model.has_unused,
        "it has user-defined pieces and changes spaces": bool(model.user_defined) and not is_plain,
        "it removes spaces and has no byte pieces": bool(normalizer.remove_extra_whitespaces)
        and not model.trainer.byte_fallback,  # a text that begins with an unknown decodes otherwise
        "a user-defined piece holds a space": any(" " in piece for piece in model.user_defined),
    }
    for reason, holds in refusals.items():
        if holds:
            raise InputError("tokenizer.model", f"{reason}.")


def _added(piece: str, token: int) -> dict[str, Any]:
    return {
        "id": token,
        "content": piece,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": True,  # looked for where spaces are escaped already, as sentencepiece does
        "special": False,
    }


def _normalizers(model: SentencepieceModel) -> list[dict[str, Any]]:
    steps = []
    if model.normalizer.remove_extra_whitespaces:
        steps += [
            _replace({"Regex": r"\A +"}, ""),
            _replace({"Regex": " {2,}"}, " "),
            _replace({"Regex": rf"[ {SPACE}]+\z"}, ""),
        ]
    if model.normalizer.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return [*steps, _replace({"String": " "}, SPACE)]


def _decoders(model: SentencepieceModel) -> list[dict[str, Any]]:
    steps = [
        _replace({"String": model.unknown}, model.trainer.unk_surface),
        _replace({"String": SPACE}, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.normalizer.remove_extra_whitespaces:
        return [*steps, _strip(ALL_SPACES)]
    return [*steps, _strip(1)] if model.normalizer.add_dummy_prefix else steps


def _strip(num_spaces: int) -> dict[str, Any]:
    return {"type": "Strip", "content": " ", "start": num_spaces, "stop": 0}


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _tokenizer_config(
    model: SentencepieceModel, tokenizer: Tokenizer, *, bos_id: int, max_length: int
) -> dict[str, Any]:
    named = {
        "bos_token": model.piece(bos_id),
        "eos_token": model.piece(tokenizer.eos_id),
        "pad_token": model.piece(model.trainer.pad_id),
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: piece for name, piece in named.items() if piece is not None},
        "additional_special_tokens": [p for p in model.control if p not in named.values()],
        "split_special_tokens": True,
        "add_bos_token": bos_id != tokenizer.eos_id,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_max_length": max_length,
    }
