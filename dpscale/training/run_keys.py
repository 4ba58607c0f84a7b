"""Which keys a private run has: drawn at its first start, the same ever after, or it is refused.

They lie beside the checkpoints, or under a name in a local folder of the user's (`privacy.keys`). A
run that was started one way goes on that way only: it finds its own keys, or nothing.
"""

from pathlib import Path

from dpscale.config import RunConfig
from dpscale.errors import InputError, PrivacyRefusal
from dpscale.paths import is_on_bucket
from dpscale.privacy.keys import (
    KEY_FILE,
    SecretKeys,
    create_key_file,
    draw_key_name,
    draw_keys,
    insecure_keys,
    key_file,
    read_key_file,
)


def check_place(config: RunConfig, run_dir: Path, keys_dir: Path | None) -> None:
    """Refuses keys on a bucket, before anything is read or written.

    Args:
      keys_dir: The local folder for the keys; None: the run's own.

    Raises:
      PrivacyRefusal: A private run on a bucket, without a folder for its keys or with one there.
      InputError: A folder for the keys of a law-fitting run, which has none.
    """
    if config.private is None:
        if keys_dir is not None:
            raise InputError("--keys", "a law-fitting run has no secret keys; leave it out.")
        return
    if keys_dir is None and is_on_bucket(run_dir):
        raise PrivacyRefusal(
            str(run_dir),
            "whoever may read the bucket could read the secret keys of a private run there, and "
            "then nothing is private; give a local folder for them: --keys FOLDER.",
        )
    if keys_dir is not None and is_on_bucket(keys_dir):
        raise PrivacyRefusal("--keys", f"expected a local folder, found {keys_dir}.")


def new_keys(
    config: RunConfig, run_dir: Path, keys_dir: Path | None
) -> tuple[SecretKeys | None, str | None]:
    """Draws and keeps the keys of a run that starts; the config is to be written after them.

    Returns:
      The keys, and the name they lie under in `keys_dir`; None and None for a law-fitting run.
    """
    if config.private is None:
        return None, None
    seed = config.private.insecure_key_seed
    keys = draw_keys() if seed is None else insecure_keys(seed)
    if keys_dir is None:
        # Keys without config.json and checkpoints are of a start that was killed before any step.
        if not is_on_bucket(run_dir):
            (run_dir / KEY_FILE).unlink(missing_ok=True)
        create_key_file(run_dir, keys)
        return keys, None
    # Those of such a start have a name that nothing knows, and are never used: all may stay.
    keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = draw_key_name()
    create_key_file(keys_dir, keys, key_name=name)
    return keys, name


def saved_keys(
    config: RunConfig, run_dir: Path, keys_dir: Path | None, key_name: str | None
) -> SecretKeys | None:
    """The keys of a run that goes on; never others.

    Args:
      key_name: As `new_keys` returned it when the run started.

    Raises:
      PrivacyRefusal: They are not where they were put, or could have been read by others.
    """
    if config.private is None:
        return None
    if key_name is None and keys_dir is not None:
        raise PrivacyRefusal("--keys", f"the keys of {run_dir} lie in it; leave --keys out.")
    if key_name is not None and keys_dir is None:
        raise PrivacyRefusal(
            str(run_dir), "its keys lie in a folder of their own; name it: --keys FOLDER."
        )
    folder = run_dir if keys_dir is None else keys_dir
    path = key_file(folder, key_name)
    if not path.exists():
        hint = "" if keys_dir is None else "name the folder that holds them (all hosts alike), or "
        raise PrivacyRefusal(
            str(path), f"the keys of this run are gone; {hint}start over in another folder."
        )
    return read_key_file(folder, key_name=key_name)
