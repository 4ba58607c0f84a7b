"""Prepared data on a bucket: made there, and read through a verified local copy."""

import filecmp
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dpscale.data import bucket_copy
from dpscale.data.assets import resolve
from dpscale.data.bucket_copy import local_copy, publish
from dpscale.data.prepare import prepare
from dpscale.data.request import PrepareRequest
from dpscale.data.units import open_units
from dpscale.errors import InputError
from dpscale.paths import as_path, cache_folder


@pytest.fixture
def request_(prepared: Path) -> PrepareRequest:
    return PrepareRequest(
        inputs=(prepared.parent / "text.jsonl",),
        tokenizer=resolve("embedded:moby-1024"),
        seq_len=8,
    )


@pytest.fixture
def published(bucket: str, prepared: Path) -> Path:
    folder = as_path(f"{bucket}/data")
    publish(prepared, folder)
    return folder


def test_units_on_a_bucket_are_those_of_the_local_folder(published: Path, prepared: Path) -> None:
    here, there = open_units(prepared), open_units(str(published))
    indices = np.arange(len(here.train))
    assert np.array_equal(here.train.gather(indices), there.train.gather(indices))
    assert there.manifest == here.manifest
    assert there.tokenizer().sha256 == here.tokenizer().sha256
    there.verify()


def test_the_copy_is_made_once_and_is_the_users_alone(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = local_copy(published)
    assert copy.is_relative_to(cache_folder())
    assert stat.S_IMODE(copy.stat().st_mode) == stat.S_IMODE(copy.parent.stat().st_mode) == 0o700

    def fail(*arguments: Path) -> None:
        raise AssertionError("fetched again")

    monkeypatch.setattr(bucket_copy, "download", fail)
    assert local_copy(published) == copy


@pytest.mark.parametrize("name", ["train-00000.npy", "tokenizer.model"])
def test_a_file_that_is_not_the_manifests_is_refused_and_not_kept(
    published: Path, prepared: Path, name: str
) -> None:
    name = name if (prepared / name).exists() else sorted(prepared.glob("train*"))[0].name
    whole = (published / name).read_bytes()
    (published / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{name}: its hash is not the manifest's"):
        open_units(published)
    (published / name).write_bytes(whole)
    open_units(published).verify()


def test_a_missing_file_is_named(published: Path, prepared: Path) -> None:
    name = sorted(prepared.glob("train*"))[0].name
    (published / name).unlink()
    with pytest.raises(InputError, match=f"{name}: is missing"):
        open_units(published)


def test_a_copy_that_was_killed_half_way_goes_on(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    download = bucket_copy.download

    def killed_at_second(source: Path, target: Path) -> None:
        if len(fetched) == 1:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        fetched.append(source.name)
        download(source, target)

    monkeypatch.setattr(bucket_copy, "download", killed_at_second)
    with pytest.raises(KeyboardInterrupt):
        local_copy(published)
    monkeypatch.setattr(bucket_copy, "download", download)
    open_units(published).verify()
    assert not list(local_copy(published).glob("*.coming"))


COPY_AND_COUNT = """
import sys, time
from dpscale.data import bucket_copy
from dpscale.data.units import open_units
fetched, download = 0, bucket_copy.download
def counted(source, target):
    global fetched
    fetched += 1
    time.sleep(0.5)  # long enough for the others to come
    download(source, target)
bucket_copy.download = counted
open_units(sys.argv[1]).verify()
print(fetched)
"""


def test_processes_that_ask_at_once_fetch_once(published: Path) -> None:
    # Catches: one that renames over, or reads, what another still writes.
    command = [sys.executable, "-c", COPY_AND_COUNT, str(published)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = [int(process.communicate(timeout=120)[0]) for process in started]
    assert sorted(count > 0 for count in counts) == [False, False, True]


def test_data_are_prepared_on_a_bucket(
    bucket: str, request_: PrepareRequest, prepared: Path
) -> None:
    out = as_path(f"{bucket}/data")
    manifest = prepare(request_, out, workers=1)
    assert manifest == open_units(prepared).manifest
    copy = local_copy(out)
    names = [path.name for path in prepared.iterdir() if path.suffix == ".npy"]
    assert names
    assert filecmp.cmpfiles(prepared, copy, names, shallow=False)[0] == names
    assert not list((cache_folder() / "prepare").glob("*")), "what was made locally is still there"
    before = (out / "manifest.json").stat()
    assert prepare(request_, out, workers=1) == manifest  # found finished
    assert (out / "manifest.json").stat() == before


@pytest.mark.parametrize("last", ["manifest.json", "tokenizer.model", "train-00000.npy"])
def test_a_publication_that_was_killed_is_done_again_by_the_same_request_only(
    last: str,
    bucket: str,
    request_: PrepareRequest,
    prepared: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Catches: half a data set that passes for whole, or two mixed in one folder.
    out, upload = as_path(f"{bucket}/data"), bucket_copy.upload

    def killed(source: Path, target: Path) -> None:
        if source.name == last:
            raise KeyboardInterrupt
        upload(source, target)

    monkeypatch.setattr(bucket_copy, "upload", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(request_, out, workers=1)
    monkeypatch.setattr(bucket_copy, "upload", upload)
    with pytest.raises(InputError, match="no prepared data here"):
        open_units(out)
    other = PrepareRequest(inputs=request_.inputs, tokenizer=request_.tokenizer, seq_len=4)
    with pytest.raises(InputError, match="choose another --out"):
        prepare(other, out, workers=1)
    assert prepare(request_, out, workers=1) == open_units(prepared).manifest
    open_units(out).verify()


def test_a_folder_that_holds_something_else_is_left_alone(
    bucket: str, request_: PrepareRequest
) -> None:
    out = as_path(f"{bucket}/mine")
    (out / "thesis.tex").write_text("all my work")
    with pytest.raises(InputError, match="is no prepared data"):
        prepare(request_, out, workers=1)
    assert (out / "thesis.tex").read_text() == "all my work"
    assert os.listdir(cache_folder()) == [] if cache_folder().exists() else True
