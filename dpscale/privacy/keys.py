"""The secret keys of a private run: where they come from and where they are kept.

Whoever knows the noise key can subtract the noise, and whoever knows the sampling key knows
the batches; then no guarantee is left. So both come from the operating system's entropy,
live in one file with mode 0600 beside the checkpoints, and are in no config, run_id, hash,
log, receipt or export.

A bucket has no such mode: whoever may read the bucket may read each object in it. So keys never
lie there. A run on a bucket, or any other that is told to, keeps them in a local folder of the
user's. Several runs may share it: the file bears a *key name*, drawn with the keys when the run
first starts and recorded in its config, so that no run finds the keys of another, of an earlier
start in the same place, or of one that was killed before it recorded them. The name says nothing
about the keys.
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
from dpscale.paths import is_on_bucket

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


def draw_key_name() -> str:
    """A name that no other run's keys have: 128 random bits, in hexadecimal. Public."""
    return secrets.token_hex(16)


def key_file(folder: Path, key_name: str | None) -> Path:
    """Where the keys lie: beside the checkpoints, or under their name in a folder of their own."""
    return folder / (KEY_FILE if key_name is None else f"{key_name}.json")


def create_key_file(folder: Path, keys: SecretKeys, *, key_name: str | None = None) -> None:
    """Writes `keys` with mode 0600, durably; never over existing ones.

    Args:
      folder: The run's, or with `key_name` the folder for keys.

    Raises:
      PrivacyRefusal: The folder is on a bucket.
    """
    if is_on_bucket(folder):
        raise PrivacyRefusal(str(folder), "secret keys never lie on a bucket.")
    path = key_file(folder, key_name)
    fields = {"noise": f"{keys.noise:x}", "sampling": f"{keys.sampling:x}"}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(to_json(fields if key_name is None else {"key_name": key_name, **fields}))
        file.flush()
        os.fsync(file.fileno())


def read_key_file(folder: Path, *, key_name: str | None = None) -> SecretKeys:
    """The keys that a run was started with.

    Raises:
      PrivacyRefusal: Others can read the file, it is not what `create_key_file` wrote, or was
        written for another run.
    """
    path = key_file(folder, key_name)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise PrivacyRefusal(
            str(path), f"expected mode 0600, found {mode:04o}: the keys may be known; start over."
        )
    fields = read_json(path)
    if fields.get("key_name") != key_name:
        raise PrivacyRefusal(str(path), "these keys are of another run; put back its own.")
    try:
        return SecretKeys(int(fields["noise"], 16), int(fields["sampling"], 16))
    except (KeyError, TypeError, ValueError):
        raise PrivacyRefusal(str(path), "expected two keys in hexadecimal; start over.") from None
