"""Real runs on a disk that is too small for their checkpoints, and then on one that is not."""

import subprocess
import sys
from pathlib import Path

from real_sweep import dpscale, finish, losses, make_folder

from dpscale.sweep.layout import SweepFolder

LIMIT_BYTES = 40_000
"""Of one file: holds a config, a log and metrics, and not the largest array of a checkpoint."""

LIMITED = """
import resource, sys
from dpscale.cli.main import main
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""


def limited(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command line in a process that can write small files only, and its children too."""
    command = [sys.executable, "-c", LIMITED, str(LIMIT_BYTES), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_points_that_find_no_room_say_so_and_go_on_when_there_is_some(tmp_path: Path) -> None:
    # Catches: an error of a background save that is lost, a traceback in place of a reason, a
    # half-written checkpoint that counts.
    folder = make_folder(tmp_path)
    command = ("sweep", "s.toml", "--out", "out", "--retries", "0")
    done = limited(folder, *command)
    assert done.returncode == 1, done.stderr
    failures = SweepFolder(folder / "out").read_failures()
    assert len(failures) == 2
    for run_id, reason in failures.items():
        assert f"out/runs/{run_id}/checkpoints: file too large; make room" in reason
    assert not list((folder / "out" / "runs").glob("*/checkpoints/*/checksums.json"))
    assert (folder / "out" / "results.csv").exists()
    code, text = finish(dpscale(folder, *command))
    assert code == 0, text
    assert finish(dpscale(folder, "sweep", "s.toml", "--out", "calm"))[0] == 0
    assert losses(folder / "out") == losses(folder / "calm")
