"""Where a run came from: versions, commit, device."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import jax

PACKAGES = (
    "dpscale",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "dp-accounting",
)


def versions() -> dict[str, str]:
    """Versions of Python and of every package that a run's numbers can depend on."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages}


def commit() -> str | None:
    """The commit of the source that runs, with `+changes` when it differs from it.

    None where the source is not a git checkout (an installed package).
    """
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    try:
        head = _git(source, "rev-parse", "HEAD")
        changed = _git(source, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed else "")


def device() -> str:
    """What the run computes on: `cpu x1`, `NVIDIA H100 x8`."""
    devices = jax.devices()
    return f"{devices[0].device_kind} x{len(devices)}"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
