import importlib.util
import os
from pathlib import Path

import pytest

from dpscale.config import DataConfig
from dpscale.errors import InputError
from dpscale.paths import as_local_path, as_path, is_on_bucket


def test_a_local_path_stays_what_it_was() -> None:
    assert as_path("runs/a:b/c") == Path("runs/a:b/c")
    assert type(as_path("runs")) is type(Path())
    assert not is_on_bucket(as_path("/gs/bucket"))


def test_a_bucket_keeps_its_slashes_through_everything_that_is_done_with_paths() -> None:
    # Catches: pathlib, which makes gs:/bucket of it and writes there, locally.
    path = as_path("gs://bucket/runs") / "a" / "config.json"
    assert str(path) == os.fspath(path) == "gs://bucket/runs/a/config.json"
    assert str(path.parent.with_name("b")) == "gs://bucket/runs/b"
    assert str(as_path(path)) == str(path)
    assert is_on_bucket(path)


@pytest.mark.parametrize(
    "text",
    ["s3://b/x", "az://b/x", "hdfs://h/x", "http://h/x", "https://h/x", "ftp://h/x", "S3://b"],
)
def test_other_schemes_are_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match=r"is not supported; expected a local path, or gs://"):
        as_path(text)
    with pytest.raises(InputError, match="expected a local path here"):
        as_local_path(text)
    with pytest.raises(InputError, match=r"path: .* is not supported"):
        DataConfig(path=text)


@pytest.mark.parametrize("text", ["gs://", "gs:///x", "gs:/bucket/x"])
def test_no_bucket_is_no_path(text: str) -> None:
    with pytest.raises(InputError, match="with two slashes and a bucket"):
        as_path(text)


def test_a_path_that_pathlib_has_spoilt_is_refused() -> None:
    with pytest.raises(InputError, match="with two slashes"):
        as_path(Path("gs://bucket/x"))


def test_a_bucket_is_no_local_path() -> None:
    with pytest.raises(InputError, match="expected a local path here"):
        as_local_path("gs://bucket/x")


def test_who_lacks_the_package_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'dpscale\[gcs\]'"):
        as_path("gs://bucket/x")
    assert DataConfig(path="gs://bucket/x")  # a record of a run elsewhere can be read all the same
