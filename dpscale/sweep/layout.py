"""What stands where in a sweep's folder.

- `configs/<run_id>.toml`  what `dpscale train` is given, one file a point
- `runs/<run_id>/`         the run's own folder (`dpscale.records`)
- `logs/<run_id>.log`      what it printed; a resumed run appends
- `failures.json`          points that ended without a result, with the reason
- `results.parquet`, `results.csv`   the results table, at the end
- `.lock`                  held by the one sweep that works here
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dpscale.config import RunConfig
from dpscale.errors import InputError
from dpscale.files import held_alone, read_json, write_json_atomically
from dpscale.records import TABLE_CSV_FILE, TABLE_FILE
from dpscale.schema import read_toml


@dataclass(frozen=True)
class SweepFolder:
    """Paths in the folder of a sweep."""

    root: Path

    def config_path(self, run_id: str) -> Path:
        """The config file of a point."""
        return self.root / "configs" / f"{run_id}.toml"

    def run_dir(self, run_id: str) -> Path:
        """The run folder of a point."""
        return self.root / "runs" / run_id

    def log_path(self, run_id: str) -> Path:
        """Where a point's process prints to."""
        return self.root / "logs" / f"{run_id}.log"

    @property
    def table_path(self) -> Path:
        """The results table."""
        return self.root / TABLE_FILE

    @property
    def table_csv_path(self) -> Path:
        """The results table for eyes."""
        return self.root / TABLE_CSV_FILE

    @property
    def failures_path(self) -> Path:
        """Where points without a result are recorded."""
        return self.root / "failures.json"

    def read_failures(self) -> dict[str, str]:
        """Error text by `run_id`, of the points that ended without a result."""
        return read_json(self.failures_path) if self.failures_path.exists() else {}

    def write_failures(self, failures: dict[str, str]) -> None:
        """Replaces the record of the points that ended without a result."""
        write_json_atomically(self.failures_path, failures)

    def read_points(self) -> list[RunConfig]:
        """The configs that a sweep wrote here, by name of file; empty where none did."""
        paths = sorted((self.root / "configs").glob("*.toml"))
        return [RunConfig.from_dict(read_toml(path), where=str(path)) for path in paths]


def locked(folder: SweepFolder) -> AbstractContextManager[None]:
    """Holds a sweep's folder for this process.

    Raises (on entering):
      InputError: Another sweep works in the folder.
    """
    refusal = InputError(
        "--out", f"another sweep works in {folder.root}; wait for it or choose another."
    )
    return held_alone(folder.root / ".lock", refusal)
