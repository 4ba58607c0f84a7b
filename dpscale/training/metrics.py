"""`metrics.jsonl`: one line a window, appended as the run goes, cut back when it resumes.

Nothing can be appended to an object on a bucket: there each line writes all of them anew. They
have some 300 bytes, so even the last of 1,000 windows writes less than a megabyte.
"""

from pathlib import Path
from typing import Any

from dpscale.files import to_json, write_text_atomically
from dpscale.paths import is_on_bucket
from dpscale.records import METRICS_FILE, read_metrics
from dpscale.training.step import Window

NOT_PRIVATE_KEYS = ("train_loss", "tokens", "clipped_fraction", "mean_grad_norm")
"""Keys of a metric line that hold private data without noise."""


class MetricsLog:
    """The metric lines of one run.

    Args:
      run_dir: The run's folder.
      keep_until: Lines of a later step are cut: the run goes on from that step's checkpoint.
    """

    def __init__(self, run_dir: Path, *, keep_until: int) -> None:
        self._path = run_dir / METRICS_FILE
        kept = [line for line in read_metrics(run_dir) if line["step"] <= keep_until]
        self._text = "".join(to_json(line) + "\n" for line in kept)
        write_text_atomically(self._path, self._text)
        self.last: dict[str, Any] | None = kept[-1] if kept else None
        """The last line that was kept."""

    def append(self, line: dict[str, Any]) -> None:
        """Writes one line, whole, before it returns."""
        if is_on_bucket(self._path):
            self._text += to_json(line) + "\n"
            write_text_atomically(self._path, self._text)
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_json(line) + "\n")


def metric_line(
    *,
    step: int,
    window: Window,
    eval_loss: float | None,
    tokens: int,
    learning_rate: float,
    epsilon: float | None,
    wall_seconds: float,
) -> dict[str, Any]:
    """A metric line, keyed by `records.METRIC_KEYS`.

    Args:
      epsilon: Spent so far; None for a law-fitting run, whose data are public.
    """
    num_examples = float(window.num_examples)
    per_example = 1 / num_examples if num_examples else float("nan")  # an empty Poisson window
    line: dict[str, Any] = {"step": step, "train_loss": float(window.loss_sum) * per_example}
    if eval_loss is not None:
        line["eval_loss"] = eval_loss
    line |= {
        "tokens": tokens,
        "learning_rate": learning_rate,
        "clipped_fraction": float(window.num_clipped) * per_example,
        "mean_grad_norm": float(window.norm_sum) * per_example,
    }
    if epsilon is not None:
        line |= {"epsilon": epsilon, "not_private": list(NOT_PRIVATE_KEYS)}
    return line | {"wall_seconds": wall_seconds}
