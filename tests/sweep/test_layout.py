import subprocess
import sys
from pathlib import Path

import pytest

from dpscale.errors import InputError
from dpscale.sweep.layout import SweepFolder, locked


def test_a_second_sweep_on_one_folder_is_refused(tmp_path: Path) -> None:
    with (
        locked(SweepFolder(tmp_path)),
        pytest.raises(InputError, match="--out: another sweep works in"),
        locked(SweepFolder(tmp_path)),
    ):
        pass


def test_the_folder_is_free_again_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(SweepFolder(tmp_path)):
        raise RuntimeError
    with locked(SweepFolder(tmp_path)):
        pass


def test_a_lock_of_a_killed_process_is_gone_with_it(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from dpscale.sweep.layout import SweepFolder, locked\n"
        "with locked(SweepFolder(Path(sys.argv[1]))): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    with locked(SweepFolder(tmp_path)):
        pass


def test_failures_are_read_back(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert folder.read_failures() == {}
    folder.write_failures({"a": "why"})
    assert folder.read_failures() == {"a": "why"}
