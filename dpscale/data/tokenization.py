"""Chunks of documents to tokens, in one or several processes, with the same result for any number.

A document belongs to the evaluation side or the training side by the hash of its text alone:
the same text always lands on the same side, in this corpus and in the next.
"""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dpscale.data.corpus import RawDocument, document_text
from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import DpscaleError, InputError

CHUNK_BYTES = 2**20
"""Text per chunk, the piece of work that a process is handed."""


@dataclass(frozen=True)
class Tokenized:
    """The documents of one side of a chunk: their tokens, each document ended by eos."""

    tokens: npt.NDArray[np.int32]
    num_documents: int


@dataclass(frozen=True)
class TokenizedChunk:
    """Both sides of a chunk, and how many of its documents were empty and left out."""

    train: Tokenized
    eval: Tokenized
    num_empty_documents: int


@dataclass(frozen=True)
class ChunkTokenizer:
    """Tokenizes chunks of documents; it can be sent to other processes.

    Args:
      tokenizer_path: sentencepiece model.
      text_field: Field of a JSON document that holds its text.
      eval_fraction: Share of the documents that is held out, in [0, 1).
    """

    tokenizer_path: Path
    text_field: str
    eval_fraction: float

    def run(self, chunk: list[RawDocument], tokenizer: Tokenizer) -> TokenizedChunk:
        """Tokenizes one chunk.

        Raises:
          InputError: The first document in it that cannot be read; see `document_text`.
        """
        eos = np.array([tokenizer.eos_id], np.int32)
        sides: dict[bool, list[npt.NDArray[np.int32]]] = {True: [], False: []}
        empty = 0
        for document in chunk:
            text = document_text(document, text_field=self.text_field)
            if not text:
                empty += 1
                continue
            tokens = tokenizer.encode(text, where=document.where)
            sides[is_held_out(text, self.eval_fraction)] += [tokens, eos]
        return TokenizedChunk(_joined(sides[False]), _joined(sides[True]), empty)


def is_held_out(text: str, eval_fraction: float) -> bool:
    """Whether a document is on the evaluation side: its SHA-256 is below `eval_fraction` of all.

    >>> is_held_out("We the People", 0.0), is_held_out("We the People", 1.0)
    (False, True)
    """
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < eval_fraction * 2**64


def chunks(documents: Iterable[RawDocument]) -> Iterator[list[RawDocument]]:
    """Consecutive documents, `CHUNK_BYTES` together, or one that is larger.

    Where chunks end depends on the documents alone, so that a chunk's number is a place to
    resume at.
    """
    chunk: list[RawDocument] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.content)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def tokenize_chunks(
    work: ChunkTokenizer, chunks: Iterable[list[RawDocument]], *, workers: int
) -> Generator[TokenizedChunk, None, None]:
    """Tokenizes `chunks` in order, in `workers` processes (1: in this one).

    A few chunks per process are in flight at a time, which bounds the memory.

    Raises:
      InputError: The first document, in the order of the files, that cannot be read.
      DpscaleError: A worker process died.
    """
    if workers == 1:
        tokenizer = Tokenizer(work.tokenizer_path)
        for chunk in chunks:
            yield work.run(chunk, tokenizer)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(work,),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, cancel_futures=True)
        waiting: deque[Future[TokenizedChunk | InputMistake]] = deque()
        for chunk in chunks:
            if len(waiting) == 2 * workers:
                yield _result(waiting.popleft())
            waiting.append(pool.submit(_run_in_worker, chunk))
        while waiting:
            yield _result(waiting.popleft())


@dataclass(frozen=True)
class InputMistake:
    """An `InputError` on its way between processes."""

    where: str
    message: str


def _result(future: "Future[TokenizedChunk | InputMistake]") -> TokenizedChunk:
    try:
        outcome = future.result()
    except BrokenProcessPool:
        raise DpscaleError(
            "a tokenizing process died (out of memory?); the same command with a smaller "
            "--workers goes on from here."
        ) from None
    if isinstance(outcome, InputMistake):
        raise InputError(outcome.where, outcome.message)
    return outcome


def _joined(documents: list[npt.NDArray[np.int32]]) -> Tokenized:
    tokens = np.concatenate(documents) if documents else np.empty(0, np.int32)
    return Tokenized(tokens, len(documents) // 2)  # each document is followed by its eos


_worker: tuple[ChunkTokenizer, Tokenizer] | None = None


def _start_worker(work: ChunkTokenizer) -> None:
    """Sets up a worker process: it leaves Ctrl-C to its parent, and dies with it."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker = (work, Tokenizer(work.tokenizer_path))


def _die_with_parent() -> None:
    """A killed parent cannot stop its workers, which would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(chunk: list[RawDocument]) -> TokenizedChunk | InputMistake:
    assert _worker is not None
    work, tokenizer = _worker
    try:
        return work.run(chunk, tokenizer)
    except InputError as error:
        return InputMistake(error.where, error.message)
