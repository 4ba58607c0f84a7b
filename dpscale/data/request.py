"""What to prepare, and how a folder remembers what it was made from.

`request.json` stands in the finished folder and in the half-done one. By it a repeated call is
recognised, and a call with other settings is refused instead of mixed in.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpscale.data.manifest import FORMAT_VERSION, FileHash, FileHashes, file_hash
from dpscale.errors import InputError
from dpscale.files import read_json

REQUEST_FILE = "request.json"


@dataclass(frozen=True)
class PrepareRequest:
    """What to prepare.

    Args:
      inputs: Text files, in order; see `CorpusReader`.
      tokenizer: sentencepiece model.
      seq_len: S; a unit holds S + 1 tokens.
      text_field: Field of a JSON document, or column, that holds the text.
      eval_fraction: Share of the documents that is held out, in [0, 1).
      keep_duplicates: Keep units that equal an earlier one on their side.
      privacy_unit: `sequence`. `document` is refused: packing puts several documents into
        one unit and one document into several.
    """

    inputs: tuple[Path, ...]
    tokenizer: Path
    seq_len: int
    text_field: str = "text"
    eval_fraction: float = 0.05
    keep_duplicates: bool = False
    privacy_unit: str = "sequence"

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise InputError("--seq-len", f"expected at least 1, found {self.seq_len}.")
        if not 0 <= self.eval_fraction < 1:
            raise InputError("--eval-fraction", f"expected in [0, 1), found {self.eval_fraction}.")
        if self.privacy_unit == "document":
            raise InputError(
                "--privacy-unit",
                "'document' does not hold with packing: a unit holds parts of several documents "
                "and a document spans several units. Use 'sequence': epsilon then protects one "
                "unit of seq_len + 1 tokens.",
            )
        if self.privacy_unit != "sequence":
            raise InputError("--privacy-unit", f"expected 'sequence', found {self.privacy_unit!r}.")


@dataclass(frozen=True)
class Identity:
    """What decides the result of a request: its settings, and its inputs by content.

    `mtimes_ns` are the inputs' modification times. They decide nothing: an input whose name,
    size and time are those of an earlier call need not be hashed again.
    """

    settings: dict[str, Any]
    inputs: FileHashes
    mtimes_ns: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `request.json` holds it."""
        return dataclasses.asdict(self)


def identify(request: PrepareRequest, tokenizer_sha256: str, *, earlier: list[Path]) -> Identity:
    """The identity of a request.

    Args:
      tokenizer_sha256: Hash of the model file.
      earlier: Folders of earlier calls, whose hashes of unchanged inputs are taken over.
    """
    settings = {
        "format_version": FORMAT_VERSION,
        "tokenizer_sha256": tokenizer_sha256,
        "seq_len": request.seq_len,
        "text_field": request.text_field,
        "eval_fraction": request.eval_fraction,
        "keep_duplicates": request.keep_duplicates,
        "privacy_unit": request.privacy_unit,
    }
    known = {
        (file.name, file.num_bytes, mtime_ns): file
        for identity in map(read_identity, earlier)
        if identity is not None
        for file, mtime_ns in zip(identity.inputs, identity.mtimes_ns, strict=True)
    }
    files, times = [], []
    for path in request.inputs:
        status = path.stat()
        times.append(status.st_mtime_ns)
        key = (path.name, status.st_size, status.st_mtime_ns)
        files.append(known.get(key) or file_hash(path))
    return Identity(settings, FileHashes(files), tuple(times))


def read_identity(folder: Path) -> Identity | None:
    """What a finished or half-done folder was made from; None where it does not say."""
    path = folder / REQUEST_FILE
    if not path.is_file():
        return None
    fields = read_json(path)
    try:
        return Identity(
            dict(fields["settings"]),
            FileHashes(FileHash(**file) for file in fields["inputs"]),
            tuple(fields["mtimes_ns"]),
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(str(path), "damaged; remove the folder and prepare again.") from None


def check_same(asked: Identity, there: Identity | None, folder: Path) -> None:
    """Raises `InputError` where `folder` was made from something else than what is asked."""
    way_out = f"choose another --out, or remove {folder}"
    if there is None:
        raise InputError("--out", f"{folder} exists and is no prepared data; {way_out}.")
    for name, value in asked.settings.items():
        if there.settings.get(name) != value:
            raise InputError(
                "--out",
                f"{folder} was made with {name}={there.settings.get(name)!r}, not {value!r}; "
                f"{way_out}.",
            )
    if asked.inputs != there.inputs:
        names = ", ".join(file.name for file in there.inputs)
        raise InputError("--out", f"{folder} was made from other files ({names}); {way_out}.")
