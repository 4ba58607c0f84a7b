"""Every path option of every verb refuses, at the start, what it cannot read or write."""

import dataclasses
import importlib
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpscale.cli.main import main
from dpscale.cli.paths import BucketPath
from dpscale.cli.verbs import VERBS
from dpscale.schema import to_toml


def path_options() -> Iterator[tuple[str, str, bool]]:
    """Verb, option and whether it takes a bucket, of every option typed as a path."""
    for verb, entry in VERBS.items():
        options = importlib.import_module(entry.module).Options
        for name, hint in typing.get_type_hints(options, include_extras=True).items():
            if "pathlib" in str(hint):
                marker = typing.get_args(BucketPath)[1]
                yield verb, name, str(marker) in str(hint)


OPTIONS = sorted(path_options())


def words(verb: str, given: str, typed: str) -> list[str]:
    """A command line with every required option, and `typed` for the one in question."""
    options = importlib.import_module(VERBS[verb].module).Options
    hints = typing.get_type_hints(options, include_extras=True)
    line: list[str] = []
    for field in dataclasses.fields(options):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if not needed and field.name != given:
            continue
        value = typed if field.name == given else a_value_of(hints[field.name])
        is_positional = "Positional" in str(hints[field.name])
        line += [value] if is_positional else [f"--{field.name.replace('_', '-')}", value]
    return line


def a_value_of(hint: typing.Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return str(typing.get_args(hint)[0])
    return "4" if "int" in str(hint) or "float" in str(hint) else "a"


def test_the_options_that_take_a_bucket_are_these() -> None:
    # A new option of a verb is local until somebody has seen it work on a bucket.
    assert [(verb, name) for verb, name, takes_bucket in OPTIONS if takes_bucket] == [
        ("eval", "data"),
        ("eval", "run"),
        ("export", "run"),
        ("generate", "run"),
        ("prepare", "out"),
        ("receipt", "run"),
        ("recommend", "data"),
        ("status", "folder"),
        ("sweep", "out"),
        ("train", "config"),
        ("train", "out"),
    ]


@pytest.mark.parametrize(("verb", "name", "takes_bucket"), OPTIONS)
def test_a_path_is_refused_before_anything_is_done(
    verb: str,
    name: str,
    takes_bucket: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in ("s3://b/x", "http://h/x", *([] if takes_bucket else ["gs://bucket/x"])):
        line = words(verb, name, typed)
        assert main([verb, *line]) == 2
        said = capsys.readouterr()
        option = f"--{name.replace('_', '-')}"
        where = option if option in line else typed
        assert said.err.startswith(f"dpscale {verb}: {where}: "), said.err
        assert "expected a local path" in said.err
        assert typed in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "--input", "s3://b/x", "--tokenizer", "t", "--seq-len", "4", "--out", "o"],
        ["prepare", "--input", "a", "--tokenizer", "s3://b/x", "--seq-len", "4", "--out", "o"],
        ["fit", "s3://b/x", "--out", "law.json"],
        ["train", "--out=s3://b/x", "c.toml"],
        ["train", "--json", "s3://b/x"],
    ],
)
def test_other_ways_to_type_a_path_are_no_way_around(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "s3://" in said
    assert "expected a local path" in said
    assert "--json:" not in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("set_on", ["command line", "file"])
def test_the_place_of_the_data_is_refused_in_a_config(
    set_on: str, make_config: typing.Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run_dir = tmp_path / "c.toml", tmp_path / "run"
    text = to_toml(make_config().to_dict())
    if set_on == "file":
        text = "".join(
            'path = "s3://b/x"\n' if line.startswith("path") else f"{line}\n"
            for line in text.splitlines()
        )
    file.write_text(text)
    arguments = ["train", str(file), "--out", str(run_dir)]
    if set_on == "command line":
        arguments += ["--set", "data.path=s3://b/x"]
    assert main(arguments) == 2
    assert f"{file}: data: path: s3:// is not supported" in capsys.readouterr().err
    assert not run_dir.exists()


def test_a_bucket_out_of_reach_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from aiohttp import ClientConnectionError

    def unreachable(*arguments: object, **options: object) -> None:
        raise ClientConnectionError("Cannot connect\nto host")

    monkeypatch.setattr("dpscale.sweep.survey.survey", unreachable)
    assert main(["status", "gs://bucket/runs"]) == 75
    said = capsys.readouterr().err
    assert "the bucket cannot be reached (Cannot connect to host)" in said
    assert said.count("\n") == 1
