"""Text to prepared units, from beginning to end.

Three stages, each in bounded memory: tokenize and pack (`tokenization`, `packing`), find
duplicates (`duplicates`), write shards (`shards`). All of it happens in `OUT.partial`, beside
the final folder; the first stage is saved as it goes, so that a killed preparation continues.
The manifest is written last, and then the finished folder gets its name by a rename.
"""

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from dpscale.data.bucket_copy import preparation_folder, publish
from dpscale.data.corpus import CorpusReader, check_inputs
from dpscale.data.duplicates import Kept, Units, find_kept
from dpscale.data.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    NOT_PRIVATE_NOTE,
    TOKENIZER_FILE,
    UNIT_ORIGIN,
    FileHashes,
    Manifest,
    data_hash,
    read_manifest,
)
from dpscale.data.packing import STATE_FILE, Spool, token_dtype
from dpscale.data.request import (
    REQUEST_FILE,
    Identity,
    PrepareRequest,
    check_same,
    identify,
    read_identity,
)
from dpscale.data.shards import write_shards
from dpscale.data.tokenization import ChunkTokenizer, chunks, tokenize_chunks
from dpscale.data.tokenizer import Tokenizer
from dpscale.data.units import open_units
from dpscale.errors import InputError
from dpscale.files import held_alone, write_json_atomically
from dpscale.paths import is_on_bucket

LOCK_FILE = ".lock"
"""On a bucket, in the folder itself: nothing stands beside it."""

SAVE_EVERY = 64
"""Chunks between two saves: the work that a kill can cost, at most."""

OnProgress = Callable[[str, float], None]
"""Called with the stage's name, for people, and the share of it that is done, in [0, 1]."""


def prepare(
    request: PrepareRequest,
    out: Path,
    *,
    workers: int,
    on_progress: OnProgress = lambda _stage, _share: None,
) -> Manifest:
    """Makes the folder `out`; its units do not depend on `workers`.

    A call that was killed is continued by the next one with the same request; a call that was
    finished returns at once. Disk: the tokens twice, while it runs. For an `out` on a bucket all
    is made in the user's cache folder, and published when it is finished.

    Raises:
      InputError: A wrong file or document; `out` holds something else, or was prepared (fully
        or half) with other settings; another process is at it; no training unit is left.
    """
    if out.name in ("", ".."):
        raise InputError("--out", f"expected the name of a folder to make, found {str(out)!r}.")
    if is_on_bucket(out):
        with held_alone(out / LOCK_FILE, _busy(out)):
            return _prepare_on_bucket(request, out, workers, on_progress)
    check_inputs(request.inputs)
    tokenizer = Tokenizer(request.tokenizer, where="--tokenizer")
    partial = out.with_name(out.name + ".partial")
    asked = identify(request, tokenizer.sha256, earlier=[out, partial])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        check_same(asked, read_identity(out), out)
        shutil.rmtree(partial, ignore_errors=True)  # a kill right after the rename leaves it
        return open_units(out).manifest
    with _writing(partial), _alone_in(partial):
        _claim(partial, asked)
        try:
            spool = _filled_spool(partial, request, tokenizer, workers, on_progress)
            _finish(partial, request, tokenizer, spool, asked, on_progress)
        except InputError:
            if not (partial / STATE_FILE).exists():  # no work in it that could be continued
                shutil.rmtree(partial)
            raise
        (partial / "finished").rename(out)
        shutil.rmtree(partial)
    return open_units(out).manifest


def _prepare_on_bucket(
    request: PrepareRequest, out: Path, workers: int, on_progress: OnProgress
) -> Manifest:
    asked = identify(
        request, Tokenizer(request.tokenizer, where="--tokenizer").sha256, earlier=[out]
    )
    if any(path.name != LOCK_FILE for path in out.iterdir()):
        check_same(asked, read_identity(out), out)
        if (out / MANIFEST_FILE).exists():
            return read_manifest(out)
    local = preparation_folder(out)
    if read_identity(local) not in (None, asked):
        shutil.rmtree(local)  # of an earlier request, finished and not published
    manifest = prepare(request, local, workers=workers, on_progress=on_progress)
    publish(local, out)
    shutil.rmtree(local)
    return manifest


def _claim(partial: Path, asked: Identity) -> None:
    """Makes `partial` ours, or refuses where saved work of another request would be lost."""
    there = read_identity(partial)
    if (partial / STATE_FILE).exists() and there is not None:
        changed = asked.inputs != there.inputs
        if changed and [file.name for file in asked.inputs] == [file.name for file in there.inputs]:
            (partial / STATE_FILE).unlink()  # the files it was made from are gone: start over
        else:
            check_same(asked, there, partial)
    write_json_atomically(partial / REQUEST_FILE, asked.to_dict())


def _filled_spool(
    partial: Path,
    request: PrepareRequest,
    tokenizer: Tokenizer,
    workers: int,
    on_progress: OnProgress,
) -> Spool:
    """Tokenizes and packs what is not in the spool yet."""
    work = ChunkTokenizer(request.tokenizer, request.text_field, request.eval_fraction)
    reader = CorpusReader(request.inputs, text_field=request.text_field)
    with Spool(partial, request.seq_len + 1, token_dtype(tokenizer.vocab_size)) as spool:
        if spool.complete:
            return spool
        with contextlib.ExitStack() as stack:  # whatever stops the loop, files and processes close
            documents = stack.enter_context(contextlib.closing(iter(reader)))
            remaining = islice(chunks(documents), spool.num_chunks, None)
            tokenized = tokenize_chunks(work, remaining, workers=workers)
            for chunk in stack.enter_context(contextlib.closing(tokenized)):
                spool.add(chunk)
                if spool.num_chunks % SAVE_EVERY == 0:
                    spool.save()
                on_progress("tokenizing", reader.bytes_read / max(1, reader.total_bytes))
        spool.save(complete=True)
        return spool


def _finish(
    partial: Path,
    request: PrepareRequest,
    tokenizer: Tokenizer,
    spool: Spool,
    asked: Identity,
    on_progress: OnProgress,
) -> None:
    """From raw units to a complete folder at `partial/finished`."""
    train, held_out = spool.train.units(), spool.eval.units()
    kept = find_kept(
        train,
        held_out,
        partial,
        keep_duplicates=request.keep_duplicates,
        progress=lambda share: on_progress("finding duplicates", share),
    )
    if not kept.train.any():
        (partial / STATE_FILE).unlink()  # other settings are needed: these cannot continue
        raise InputError("--input", _nothing_left(spool, request))
    folder = partial / "finished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    counts = _UnigramCounts(tokenizer.vocab_size)
    num_tokens = int(kept.train.sum()) * train.unit_len

    def see(units: Units) -> None:
        counts.add(units)
        on_progress("writing shards", counts.num_tokens / num_tokens)

    train_shards = write_shards(train, kept.train, folder, "train", see=see)
    eval_shards = write_shards(held_out, kept.eval, folder, "eval")
    (folder / TOKENIZER_FILE).write_bytes(tokenizer.model)
    write_json_atomically(folder / REQUEST_FILE, asked.to_dict())
    manifest = _manifest(
        request, tokenizer, spool, kept, asked.inputs, train_shards, eval_shards, counts.entropy()
    )
    write_json_atomically(folder / MANIFEST_FILE, manifest.to_dict())


def _manifest(
    request: PrepareRequest,
    tokenizer: Tokenizer,
    spool: Spool,
    kept: Kept,
    inputs: FileHashes,
    train_shards: FileHashes,
    eval_shards: FileHashes,
    unigram_entropy: float,
) -> Manifest:
    train, held_out = spool.train.state, spool.eval.state
    return Manifest(
        format_version=FORMAT_VERSION,
        privacy_unit=request.privacy_unit,
        unit_origin=UNIT_ORIGIN,
        seq_len=request.seq_len,
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer.name,
        tokenizer_sha256=tokenizer.sha256,
        eos_id=tokenizer.eos_id,
        eval_fraction=float(request.eval_fraction),
        text_field=request.text_field,
        keep_duplicates=request.keep_duplicates,
        dataset_size=int(kept.train.sum()),
        num_eval_units=int(kept.eval.sum()),
        num_documents=train.num_documents,
        num_eval_documents=held_out.num_documents,
        num_empty_documents=spool.num_empty_documents,
        num_tokens=train.num_tokens,
        num_eval_tokens=held_out.num_tokens,
        num_duplicate_units=kept.num_duplicate_units,
        num_duplicate_eval_units=kept.num_duplicate_eval_units,
        num_overlapping_units=kept.num_overlapping_units,
        num_remainder_tokens=len(train.remainder),
        num_eval_remainder_tokens=len(held_out.remainder),
        unigram_entropy=unigram_entropy,
        not_private=NOT_PRIVATE_NOTE,
        train_shards=train_shards,
        eval_shards=eval_shards,
        inputs=inputs,
        data_hash=data_hash(
            seq_len=request.seq_len,
            vocab_size=tokenizer.vocab_size,
            tokenizer_sha256=tokenizer.sha256,
            train_shards=train_shards,
            eval_shards=eval_shards,
        ),
    )


class _UnigramCounts:
    """Counts the tokens of the training units as they are written."""

    def __init__(self, vocab_size: int) -> None:
        self._counts = np.zeros(vocab_size, np.int64)

    def add(self, units: Units) -> None:
        self._counts += np.bincount(units.reshape(-1), minlength=len(self._counts))

    @property
    def num_tokens(self) -> int:
        return int(self._counts.sum())

    def entropy(self) -> float:
        """Nats per token. NOT PRIVATE."""
        share = self._counts[self._counts > 0] / self._counts.sum()
        return float(-(share * np.log(share)).sum())


def _nothing_left(spool: Spool, request: PrepareRequest) -> str:
    train, held_out = spool.train.state, spool.eval.state
    if not train.num_documents and not held_out.num_documents:
        return "the corpus is empty: no document with text."
    return (
        f"no training unit: {train.num_documents} training documents have {train.num_tokens} "
        f"tokens, a unit needs {request.seq_len + 1} ({held_out.num_documents} documents are held "
        "out, see --eval-fraction)."
    )


@contextlib.contextmanager
def _writing(partial: Path) -> Iterator[None]:
    """Makes `partial`; a disk that is full or not ours to write on becomes an `InputError`."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EACCES,
            errno.EROFS,
            errno.ENOTDIR,
        ):
            raise
        raise InputError(
            "--out", f"{partial}: {error.strerror}; mend that, and the same command goes on."
        ) from None


def _alone_in(partial: Path) -> contextlib.AbstractContextManager[None]:
    """Keeps a second process with the same `--out` away while the first is at work."""
    return held_alone(partial / "lock", _busy(partial))


def _busy(folder: Path) -> InputError:
    return InputError("--out", f"another dpscale prepare is at work on {folder}; wait for it.")
