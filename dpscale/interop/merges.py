"""The merge list of a sentencepiece BPE model.

Sentencepiece keeps no merges. It joins, again and again, the two neighbours whose joined text
is the piece of the highest score, the leftmost of equals. Hugging Face's `tokenizers` joins the
pair of the lowest rank, the leftmost of equals. The two do the same on every text when

- scores are distinct, and
- each piece has ONE merge: the last one that happens when the piece's own text is encoded, with
  the rank of the piece's score.

For: while no join crosses the ends of a stretch of text, what happens inside it does not depend
on what is around it. So a piece, wherever it forms, forms by the joins that form it alone.
"""

import itertools
import re
from collections.abc import Iterable, Mapping

from dpscale.errors import InputError


def merges(scores: Mapping[str, float], *, frozen: Iterable[str] = ()) -> list[tuple[str, str]]:
    """The merges of a vocabulary, best first.

    Args:
      scores: Of each piece that may form; single characters are never joined from others.
      frozen: Pieces that are cut out of a text first; nothing forms across them.

    Returns:
      Pairs of neighbours. A piece that its own text does not lead to has none.

    Raises:
      InputError: Two pieces that can form have one score, or a piece can form from a character
        that is no piece itself.
    """
    pairs = {}
    cut_out = re.compile("|".join(map(re.escape, frozen)) or r"(?!)")
    for piece in scores:
        can_form = len(piece) > 1 and not cut_out.search(piece)
        pair = last_merge(piece, scores) if can_form else None
        if pair is not None:
            pairs[piece] = pair
            unknown = sorted(set(piece) - scores.keys())
            if unknown:
                raise InputError(f"piece {piece!r}", f"holds {unknown[0]!r}, which is no piece.")
    if len({scores[piece] for piece in pairs}) < len(pairs):
        raise InputError("scores", "two pieces have the same; which is joined first is open.")
    return [pairs[piece] for piece in sorted(pairs, key=lambda piece: -scores[piece])]


def last_merge(piece: str, scores: Mapping[str, float]) -> tuple[str, str] | None:
    """The pair that a piece's own text is joined from at last; None where it never is.

    >>> last_merge("the", {"h": -9.0, "th": -2.0, "he": -1.0, "the": -3.0})
    ('t', 'he')
    """
    symbols = list(piece)
    while len(symbols) > 1:
        joined = [left + right for left, right in itertools.pairwise(symbols)]
        candidates = [place for place, text in enumerate(joined) if text in scores]
        if not candidates:
            return None
        best = max(candidates, key=lambda place: (scores[joined[place]], -place))
        if len(symbols) == 2:
            return symbols[0], symbols[1]
        symbols[best : best + 2] = [joined[best]]
    return None
