"""Reading text files: what is read, and where each mistake in a file is said to be."""

import gc
import gzip
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from dpscale.data import corpus
from dpscale.data.corpus import CorpusReader, document_text
from dpscale.errors import InputError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
TEXTS = ["one", "zwölf 🐳", "three\nlines\nhere"]


def read(*paths: Path, text_field: str = "text") -> list[str]:
    reader = CorpusReader(paths, text_field=text_field)
    return [document_text(document, text_field=text_field) for document in reader]


def json_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def expect(path: Path, pattern: str, *, text_field: str = "text") -> None:
    """The one-line error for `path` says `pattern` after the path."""
    with pytest.raises(InputError, match="^" + re.escape(str(path)) + pattern) as caught:
        read(path, text_field=text_field)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packing", PACKERS)
def test_json_lines_are_read_from_every_packing(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.v2.jsonl{packing}"
    path.write_bytes(PACKERS[packing](json_lines(TEXTS)))
    assert read(path) == TEXTS


@pytest.mark.parametrize("packing", PACKERS)
def test_a_text_file_is_one_document(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(PACKERS[packing](TEXTS[2].encode()))
    assert read(path) == [TEXTS[2]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_parquet_is_read_across_row_groups(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {i} 🐳" for i in range(1000)]
    table = pa.table({"other": range(1000), "body": pa.array(texts, kind)})
    parquet.write_table(table, path, row_group_size=300)
    assert read(path, text_field="body") == texts


def test_files_are_read_in_the_order_given_and_counted(tmp_path: Path) -> None:
    late, early = tmp_path / "b.txt", tmp_path / "a.jsonl"
    late.write_text("late")
    early.write_bytes(json_lines(["early"]))
    reader = CorpusReader([late, early], text_field="text")
    assert [document_text(d, text_field="text") for d in reader] == ["late", "early"]
    assert reader.bytes_read == reader.total_bytes == 4 + early.stat().st_size


def test_a_byte_order_mark_and_blank_lines_are_no_text(tmp_path: Path) -> None:
    lines, text = tmp_path / "a.jsonl", tmp_path / "a.txt"
    lines.write_bytes(b"\xef\xbb\xbf" + json_lines(["one"]) + b"\n  \n" + json_lines(["two"]))
    text.write_bytes(b"\xef\xbb\xbfone")
    assert read(lines, text) == ["one", "two", "one"]


def test_suffixes_in_capitals_mean_the_same(tmp_path: Path) -> None:
    paths = [tmp_path / "A.JSONL.XZ", tmp_path / "B.TXT", tmp_path / "C.Parquet"]
    paths[0].write_bytes(lzma.compress(json_lines(["one"])))
    paths[1].write_text("two")
    parquet.write_table(pa.table({"text": ["three"]}), paths[2])
    assert read(*paths) == ["one", "two", "three"]


def test_a_last_line_without_newline_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(["one", "two"])[:-1])
    assert read(path) == ["one", "two"]


BAD_LINES = {
    b'{"text": "a\xff"}': r":3: invalid UTF-8 \(byte 0xff\)",
    b'{"text": "a"': r":3: not JSON",
    b'"text"': r":3: expected a JSON object, found a str",
    b'{"body": "a", "id": 3}': r":3: no field 'text'; there are body, id \(see --text-field\)",
    b'{"text": null}': r":3: field 'text': expected a string, found a NoneType",
    b'{"text": 7}': r":3: field 'text': expected a string, found a int",
    b'{"text": "\\ud83d"}': r":3: field 'text' holds half of a surrogate pair",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_with_blank_lines_counted(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(["fine"]) + b"\n" + line + b"\n")
    expect(path, BAD_LINES[line])


def test_invalid_utf8_in_a_text_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nth\xe9ee\n")
    expect(path, ":3: invalid UTF-8")


def test_bad_rows_of_a_parquet_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a", "b", None]}), path)
    expect(path, ": row 3: column 'text' is null")
    raw = pa.array([b"a", b"\xff"], pa.binary())
    broken = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    parquet.write_table(pa.table({"text": broken}), path)
    expect(path, ": row 2: invalid UTF-8")


def test_parquet_without_a_text_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [1], "body": ["a"]}), path)
    expect(path, ": column 'text': expected strings, found int64")
    expect(path, ": no column 'x'; there are text, body", text_field="x")
    path.write_bytes(b"PAR1 not really")
    expect(path, ": cannot be read as Parquet")


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_cut_off_or_wrong_packing_is_an_error_not_a_short_corpus(
    tmp_path: Path, packing: str, kind: str
) -> None:
    path = tmp_path / f"a.{kind}{packing}"
    whole = PACKERS[packing](json_lines([f"some text {i * i}" for i in range(2000)]))
    path.write_bytes(whole[: len(whole) // 2])
    expect(path, ": damaged or not a")
    path.write_bytes(b"plain text, not packed at all")
    expect(path, ": damaged or not a")


@pytest.mark.parametrize("name", ["a.csv", "a", "a.gz", "a.txt.bz2", "a.parquet.gz"])
def test_an_unknown_kind_of_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    expect(tmp_path / name, ": unknown kind of file; expected .txt or .jsonl")


def test_missing_repeated_and_no_files_are_refused(tmp_path: Path) -> None:
    expect(tmp_path / "a.txt", ": no such file")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match="given twice"):
        read(tmp_path / "a.txt", tmp_path / ".." / tmp_path.name / "a.txt")
    with pytest.raises(InputError, match=r"^--input: no file given"):
        read()


@pytest.mark.parametrize("kind", ["jsonl", "txt", "parquet"])
def test_a_document_that_would_not_fit_in_memory_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_BYTES", 1000)
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.table({"text": ["a", "b" * 1001]}), path)
    else:
        path.write_bytes(b"b" * 1001 if kind == "txt" else b'{"text": "a"}\n' + b"b" * 5000)
    expect(path, {"jsonl": ":2", "txt": "", "parquet": ": row 2"}[kind] + ": one document of more")


def test_a_row_group_that_would_not_fit_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [str(i) * 90 for i in range(200)]}), path)
    monkeypatch.setattr(corpus, "MAX_ROW_GROUP_BYTES", 1000)
    expect(path, ": row group 0 has .* write the file with smaller row groups")


def test_memory_does_not_grow_with_the_row_groups_of_a_parquet_file(tmp_path: Path) -> None:
    """Iterating over all row groups at once, pyarrow keeps all that has been read.

    Read one by one, three of the hundred row groups are held, and a few more at times: pyarrow's
    threads free them a moment late.
    """
    path = tmp_path / "a.parquet"
    texts = [f"{i} " * 2000 for i in range(1000)]  # 8 MB
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=10, compression=None)
    gc.collect()
    most = before = pa.total_allocated_bytes()
    for _ in CorpusReader([path], text_field="text"):
        most = max(most, pa.total_allocated_bytes())
    assert most - before < sum(map(len, texts)) / 4
