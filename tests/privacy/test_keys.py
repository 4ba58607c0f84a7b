"""Secret keys: all bits from the system, a file that only its owner reads, no trace elsewhere."""

import stat
from pathlib import Path

import pytest

from dpscale.errors import PrivacyRefusal
from dpscale.privacy.keys import (
    KEY_FILE,
    SecretKeys,
    create_key_file,
    draw_keys,
    insecure_keys,
    read_key_file,
)


def test_drawn_keys_use_all_their_bits() -> None:
    # Catches: a 32-bit seed in the place of full key data.
    drawn = [draw_keys() for _ in range(64)]
    assert len({keys.noise for keys in drawn}) == len({keys.sampling for keys in drawn}) == 64
    noise_bits = sampling_bits = 0
    for keys in drawn:
        noise_bits |= keys.noise
        sampling_bits |= keys.sampling
    assert noise_bits == 2**64 - 1
    assert sampling_bits == 2**128 - 1


def test_round_trip_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    keys = draw_keys()
    create_key_file(tmp_path, keys)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert read_key_file(tmp_path) == keys


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    create_key_file(tmp_path, draw_keys())
    with pytest.raises(FileExistsError):
        create_key_file(tmp_path, draw_keys())


def test_keys_that_others_could_read_are_refused(tmp_path: Path) -> None:
    create_key_file(tmp_path, draw_keys())
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(PrivacyRefusal, match="0600"):
        read_key_file(tmp_path)


def test_a_damaged_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text('{"noise": "zz"}')
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(PrivacyRefusal, match="hexadecimal"):
        read_key_file(tmp_path)


def test_keys_are_not_shown() -> None:
    text = repr(SecretKeys(123456789, 987654321))
    assert "123456789" not in text
    assert "987654321" not in text


def test_insecure_keys_repeat() -> None:
    assert insecure_keys(3) == insecure_keys(3) != insecure_keys(4)
