"""Documents out of text files, one after the other, in bounded memory.

`CorpusReader` yields `RawDocument`s: bytes, and the place they came from. Parsing and
decoding (`document_text`) are left to whoever tokenizes, because that work runs in several
processes and the reading in one.
"""

import contextlib
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from dpscale.errors import InputError

MAX_DOCUMENT_BYTES = 64 * 2**20
"""A document is held in memory whole, by each process that works on one; more is refused."""

MAX_ROW_GROUP_BYTES = 2 * 2**30
"""pyarrow was measured to hold two thirds of a Parquet row group's text while reading it."""

FORMATS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".xz", ".zst")
_UTF8_MARK = b"\xef\xbb\xbf"
_BROKEN_STREAM = (OSError, EOFError, lzma.LZMAError, zlib.error)


class RawDocument(NamedTuple):
    """A document as it stands in its file.

    `place` is its line in a .jsonl file or its row in a .parquet file, counted from 1, and 0
    for a .txt file. `content` is a JSON object in a .jsonl file, and UTF-8 text in the others.
    """

    file: str
    place: int
    content: bytes

    @property
    def where(self) -> str:
        """The place, for errors: `text.jsonl:17`, `text.parquet: row 17`, `text.txt`."""
        if not self.place:
            return self.file
        return f"{self.file}: row {self.place}" if _is_parquet(self.file) else self.line(self.place)

    def line(self, number: int) -> str:
        """A line of the file, for errors: `text.jsonl:17`."""
        return f"{self.file}:{number}"


def document_text(document: RawDocument, *, text_field: str) -> str:
    """The text of a document.

    Raises:
      InputError: Invalid UTF-8, broken JSON, no `text_field` in it, or one without text.
    """
    try:
        decoded = document.content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = document.content.count(b"\n", 0, error.start) + 1
        where = document.where if document.place else document.line(line)
        raise InputError(
            where, f"invalid UTF-8 (byte {document.content[error.start]:#04x}); convert the file."
        ) from None
    if document.place and not _is_parquet(document.file):
        return _json_text(decoded, text_field, document.where)
    return decoded


def check_inputs(paths: Sequence[Path]) -> None:
    """Raises `InputError` for a file that is missing, of an unknown kind, or given twice."""
    if not paths:
        raise InputError("--input", "no file given.")
    seen: set[Path] = set()
    for path in paths:
        _format(path)
        if not path.is_file():
            raise InputError(str(path), "no such file.")
        if not os.access(path, os.R_OK):
            raise InputError(str(path), "you may not read this file; change its permissions.")
        if path.resolve() in seen:
            raise InputError(str(path), "given twice; its units would all be duplicates.")
        seen.add(path.resolve())


class CorpusReader:
    """The documents of several files, in order.

    Args:
      paths: .txt (the whole file is one document), .jsonl (one JSON object a line) and
        .parquet files; .txt and .jsonl also compressed as .gz, .xz or .zst.
      text_field: The field, or column, that holds the text.

    Attributes:
      total_bytes: Size of all files as they stand on disk.
      bytes_read: How much of that has been consumed, for progress.
    """

    def __init__(self, paths: Sequence[Path], *, text_field: str) -> None:
        check_inputs(paths)
        self.total_bytes = sum(path.stat().st_size for path in paths)
        self.bytes_read = 0
        self._paths = tuple(paths)
        self._text_field = text_field

    def __iter__(self) -> Generator[RawDocument, None, None]:
        """Reads the files from the start.

        Raises:
          InputError: A damaged file, a document above `MAX_DOCUMENT_BYTES`, or a Parquet row
            group above `MAX_ROW_GROUP_BYTES`.
        """
        self.bytes_read = 0
        readers = {".txt": self._whole_file, ".jsonl": self._lines, ".parquet": self._rows}
        for path in self._paths:
            finished = self.bytes_read
            yield from readers[_format(path)](path)
            self.bytes_read = finished + path.stat().st_size

    def _whole_file(self, path: Path) -> Iterator[RawDocument]:
        with self._opened(path) as stream, _readable(path):
            content = stream.read(MAX_DOCUMENT_BYTES + 1)
        _check_size(len(content), str(path), "a .txt file is one document: make it several")
        yield RawDocument(str(path), 0, content.removeprefix(_UTF8_MARK))

    def _lines(self, path: Path) -> Iterator[RawDocument]:
        before = self.bytes_read
        with path.open("rb") as raw, _decompressed(raw, path) as stream:
            number = 0
            while True:
                with _readable(path):
                    line = stream.readline(MAX_DOCUMENT_BYTES + 1)
                if not line:
                    return
                number += 1
                self.bytes_read = before + raw.tell()
                _check_size(len(line), f"{path}:{number}", "cut the document into several")
                if number == 1:
                    line = line.removeprefix(_UTF8_MARK)
                if line.strip():
                    yield RawDocument(str(path), number, line)

    def _rows(self, path: Path) -> Iterator[RawDocument]:
        import pyarrow as pa
        from pyarrow import parquet

        before, size, row = self.bytes_read, path.stat().st_size, 0
        try:
            with parquet.ParquetFile(path) as table:
                _check_text_column(table, self._text_field, path)
                for group in range(table.num_row_groups):  # over all groups at once, memory grows
                    for batch in table.iter_batches(
                        64, row_groups=[group], columns=[self._text_field], use_threads=False
                    ):
                        for value in batch.column(0):
                            row += 1
                            yield self._row(path, row, value)
                        self.bytes_read = before + size * row // table.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise InputError(str(path), f"cannot be read as Parquet ({error}).") from None

    def _row(self, path: Path, row: int, value: Any) -> RawDocument:
        where = f"{path}: row {row}"
        if not value.is_valid:
            raise InputError(where, f"column {self._text_field!r} is null; drop such rows.")
        content = value.as_buffer().to_pybytes()  # text is bytes until document_text checks it
        _check_size(len(content), where, "cut the document into several")
        return RawDocument(str(path), row, content)

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[BinaryIO]:
        with path.open("rb") as raw, _decompressed(raw, path) as stream:
            yield stream


def _json_text(line: str, text_field: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(where, f"not JSON ({error}).") from None
    if not isinstance(record, dict):
        raise InputError(where, f"expected a JSON object, found a {type(record).__name__}.")
    if text_field not in record:
        raise InputError(
            where,
            f"no field {text_field!r}; there are {', '.join(record) or 'none'} (see --text-field).",
        )
    text = record[text_field]
    if not isinstance(text, str):
        raise InputError(
            where, f"field {text_field!r}: expected a string, found a {type(text).__name__}."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            where, f"field {text_field!r} holds half of a surrogate pair, which is not text."
        ) from None
    return text


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    kind = "".join(suffixes[-2:-1] if compressed else suffixes[-1:])
    if kind not in FORMATS or (compressed and kind == ".parquet"):
        raise InputError(
            str(path),
            "unknown kind of file; expected .txt or .jsonl (also with .gz, .xz or .zst), "
            "or .parquet.",
        )
    return kind


def _is_parquet(file: str) -> bool:
    return file.lower().endswith(".parquet")


def _decompressed(raw: BinaryIO, path: Path) -> BinaryIO:
    """`raw` itself, or a stream of what is packed in it."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.LZMAFile(raw))
    if suffix == ".zst":
        import pyarrow as pa

        # The zstandard package ends a cut-off stream without an error; pyarrow reports it.
        return io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), buffer_size=2**20)
    return raw


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what a damaged file raises into an `InputError`."""
    try:
        yield
    except _BROKEN_STREAM as error:
        raise InputError(str(path), f"damaged or not a {path.suffix} file ({error}).") from None


def _check_text_column(table: Any, text_field: str, path: Path) -> None:
    import pyarrow as pa

    schema = table.schema_arrow
    if text_field not in schema.names:
        raise InputError(
            str(path),
            f"no column {text_field!r}; there are {', '.join(schema.names)} (see --text-field).",
        )
    kind = schema.field(text_field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(str(path), f"column {text_field!r}: expected strings, found {kind}.")
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).total_byte_size
        if size > MAX_ROW_GROUP_BYTES:
            raise InputError(
                str(path),
                f"row group {group} has {size // 2**20} MiB, more than "
                f"{MAX_ROW_GROUP_BYTES // 2**20}; write the file with smaller row groups.",
            )


def _check_size(num_bytes: int, where: str, way_out: str) -> None:
    if num_bytes > MAX_DOCUMENT_BYTES:
        raise InputError(
            where, f"one document of more than {MAX_DOCUMENT_BYTES // 2**20} MiB; {way_out}."
        )
