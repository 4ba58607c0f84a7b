"""What a folder of prepared units says about itself: `manifest.json`."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpscale.errors import InputError
from dpscale.files import read_json
from dpscale.paths import as_path
from dpscale.schema import build

MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.model"
FORMAT_VERSION = 1

UNIT_ORIGIN = (
    "Documents, each ended by the eos token, were concatenated in order of input and cut into "
    "consecutive units of seq_len + 1 tokens. Units do not overlap: each token stands in "
    "exactly one. One unit is one record."
)
NOT_PRIVATE_NOTE = (
    "unigram_entropy is a statistic of the training units without noise: NOT PRIVATE, like every "
    "count in this file."
)


@dataclass(frozen=True)
class FileHash:
    """A file: its base name, size and SHA-256 in hexadecimal."""

    name: str
    num_bytes: int
    sha256: str


class FileHashes(tuple[FileHash, ...]):
    """Files, in order."""

    @classmethod
    def read(cls, entries: Any, *, where: str) -> "FileHashes":
        """Checks and builds the files from a JSON list; `where` heads every error."""
        if not isinstance(entries, list):
            raise InputError(where, f"expected a list of files, found {entries!r}.")
        return cls(
            build(FileHash, entry, where=f"{where}[{index}]") for index, entry in enumerate(entries)
        )


@dataclass(frozen=True)
class Manifest:
    """Everything about prepared units but the tokens.

    Counts of units: `dataset_size` (training) and `num_eval_units`, after duplicates were
    dropped. Dropped units: `num_duplicate_units` (training units that repeat an earlier one),
    `num_duplicate_eval_units` (the same among the evaluation units), and
    `num_overlapping_units` (training units that equal an evaluation unit). Dropped tokens:
    `num_remainder_tokens` and `num_eval_remainder_tokens`, the ends that fill no unit.

    `num_tokens` and `num_eval_tokens` count what was tokenized, eos included, before anything
    was dropped. `unigram_entropy` is that of the training units, in nats per token.
    `data_hash` identifies the units whatever their files and inputs are called.
    """

    format_version: int
    privacy_unit: str
    unit_origin: str
    seq_len: int
    vocab_size: int
    tokenizer: str
    tokenizer_sha256: str
    eos_id: int
    eval_fraction: float
    text_field: str
    keep_duplicates: bool
    dataset_size: int
    num_eval_units: int
    num_documents: int
    num_eval_documents: int
    num_empty_documents: int
    num_tokens: int
    num_eval_tokens: int
    num_duplicate_units: int
    num_duplicate_eval_units: int
    num_overlapping_units: int
    num_remainder_tokens: int
    num_eval_remainder_tokens: int
    unigram_entropy: float
    not_private: str
    train_shards: FileHashes
    eval_shards: FileHashes
    inputs: FileHashes
    data_hash: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `manifest.json` holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], *, where: str) -> "Manifest":
        """Checks and builds a manifest; `where` (a file's name) heads every error."""
        version = fields.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{where}: format_version",
                f"expected {FORMAT_VERSION}, found {version!r}; prepare the data again.",
            )
        lists = {
            name: FileHashes.read(fields[name], where=f"{where}: {name}")
            for name in ("train_shards", "eval_shards", "inputs")
            if name in fields
        }
        return build(cls, {**fields, **lists}, where=where)


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a prepared folder.

    Raises:
      InputError: There is none, or it is not one that this version writes.
    """
    path = as_path(folder) / MANIFEST_FILE
    if not path.exists():
        raise InputError(
            str(folder), f"no prepared data here ({MANIFEST_FILE} is missing); run dpscale prepare."
        )
    return Manifest.from_dict(read_json(path), where=str(path))


def data_hash(
    *,
    seq_len: int,
    vocab_size: int,
    tokenizer_sha256: str,
    train_shards: FileHashes,
    eval_shards: FileHashes,
) -> str:
    """SHA-256 over what a training run gets to see: the units, and how their tokens are read."""
    seen = {
        "format_version": FORMAT_VERSION,
        "privacy_unit": "sequence",
        "seq_len": seq_len,
        "vocab_size": vocab_size,
        "tokenizer_sha256": tokenizer_sha256,
        "train": [shard.sha256 for shard in train_shards],
        "eval": [shard.sha256 for shard in eval_shards],
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> FileHash:
    """Size and SHA-256 of a file, read in bounded memory."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileHash(path.name, path.stat().st_size, digest)
