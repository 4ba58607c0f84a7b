"""A frozen sentencepiece model: text to token ids and back."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

from dpscale.errors import InputError

PIECE_CHARS = 2**20
"""Longer texts are encoded in pieces: sentencepiece needs some 100 bytes a character."""


class Tokenizer:
    """A sentencepiece model, read once and never changed.

    A tokenizer that was trained on the protected text leaks about it outside epsilon: take
    one trained on other text.

    Args:
      path: The model file.
      where: Heads the errors, `--tokenizer` for one that was given on the command line.

    Attributes:
      name: Base name of the file.
      model: The bytes of the file.
      sha256: Their hash, in hexadecimal.
      vocab_size: Ids run from 0 to `vocab_size - 1`.
      eos_id: The id that ends a document. No text encodes to it.

    Raises:
      InputError: No such file, not a sentencepiece model, or one without an end-of-text id.
    """

    def __init__(self, path: str | Path, *, where: str = "tokenizer") -> None:
        path = Path(path)
        try:
            self.model = path.read_bytes()
        except OSError as error:
            raise InputError(where, f"{path}: {error.strerror or error}.") from None
        self.name = path.name
        self.sha256 = hashlib.sha256(self.model).hexdigest()
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        except (RuntimeError, ValueError):
            raise InputError(where, f"{path}: not a sentencepiece model.") from None
        self.vocab_size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        if not 0 <= self.eos_id < self.vocab_size:
            raise InputError(where, f"{path}: has no end-of-text token to put between documents.")
        self._prefixes_space = self._encode("a b") == self._encode("a") + self._encode("b")

    def encode(
        self, text: str, *, where: str = "text", piece_chars: int = PIECE_CHARS
    ) -> npt.NDArray[np.int32]:
        """The token ids of `text`, int32[tokens], without an end-of-text id.

        A text above `piece_chars` characters is cut between two words and encoded piece by
        piece. The ids are those of the whole text for a model that keeps words apart, as usual
        ones do; one that strips spaces from a text and puts none before it loses the space there.

        Raises:
          InputError: The model gives an id outside its vocabulary; `where` names the text.
        """
        pieces = _cut(text, piece_chars, drop_space=self._prefixes_space)
        ids = [np.asarray(self._encode(piece), np.int32) for piece in pieces]
        tokens = ids[0] if len(ids) == 1 else np.concatenate([np.empty(0, np.int32), *ids])
        outside = tokens[(tokens < 0) | (tokens >= self.vocab_size)]
        if outside.size:
            raise InputError(
                where,
                f"token id {outside[0]} is outside the tokenizer's vocabulary of "
                f"{self.vocab_size}; the model file is damaged.",
            )
        return tokens

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of token ids; control ids such as end-of-text give none."""
        decoded: str = self._processor.decode([int(token) for token in ids])
        return decoded

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """How many bytes of UTF-8 text each token stands for, int64[vocab_size].

        The mark of a space is one byte, a token that is a byte of its own one; control tokens and
        the unknown token stand for none.
        """
        return np.array([self._num_bytes(token) for token in range(self.vocab_size)], np.int64)

    def _num_bytes(self, token: int) -> int:
        model = self._processor
        if model.is_byte(token):
            return 1
        if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
            return 0
        return len(model.id_to_piece(token).replace("\u2581", " ").encode())

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(text)
        return ids


def _cut(text: str, piece_chars: int, *, drop_space: bool) -> list[str]:
    """`text` in pieces of at most `piece_chars`, cut at single spaces between words.

    Args:
      drop_space: Leave the space at a cut out, for a model that puts one before each text.
    """
    pieces = []
    start = 0
    while len(text) - start > piece_chars:
        end = _single_space(text, start + 1, start + piece_chars)
        if end < 0:  # no word boundary: cut where the limit is
            pieces.append(text[start : start + piece_chars])
            start += piece_chars
        else:
            pieces.append(text[start:end])
            start = end + drop_space
    return [*pieces, text[start:]]


def _single_space(text: str, start: int, stop: int) -> int:
    """The last position in [start, stop) of a space with a visible character on both sides."""
    end = text.rfind(" ", start, stop)
    while end >= 0 and (text[end - 1].isspace() or text[end + 1].isspace()):
        end = text.rfind(" ", start, end)
    return end
