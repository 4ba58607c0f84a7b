import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from dpscale.errors import InputError
from dpscale.files import read_json, to_json, write_json_atomically, write_text_atomically


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text_atomically(path, "old, and longer than what follows\n")
    write_text_atomically(path, "new σ\n")
    assert path.read_text(encoding="utf-8") == "new σ\n"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace", "fchmod"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_reader_meets_the_old_file_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")
    seen: list[tuple[str, str]] = []
    real = os.replace

    def spy(source: str, target: Path) -> None:
        seen.append((path.read_text(), Path(source).read_text()))
        assert Path(source).parent == path.parent  # a rename across file systems is a copy
        real(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_text_atomically(path, "new")
    assert seen == [("old", "new")]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_permissions_are_as_asked_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        write_text_atomically(tmp_path / "a", "x", mode=mode)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "a") == mode


def test_a_secret_file_is_never_readable_by_others_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (seen.append(stat.S_IMODE(os.fstat(fd).st_mode)), real(fd))[1]
    )
    write_text_atomically(tmp_path / "key", "secret", mode=0o600)
    assert seen == [0o600]


def test_numbers_that_json_lacks_become_null_at_any_depth() -> None:
    value = {"a": float("nan"), "b": [float("inf"), {"c": (-float("inf"), 1.5)}], "d": None}
    text = to_json(value)
    assert json.loads(text) == {"a": None, "b": [None, {"c": [None, 1.5]}], "d": None}
    assert "NaN" not in text


def test_json_is_read_back(tmp_path: Path) -> None:
    value = {"loss": 0.1 + 0.2, "name": "σ", "steps": [1, 2]}
    write_json_atomically(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b'{"a": 1', "cannot be read as JSON"),
        (b'{"a": "\xff"}', "cannot be read as JSON"),
        (b"[1, 2]", "expected a JSON object, found a list"),
        (b"", "cannot be read as JSON"),
    ],
)
def test_what_is_no_json_object_is_one_line_with_its_path(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
