"""The folder of a run: started once, resumed only by the same run.

Noise must never be used with two different gradients. So a folder that holds a private run's
keys is continued only when nothing that alters a gradient, a batch or a noise scale has
changed; everything else is refused, and starting over (in another folder) draws new keys.
"""

import dataclasses
import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpscale.config import RunConfig, essential
from dpscale.data.manifest import Manifest
from dpscale.errors import FolderBusy, InputError, PrivacyRefusal
from dpscale.files import held_alone, read_json, write_json_once
from dpscale.privacy.keys import SecretKeys
from dpscale.privacy.mechanism import PrivateMechanism, build_private_mechanism
from dpscale.records import CHECKPOINTS_DIR, CONFIG_FILE, RESULT_FILE
from dpscale.training import provenance
from dpscale.training.clipping_choice import settled_clipping
from dpscale.training.run_keys import new_keys, saved_keys

PINNED_VERSIONS = ("dpscale", "jax", "jaxlib", "flax", "optax", "numpy")
"""A private run resumes only with these as they were: they turn keys into noise and batches,
and parameters into gradients and updates."""


@dataclass(frozen=True)
class StartedRun:
    """A run with everything settled that its config had left open.

    `mechanism` and `keys` are None for a law-fitting run.
    """

    run_dir: Path
    run_id: str
    config: RunConfig
    config_hash: str
    mechanism: PrivateMechanism | None
    keys: SecretKeys | None

    @property
    def noise_batch_ratio(self) -> float:
        """Noise on the mean gradient, in clip norms."""
        if self.config.law_fitting is not None:
            return self.config.law_fitting.noise_batch_ratio
        assert self.mechanism is not None
        return self.mechanism.noise_batch_ratio


def locked(run_dir: Path) -> AbstractContextManager[None]:
    """Holds the folder for one process.

    Raises (on entering):
      FolderBusy: Another process trains in it.
    """
    return held_alone(
        run_dir / ".lock", FolderBusy(str(run_dir), "another process is training here.")
    )


def start_or_resume(
    config: RunConfig,
    run_dir: Path,
    manifest: Manifest,
    *,
    keys_dir: Path | None = None,
    num_shards: int = 1,
) -> StartedRun:
    """Settles the run's mechanism and keys, and writes or checks `config.json`.

    No step may be taken before this has returned.

    Args:
      keys_dir: The local folder for a private run's keys; None: the run's own, also local.
      num_shards: Devices that a microbatch is divided over.

    Raises:
      FolderBusy: Another process starts a run here at the same time.
      PrivacyRefusal: A private run whose numbers do not meet its target, or a folder that
        holds another run.
      InputError: Config and data do not fit each other, or a law-fitting folder holds
        another run.
    """
    _check_data_fits(config, manifest)
    path = run_dir / CONFIG_FILE
    saved = _read_record(path) if path.exists() else None
    if saved is None:
        _check_unused(run_dir)
    run_id = config.run_id if saved is None else str(saved["run_id"])
    mechanism = None
    config = _with_settled_clipping(config, num_shards)
    if saved is not None:
        config = _with_saved_values(config, saved["config"])
        _check_same_run(_record(config, run_id, manifest, None), saved, where=str(run_dir))
    if config.private is not None:
        mechanism = build_private_mechanism(
            config.private,
            config.clipping,
            iterations=config.training.iterations,
            dataset_size=manifest.dataset_size,
        )
        config = _with_mechanism(config, mechanism)
    if saved is None:
        keys, key_name = new_keys(config, run_dir, keys_dir)
    else:
        key_name = saved.get("key_name")
        keys = saved_keys(config, run_dir, keys_dir, key_name)
    record = _record(config, run_id, manifest, key_name)
    if saved is None:
        _write_first_record(path, record)
    return StartedRun(run_dir, run_id, config, _hash(record), mechanism, keys)


def _check_unused(run_dir: Path) -> None:
    """Without its config nobody can tell whose states and keys a folder holds."""
    for name in (CHECKPOINTS_DIR, RESULT_FILE):
        if (run_dir / name).exists():
            raise PrivacyRefusal(
                str(run_dir), f"holds {name} but no {CONFIG_FILE}; start over in another folder."
            )


def _check_data_fits(config: RunConfig, manifest: Manifest) -> None:
    for name in ("seq_len", "vocab_size"):
        wanted, found = getattr(config.model, name), getattr(manifest, name)
        if wanted != found:
            raise InputError(f"model.{name}", f"{wanted} does not fit the data's {found}.")
    if config.private is not None and config.private.privacy_unit != manifest.privacy_unit:
        raise InputError(
            "private.privacy_unit",
            f"{config.private.privacy_unit!r} is not the data's {manifest.privacy_unit!r}.",
        )
    if manifest.num_eval_units == 0 and config.data.num_eval_units > 0:
        raise InputError("data.num_eval_units", "the data holds no evaluation units; expected 0.")


def _with_saved_values(config: RunConfig, saved: dict[str, Any]) -> RunConfig:
    """Takes over what the first start calibrated, where the config leaves it open."""
    if config.private is None or saved["private"] is None:
        return config
    settled = {
        name: saved["private"][name]
        for name in ("noise_multiplier", "truncated_batch_size")
        if getattr(config.private, name) is None
    }
    return dataclasses.replace(config, private=dataclasses.replace(config.private, **settled))


def _with_settled_clipping(config: RunConfig, num_shards: int) -> RunConfig:
    clipping = settled_clipping(
        config.model,
        config.clipping,
        batch_size=config.batch_size,
        is_poisson=config.private is not None,
        num_shards=num_shards,
    )
    return dataclasses.replace(config, clipping=clipping)


def _with_mechanism(config: RunConfig, mechanism: PrivateMechanism) -> RunConfig:
    assert config.private is not None
    private = dataclasses.replace(
        config.private,
        noise_multiplier=mechanism.accounted.noise_multiplier,
        truncated_batch_size=mechanism.truncated_batch_size,
    )
    return dataclasses.replace(config, private=private)


def _check_same_run(record: dict[str, Any], saved: dict[str, Any], *, where: str) -> None:
    is_private = saved["config"]["purpose"] == "private"
    changed = _differences(essential(saved["config"]), essential(record["config"]))
    if saved["data_hash"] != record["data_hash"]:
        changed.append("data_hash")
    if is_private:
        changed += [
            f"version of {name}"
            for name in PINNED_VERSIONS
            if saved["versions"].get(name) != record["versions"][name]
        ]
    if changed:
        refusal = PrivacyRefusal if is_private else InputError
        reason = "its noise would be used twice" if is_private else "this folder holds another run"
        raise refusal(
            where,
            f"cannot resume with changed {', '.join(changed)}: {reason}; undo the change, or start "
            "over in another folder.",
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted names of the settings that differ."""
    names = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            names += [f"{key}.{name}" for name in _differences(before, after)]
        elif before != after:
            names.append(key)
    return names


def _read_record(path: Path) -> dict[str, Any]:
    """What `_record` was at the first start; its config checked, and complete."""
    record = read_json(path)
    for key in ("run_id", "config", "data_hash", "versions"):
        if key not in record:
            raise InputError(f"{path}: {key}", "missing; start over in another folder.")
    config = RunConfig.from_dict(record["config"], where=str(path))
    return {**record, "config": config.to_dict()}


def _write_first_record(path: Path, record: dict[str, Any]) -> None:
    """After the keys, so that what it names is there; and once, so that no start undoes another."""
    try:
        write_json_once(path, record)
    except FileExistsError:
        raise FolderBusy(str(path.parent), "another process starts a run here.") from None


def _record(
    config: RunConfig, run_id: str, manifest: Manifest, key_name: str | None
) -> dict[str, Any]:
    """What `config.json` holds; of keys that lie elsewhere their name, never where."""
    return {
        "run_id": run_id,
        "key_name": key_name,
        "config": config.to_dict(),
        "data_hash": manifest.data_hash,
        "dataset_size": manifest.dataset_size,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }


def _hash(record: dict[str, Any]) -> str:
    seen = {"config": essential(record["config"]), "data_hash": record["data_hash"]}
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()
