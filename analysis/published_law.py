"""The law that ships against the twenty budgets of the table that it was fitted to.

    python analysis/published_law.py

For each budget of Table 2 (arXiv 2501.18914) `recommend` is asked for the best configuration at the
table's compute. Printed are the table's choice and ours, the loss predicted there against the
table's, how many decades the near-optimal set spans in M and in B, and which of the table's M, T
and B lie neither in the set's range nor within a factor of 2 of it (an M at the upper end of the
paper's models counts as "at least"). Then the saturating compute, which the fit never looks at,
against the table's. Noise is certified at the answers, as it is for users.
"""

import math
from dataclasses import dataclass

import numpy as np

from dpscale.scaling.advice.budget import Budget
from dpscale.scaling.advice.recommend import Recommendation, recommend
from dpscale.scaling.law.published import find_law, find_table
from dpscale.scaling.reading.optima import Optima, Optimum, read_optima

TABLE = "embedded:mckenna2025-table2"
NEARLY = 2.0
AT_LEAST = 0.95
"""From this share of the largest model on, a row's M stands for "at least"."""


@dataclass(frozen=True)
class Comparison:
    """One budget: the table's row and the recommendation for it."""

    row: Optimum
    found: Recommendation
    outside: tuple[str, ...]

    @property
    def error(self) -> float:
        """Of the predicted loss, relative to the table's."""
        return self.found.predicted_loss / self.row.loss - 1

    @property
    def decades(self) -> tuple[float, float]:
        """How far the near-optimal set reaches in M and in B."""
        near = self.found.near_optimal
        m, b = (math.log10(high / low) for low, high in (near.num_params, near.expected_batch_size))
        return m, b


def compare(row: Optimum, table: Optima) -> Comparison:
    """Asks for the budget of `row`."""
    budget = Budget(
        epsilon=row.epsilon,
        delta=table.delta,
        train_flops=row.train_flops,
        dataset_size=row.dataset_size,
        seq_len=table.seq_len,
        vocab_size=table.vocab_size,
    )
    found = recommend(find_law("published"), budget)
    near = found.near_optimal
    at_edge = row.num_params >= AT_LEAST * table.num_params_range[1]
    outside = [
        name
        for name, value, (low, high), open_above in (
            ("M", row.num_params, near.num_params, at_edge),
            ("T", row.iterations, near.iterations, False),
            ("B", row.expected_batch_size, near.expected_batch_size, False),
        )
        if value > NEARLY * high or (value < low / NEARLY and not open_above)
    ]
    return Comparison(row, found, tuple(outside))


def main() -> None:
    """Prints the comparison and its summary."""
    table = read_optima(find_table(TABLE), source=TABLE)
    print(
        f"{'N':>9} eps   {'table: loss':>11}       M       T       B    {'ours: loss':>10}  error"
    )
    comparisons = []
    for row in table.rows:
        each = compare(row, table)
        comparisons.append(each)
        found = each.found
        print(
            f"{row.dataset_size:9.0e} {row.epsilon:3.0f}   {row.loss:11.2f} {row.num_params:.1e} "
            f"{row.iterations:.1e} {row.expected_batch_size:.1e}    {found.predicted_loss:10.2f} "
            f"{each.error:+6.1%} {found.params.total:.1e} {found.iterations:.1e} "
            f"{found.expected_batch_size:.1e}   decades M {each.decades[0]:.2f}, B "
            f"{each.decades[1]:.2f}  {' '.join(each.outside)}",
            flush=True,
        )
    _summarise(comparisons, table)


def _summarise(comparisons: list[Comparison], table: Optima) -> None:
    errors = np.abs([each.error for each in comparisons])
    decades = np.array([each.decades for each in comparisons])
    outside = sum(len(each.outside) for each in comparisons)
    print(f"loss at the recommendation: {np.median(errors):.1%} median, {errors.max():.1%} worst")
    print(f"inside the near-optimal set or within 2x: {3 * len(comparisons) - outside} of 60")
    print(
        f"widest near-optimal set: {decades[:, 0].max():.2f} decades in M, "
        f"{decades[:, 1].max():.2f} in B"
    )
    law = find_law("published")
    for score in law.held_out[0].scores:
        print(
            f"rows left out, {score.form}: {score.median_abs_error:.1%} median, "
            f"{score.worst_abs_error:.1%} worst"
        )
    ratios = [each.found.saturation.train_flops / each.row.train_flops for each in comparisons]
    print(
        "saturating compute over the table's: "
        f"{np.exp(np.median(np.log(ratios))):.2f} median, {min(ratios):.2f} to {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
