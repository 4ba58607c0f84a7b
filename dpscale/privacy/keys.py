"""The secret keys of a private run: where they come from and where they are kept.

Whoever knows the noise key can subtract the noise, and whoever knows the sampling key knows
the batches; then no guarantee is left. So both come from the operating system's entropy,
live in one file with mode 0600 beside the checkpoints, and are in no config, run_id, hash,
log, receipt or export.
"""

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from dpscale.errors import PrivacyRefusal
from dpscale.files import read_json, to_json

KEY_FILE: Final = "private_keys.json"
NOISE_KEY_BITS: Final = 64
SAMPLING_KEY_BITS: Final = 128
NOISE_GENERATOR: Final = "threefry2x32"
SAMPLING_GENERATOR: Final = "philox4x64"


@dataclass(frozen=True)
class SecretKeys:
    """Full key data: all bits are random. Neither is shown in `repr`."""

    noise: int = field(repr=False)
    sampling: int = field(repr=False)


def draw_keys() -> SecretKeys:
    """Fresh keys from the operating system's entropy."""
    return SecretKeys(secrets.randbits(NOISE_KEY_BITS), secrets.randbits(SAMPLING_KEY_BITS))


def insecure_keys(seed: int) -> SecretKeys:
    """Keys that anyone can repeat: for tests, and marked in the receipt."""
    words = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    return SecretKeys(int(words[0]), int(words[1]) << 64 | int(words[2]))


def create_key_file(run_dir: Path, keys: SecretKeys) -> None:
    """Writes `keys` into the run folder with mode 0600; never over existing ones."""
    path = run_dir / KEY_FILE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(to_json({"noise": f"{keys.noise:x}", "sampling": f"{keys.sampling:x}"}))
        file.flush()
        os.fsync(file.fileno())


def read_key_file(run_dir: Path) -> SecretKeys:
    """The keys that a run was started with.

    Raises:
      PrivacyRefusal: Others can read the file, or it is not what `create_key_file` wrote.
    """
    path = run_dir / KEY_FILE
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise PrivacyRefusal(
            str(path), f"expected mode 0600, found {mode:04o}: the keys may be known; start over."
        )
    fields = read_json(path)
    try:
        return SecretKeys(int(fields["noise"], 16), int(fields["sampling"], 16))
    except (KeyError, TypeError, ValueError):
        raise PrivacyRefusal(str(path), "expected two keys in hexadecimal; start over.") from None
