"""Choices go into a config's [clipping]; nothing else in the file moves."""

import stat
import tomllib
from pathlib import Path

import pytest

from dpscale.bench.config_file import write_clipping
from dpscale.errors import InputError

SETTINGS = {"strategy": "bookkeeping", "norm_rule": "gram", "microbatch_size": 8}

COMMENTED = """\
# My run, measured twice.
purpose = "private"

[model]   # small
shape = "w32"
strategy = "not this one"

  [clipping]  # how
l2_clip_norm = 0.5          # from a sweep
  microbatch_size=2 # was 4
# strategy = "ghost"
strategy   =   'auto'

# about the optimizer
[optimizer]
learning_rate = 1e-3
microbatch_size = 99
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode())
    write_clipping(path, SETTINGS)
    return path.read_bytes().decode()


def test_only_the_three_values_change(tmp_path: Path) -> None:
    # Catches: a file that is written anew, a key of another section, a commented one.
    after = written(tmp_path, COMMENTED).splitlines()
    before = COMMENTED.splitlines()
    assert after == [
        *before[:9],
        "  microbatch_size=8 # was 4",
        before[10],
        'strategy   =   "bookkeeping"',
        'norm_rule = "gram"',
        *before[12:],
    ]


def test_again_changes_nothing(tmp_path: Path) -> None:
    once = written(tmp_path, COMMENTED)
    assert written(tmp_path, once) == once


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seed = 3",
        "seed = 3\n",
        "[clipping]",
        "[clipping]\n[model]\nwidth = 1\n",
        "[clipping]\n\n# nothing yet\n\n[model]\nwidth = 1\n",
        '[model]\nwidth = 1\n[clipping]\nmicrobatch_size = "none"',
        "[a]\nx = '''\n[clipping]\nstrategy = 'no'\n'''\n[ clipping ]\nstrategy = 'auto'\n",
    ],
)
def test_missing_lines_and_sections_are_added_or_refused(tmp_path: Path, text: str) -> None:
    before = tomllib.loads(text)
    try:
        after = tomllib.loads(written(tmp_path, text))
    except InputError:
        assert "'''" in text  # a text that looks like a section is not guessed about
        assert (tmp_path / "run.toml").read_text() == text
        return
    assert after == {**before, "clipping": {**before.get("clipping", {}), **SETTINGS}}


def test_line_endings_mode_and_links_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "link.toml"
    real.write_bytes(b"seed = 1\r\n[clipping]\r\nstrategy = 'vmap' # x\r\n")
    real.chmod(0o640)
    link.symlink_to(real)
    write_clipping(link, SETTINGS)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert real.read_bytes() == (
        b'seed = 1\r\n[clipping]\r\nstrategy = "bookkeeping" # x\r\n'
        b'norm_rule = "gram"\r\nmicrobatch_size = 8\r\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        "clipping = { strategy = 'vmap' }\n",
        "clipping.strategy = 'vmap'\n",
        '["clipping"]\nstrategy = "vmap"\n',
        '[clipping]\n"strategy" = "vmap"\n',
        '[clipping]\nstrategy = """vmap"""\n',
    ],
)
def test_what_cannot_be_edited_safely_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="by hand: strategy = ") as refusal:
        write_clipping(path, SETTINGS)
    assert "\n" not in str(refusal.value)
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]
