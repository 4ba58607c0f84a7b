"""The repository stands alone: no tracked file points to one machine or outside of the clone."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Folders of one machine, where they begin a path: not the `/tmp/` inside `a/tmp/b`.
ABSOLUTE = re.compile(r"(?<![\w.}\])$-])/(?:home|work|root|tmp|Users|mnt|opt|var|data|nfs)/\w")
REGISTRY = re.compile(
    r"https?://[^\s\"')]*(?:/simple\b|pypi|pythonhosted|registry|artifactory|nexus|mirror)"
    r"|--(?:extra-)?index-url|--find-links|file://",
    re.IGNORECASE,
)
OUTSIDE = re.compile(r"\.\./shared\b|(?<![\w/.])/work\b")
PATTERNS = {"absolute path": ABSOLUTE, "registry address": REGISTRY, "outside path": OUTSIDE}


def tracked_texts() -> list[Path]:
    """Tracked text files that are ours: not this one, which must spell the patterns out."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git clone")
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and path != Path(__file__).resolve()]


def findings(text: str) -> list[str]:
    return [
        f"line {number}: {kind}: {match[0]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for kind, pattern in PATTERNS.items()
        for match in [pattern.search(line)]
        if match
    ]


@pytest.mark.parametrize(
    "line",
    [
        'ROOT = "/home/someone/dpscale"',
        "see /tmp/x.json",
        "data: /data/corpus",
        "pip install --index-url here",
        "https://pypi.example.org/simple/jax",
        "read ../shared/FACTS.md",
    ],
)
def test_a_leak_is_found(line: str) -> None:
    assert findings(line)


@pytest.mark.parametrize(
    "line",
    [
        "(tmp_path / 'data').mkdir()",
        "runs/data/manifest.json",
        "#!/usr/bin/env bash",
        "https://arxiv.org/abs/2501.18914",
        "$HOME/tmp/x",
        "and/or, train/data/loss",
    ],
)
def test_what_is_harmless_passes(line: str) -> None:
    assert not findings(line)


def test_tracked_files_hold_no_address_of_one_machine() -> None:
    found = {}
    for path in tracked_texts():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        if bad := findings(text):
            found[str(path.relative_to(ROOT))] = bad
    assert not found
