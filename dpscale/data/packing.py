"""Tokens to units on disk, resumable after every save.

Units of each side are appended to one raw file. `Spool.save` makes everything appended so
far durable and writes down where that was; after a kill, `Spool.open` cuts the files back to
the last save and goes on from there.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpscale.data.tokenization import Tokenized, TokenizedChunk
from dpscale.files import read_json, write_json_atomically

STATE_FILE = "state.json"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The dtype of stored tokens: little-endian uint16 where the ids fit, uint32 otherwise.

    >>> token_dtype(65536), token_dtype(65537)
    (dtype('uint16'), dtype('uint32'))
    """
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


@dataclass(frozen=True)
class SideState:
    """One side (training or evaluation) as of a save.

    `remainder` holds the tokens that do not fill a unit yet; there are at most S of them.
    """

    num_units: int = 0
    num_documents: int = 0
    num_tokens: int = 0
    remainder: tuple[int, ...] = ()


class UnitFile:
    """Units of one side in a raw file: `[n, S + 1]` tokens one after the other.

    Args:
      path: The file; cut back to what `state` says.
      unit_len: S + 1.
      dtype: See `token_dtype`.
      state: What is in it.
    """

    def __init__(self, path: Path, unit_len: int, dtype: np.dtype[Any], state: SideState) -> None:
        self.path = path
        self.unit_len = unit_len
        self.dtype = dtype
        self._remainder = np.asarray(state.remainder, dtype)
        self._counts = state
        self._file = path.open("ab")
        self._file.truncate(state.num_units * unit_len * dtype.itemsize)
        self._file.seek(0, os.SEEK_END)

    @property
    def state(self) -> SideState:
        """What has been added so far."""
        remainder = tuple(int(token) for token in self._remainder)
        return dataclasses.replace(self._counts, remainder=remainder)

    def add(self, side: Tokenized) -> None:
        """Appends every unit that `side`'s tokens complete."""
        tokens = np.concatenate([self._remainder, side.tokens.astype(self.dtype)])
        num_units = len(tokens) // self.unit_len
        self._file.write(tokens[: num_units * self.unit_len].tobytes())
        self._remainder = tokens[num_units * self.unit_len :].copy()
        self._counts = dataclasses.replace(
            self._counts,
            num_units=self._counts.num_units + num_units,
            num_documents=self._counts.num_documents + side.num_documents,
            num_tokens=self._counts.num_tokens + len(side.tokens),
        )

    def sync(self) -> None:
        """Makes what was appended durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; all of it can be read with `units` then."""
        self._file.close()

    def units(self) -> "RawUnits":
        """All units; flushed by `close` or `sync` first."""
        return RawUnits(self.path, self._counts.num_units, self.unit_len, self.dtype)


@dataclass(frozen=True)
class RawUnits:
    """Units in a raw file, read slice by slice, like an array `[num_units, unit_len]`.

    It is not a memory map: the pages of one count as the process's memory until the kernel
    wants them back, and the file can be larger than the machine's memory.
    """

    path: Path
    num_units: int
    unit_len: int
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """(units, tokens in each)."""
        return self.num_units, self.unit_len

    @property
    def itemsize(self) -> int:
        """Bytes of a token."""
        return self.dtype.itemsize

    def __len__(self) -> int:
        return self.num_units

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        start, stop, _ = rows.indices(self.num_units)
        tokens = np.fromfile(
            self.path,
            self.dtype,
            count=max(0, stop - start) * self.unit_len,
            offset=start * self.unit_len * self.itemsize,
        )
        return tokens.reshape(-1, self.unit_len)


class Spool:
    """Both sides' units on their way to shards, and how far the corpus has been read.

    Args:
      folder: An existing folder for the raw files and the state.
      unit_len: S + 1.
      dtype: See `token_dtype`.

    Attributes:
      num_chunks: Chunks of the corpus that have been added.
      num_empty_documents: Documents without text among them.
      complete: Whether that is the whole corpus.
    """

    def __init__(self, folder: Path, unit_len: int, dtype: np.dtype[Any]) -> None:
        self._path = folder / STATE_FILE
        saved = read_json(self._path) if self._path.exists() else {}
        self.num_chunks: int = saved.get("num_chunks", 0)
        self.num_empty_documents: int = saved.get("num_empty_documents", 0)
        self.complete: bool = saved.get("complete", False)
        train, held_out = (SideState(**saved.get(side, {})) for side in ("train", "eval"))
        self.train = UnitFile(folder / "train.units", unit_len, dtype, train)
        self.eval = UnitFile(folder / "eval.units", unit_len, dtype, held_out)

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.train.close()
        self.eval.close()

    def add(self, chunk: TokenizedChunk) -> None:
        """Adds the next chunk of the corpus."""
        self.train.add(chunk.train)
        self.eval.add(chunk.eval)
        self.num_chunks += 1
        self.num_empty_documents += chunk.num_empty_documents

    def save(self, *, complete: bool = False) -> None:
        """Makes all that was added survive a kill; `complete` says the corpus has ended."""
        self.complete = complete
        self.train.sync()
        self.eval.sync()
        write_json_atomically(
            self._path,
            {
                "num_chunks": self.num_chunks,
                "num_empty_documents": self.num_empty_documents,
                "complete": complete,
                "train": dataclasses.asdict(self.train.state),
                "eval": dataclasses.asdict(self.eval.state),
            },
        )
