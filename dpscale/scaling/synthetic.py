"""Sweeps made from a known law, faults on request: for testing what fits laws to runs.

Nothing here is measured. Every loss follows a `Form` with coefficients that are known, so that
a fitted law can be held against the law behind its data. Tests and `analysis/law_coverage.py`
share it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpscale.compute import count_params, train_flops
from dpscale.scaling.forms import FORMS, Array, Points, noise_floor
from dpscale.scaling.law.law import FORMS_WITH_BATCH
from dpscale.sizes import ladder_shape

SEQ_LEN, VOCAB_SIZE, BATCH = 64, 1024, 64

TRUTHS: dict[str, list[float]] = {
    # In centred coordinates these give losses of about 3.3 to 5.6 nats over the sweep.
    "form-3": [np.log(2.2), np.log(260.0), np.log(60.0), np.log(18.0), 0.55, 0.45, 0.5],
    "form-5": [np.log(2.3), np.log(160.0), np.log(45.0), np.log(1.9), 0.5, 0.4, 4.0, -0.03],
    "effective-noise": [np.log(1.8), np.log(90.0), np.log(8.0), np.log(16.0), 0.5, 0.45, 0.45, 0.0],
    # Without noise the sizes alone spread the losses, from about 3.3 to 4.6.
    "chinchilla": [np.log(2.2), np.log(400.0), np.log(60.0), 0.55, 0.45],
    # The ceiling, 1.8 + 4.2, takes almost two nats off the largest losses.
    "ceiling": [
        *(np.log(1.8), np.log(90.0), np.log(8.0), np.log(24.0), np.log(4.2)),
        *(0.5, 0.45, 0.45, 0.0),
    ],
}
"""Coefficients of each parametric form, in the order of `Form.coefficient_names`."""


@dataclass(frozen=True)
class SyntheticSweep:
    """A sweep whose every loss follows a law.

    A run at the best learning rate ends at the law's loss, times its own scatter.

    Args:
      form: The name of the law's form, with the coefficients `TRUTHS[form]`.
      noise: Standard deviation of a whole run, in log units.
      jitter: The same for one measurement of a run.
      failed: How many runs end without a loss.
      diverged: How many runs end above ln(VOCAB_SIZE).
    """

    form: str = "form-5"
    noise: float = 0.005
    widths: tuple[int, ...] = (16, 24, 32, 48, 64, 96)
    ratios: tuple[float, ...] = (0.0, 2.0**-10, 2.0**-8, 2.0**-6)
    rates: tuple[float, ...] = (2.0**-6, 2.0**-5, 2.0**-4)
    lengths: tuple[int, ...] = (200, 400)
    metrics_every: int = 10
    jitter: float = 0.002
    seed: int = 0
    failed: int = 0
    diverged: int = 0

    @property
    def sizes(self) -> list[int]:
        """All parameters of each width's model."""
        shapes = [ladder_shape(w, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN) for w in self.widths]
        return [count_params(shape).total for shape in shapes]

    @property
    def ratio_floor(self) -> float:
        """What stands for ratio 0, by the convention of the forms."""
        return noise_floor(self.sizes, BATCH, [r for r in self.ratios if r > 0] or [np.inf])

    def loss(
        self,
        num_params: ArrayLike,
        iterations: ArrayLike,
        ratio: ArrayLike,
        batch: ArrayLike = BATCH,
    ) -> Array:
        """The law's own loss, nats per token; the arguments broadcast against each other.

        As in a `ScalingLaw`, forms without a view of the batch answer for `BATCH`. A form
        without noise gets a made-up effect of it, the factor 1 + 3·√ratio, so that noisier
        runs end higher in its sweeps too.
        """
        if self.form not in FORMS_WITH_BATCH:
            batch = BATCH
        points = Points.of(
            num_params, iterations, ratio, batch_size=batch, ratio_floor=self.ratio_floor
        )
        losses = np.exp(FORMS[self.form].log_loss(TRUTHS[self.form], points))
        if FORMS[self.form].noise_free:
            losses *= 1 + 3 * np.sqrt(points.noise_batch_ratio)
        return np.asarray(losses)

    def best_log2_rate(self, num_params: float) -> float:
        """A made-up optimum that falls with size, inside the swept rates."""
        return -5.0 - 0.15 * float(np.log2(num_params / 70_000))

    def rows(self) -> list[dict[str, Any]]:
        """The results table: one measurement a row, keyed by `records.TABLE_COLUMNS`."""
        generator = np.random.default_rng(self.seed)
        points = [
            (width, ratio, rate, length)
            for width in self.widths
            for ratio in self.ratios
            for rate in self.rates
            for length in self.lengths
        ]
        faulty = generator.permutation(len(points))
        failed = set(faulty[: self.failed].tolist())
        diverged = set(faulty[self.failed : self.failed + self.diverged].tolist())
        rows: list[dict[str, Any]] = []
        for index, point in enumerate(points):
            rows += self._run(index, *point, generator, index in failed, index in diverged)
        return rows

    def _run(
        self,
        index: int,
        width: int,
        ratio: float,
        rate: float,
        length: int,
        generator: np.random.Generator,
        failed: bool,
        diverged: bool,
    ) -> list[dict[str, Any]]:
        shape = ladder_shape(width, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
        params = count_params(shape)
        steps = np.arange(self.metrics_every, length + 1, self.metrics_every)
        off_peak = float(np.log2(rate)) - self.best_log2_rate(params.total)
        run_factor = np.exp(self.noise * generator.standard_normal() + 0.01 * off_peak**2)
        jitter = np.exp(self.jitter * generator.standard_normal(steps.size))
        # In mid-run the rate has not decayed yet: the loss stands above a finished run's.
        undecayed = 1.0 + 0.03 * (1.0 - steps / length)
        losses = self.loss(params.total, steps, ratio) * run_factor * jitter * undecayed
        if diverged:
            losses[steps > length / 2] = np.log(VOCAB_SIZE) + 3.0
        base = {
            "run_id": f"run-{index:04d}",
            "purpose": "law-fitting",
            "status": "failed" if failed else "finished",
            "error": "out of memory" if failed else None,
            "seed": 0,
            "num_params": params.total,
            "num_params_non_embedding": params.non_embedding,
            "width": width,
            "num_layers": shape.num_layers,
            "seq_len": SEQ_LEN,
            "vocab_size": VOCAB_SIZE,
            "physical_batch_size": BATCH,
            "expected_batch_size": None,
            "iterations": length,
            "steps_taken": 0 if failed else length,
            "noise_batch_ratio": ratio,
            "noise_multiplier": None,
            "learning_rate": rate,
            "l2_clip_norm": 1.0,
            "train_loss": None if failed else float(losses[-1]),
            "eval_loss": None if failed else float(losses[-1] * 1.01),
            "train_flops": train_flops(
                num_params=params.total, batch_size=BATCH, iterations=length, seq_len=SEQ_LEN
            ),
            "epsilon": None,
            "wall_seconds": 1.0,
            "data_hash": "x",
            "dataset_size": 60_000,
            "commit": None,
            "device": "cpu",
        }
        if failed:
            return [{**base, "step": 0, "step_train_loss": None, "step_eval_loss": None}]
        return [
            {**base, "step": int(step), "step_train_loss": float(loss), "step_eval_loss": None}
            for step, loss in zip(steps, losses, strict=True)
        ]
