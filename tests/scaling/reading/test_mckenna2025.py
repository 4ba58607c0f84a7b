"""The authors' layout: what is read from it, and what every fault in it is called."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpscale.errors import InputError
from dpscale.scaling.reading.mckenna2025 import COLUMNS, SIZES
from dpscale.scaling.reading.run_set import RunSet
from dpscale.scaling.reading.runs import read_runs

STEPS = np.arange(8_000, 128_001, 8_000)
RATES = (2.0**-7, 2.0**-8)
RATIOS = (0.0, 2.0**-9)
NAMES = ("BertTiny", "BertSmall")
TINY = "BertTiny rate=2^-8 ratio=2^-9"
"""The run that the faults are put into: rows 49 to 64."""


def loss(model: str, rate: float, steps: np.ndarray, ratio: float) -> np.ndarray:
    size = SIZES[model][0]
    return (
        1.5 + 60 / size**0.25 + 30 / steps**0.4 + 50 * ratio**0.6 + abs(math.log2(rate) + 7.4) / 9
    )


def frame(
    names: tuple[str, ...] = NAMES, ratios: tuple[float, ...] = RATIOS, steps: np.ndarray = STEPS
) -> pd.DataFrame:
    """The authors' table of a sweep that follows `loss`, runs one after the other."""
    runs = [(name, ratio, rate) for name in names for ratio in ratios for rate in RATES]
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "Model": name,
                    "Learning Rate": rate,
                    "Iterations": steps,
                    "Noise Batch Ratio": ratio,
                    "Cross Entropy": loss(name, rate, steps, ratio),
                }
            )
            for name, ratio, rate in runs
        ],
        ignore_index=True,
    )


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., RunSet]:
    """Writes a table to `results.csv` and reads it."""

    def write_and_read(table: pd.DataFrame) -> RunSet:
        table.to_csv(tmp_path / "results.csv", index=False)
        return read_runs(tmp_path / "results.csv", format="mckenna2025")

    return write_and_read


def changed(column: str, rows: object, value: object) -> pd.DataFrame:
    """The table with `value` in some rows (positions) of a column."""
    table = frame().astype({column: object})
    table.loc[rows, column] = value
    return table


def test_every_run_comes_back_as_it_was_measured(read: Callable) -> None:
    runs = read(frame())
    assert len(runs.runs) == 8
    assert runs.excluded == ()
    assert runs.target == "train_loss"
    for run in runs.runs:
        name = run.run_id.split()[0]
        assert run.num_params == SIZES[name][0]
        assert run.num_params_non_embedding == SIZES[name][0] - 30_522 * SIZES[name][1]
        assert (run.physical_batch_size, run.seq_len, run.vocab_size) == (1024, 512, 30_522)
        assert run.iterations == 128_000
        assert run.steps.tolist() == STEPS.tolist()
        expected = loss(name, run.learning_rate, STEPS, run.noise_batch_ratio)
        np.testing.assert_allclose(run.losses, expected, rtol=1e-12)
    assert [run.run_id for run in runs.runs[:4]] == [
        "BertTiny rate=2^-8 ratio=0",
        "BertTiny rate=2^-7 ratio=0",
        "BertTiny rate=2^-8 ratio=2^-9",
        "BertTiny rate=2^-7 ratio=2^-9",
    ]
    assert runs.notes == (
        "vocab_size 30522 is that of BERT: the paper does not state its own",
        "num_params are those of the paper's table, rounded there; those without the embedding "
        "are taken to be vocab_size x width fewer",
        "physical_batch_size 1024 and seq_len 512 are the paper's: the file does not hold them",
    )


def test_sizes_are_those_of_the_paper() -> None:
    millions = [params / 1e6 for params, _ in SIZES.values()]
    assert millions == [4.5, 11.4, 29, 41, 109, 335, 778]


def test_order_of_rows_and_columns_and_further_columns_do_not_matter(read: Callable) -> None:
    plain = read(frame())
    mixed = frame().sample(frac=1.0, random_state=3).assign(Extra="x", **{"Clip Norm": 1.0})
    other = read(mixed[["Extra", *reversed(COLUMNS), "Clip Norm"]])
    assert [run.run_id for run in other.runs] == [run.run_id for run in plain.runs]
    for one, two in zip(plain.runs, other.runs, strict=True):
        assert one.steps.tolist() == two.steps.tolist()
        assert one.losses.tolist() == two.losses.tolist()


def test_single_ratios_above_one_are_believed(read: Callable) -> None:
    runs = read(changed("Noise Batch Ratio", slice(96, None), 2.0))
    assert {run.noise_batch_ratio for run in runs.runs} == {0.0, 2.0**-9, 2.0}


def test_step_zero_has_no_place_on_a_logarithmic_axis(read: Callable) -> None:
    runs = read(frame(steps=np.append(1, STEPS)).replace({"Iterations": {1: 0}}))
    assert all(run.steps.tolist() == STEPS.tolist() for run in runs.runs)


def test_the_same_table_in_parquet_is_read(tmp_path: Path) -> None:
    frame().to_parquet(tmp_path / "results.parquet")
    assert len(read_runs(tmp_path / "results.parquet", format="mckenna2025").runs) == 8


# Runs at fault: they are left out, the others stay. Rows 16*i .. 16*i+15 are run i; run 3
# (positions 48 to 63) is the one of `TINY`.


@pytest.mark.parametrize(
    ("column", "rows", "value", "reason"),
    [
        ("Cross Entropy", 50, np.nan, "its loss at step 24000 is nan"),
        ("Cross Entropy", 51, np.inf, "its loss at step 32000 is inf"),
        ("Cross Entropy", 52, -1.0, "its loss at step 40000 is -1"),
        ("Iterations", 63, 120_100, "its last measurement is at step 120100 of 128000"),
        (
            "Iterations",
            63,
            128_100,
            "it has a measurement at step 128100, beyond its 128000 iterations",
        ),
        ("Iterations", 49, 8_000, None),
        (
            "Cross Entropy",
            slice(60, 63),
            12.0,
            "diverged: its last loss, 12.000, is above ln(vocab_size) = 10.326",
        ),
        (
            "Model",
            slice(48, 63),
            "BertHuge",
            "model 'BertHuge' is not one of the paper's: BertTiny, BertMini, BertSmall, "
            "BertMedium, BertBase, BertLarge, BertMega",
        ),
    ],
)
def test_a_bad_run_is_left_out_with_its_reason(
    read: Callable, column: str, rows: object, value: object, reason: str | None
) -> None:
    table = changed(column, rows, value)
    if reason is None:  # two rows at one step
        first, second = table["Cross Entropy"][48], table["Cross Entropy"][49]
        reason = f"two losses at step 8000: {first:g} and {second:g}"
    runs = read(table)
    assert len(runs.runs) == 7
    (excluded,) = runs.excluded
    assert excluded.run_id in (TINY, TINY.replace("BertTiny", "BertHuge"))
    assert excluded.reason == reason


def test_a_run_without_its_end_is_left_out(read: Callable) -> None:
    (excluded,) = read(frame().drop(index=range(56, 64))).excluded
    assert excluded.run_id == TINY
    assert excluded.reason == "its last measurement is at step 64000 of 128000"


def test_rows_that_repeat_another_count_once_and_are_noted(read: Callable) -> None:
    table = frame()
    runs = read(pd.concat([table, table.iloc[48:51]]))
    assert runs.excluded == ()
    assert [run.steps.size for run in runs.runs] == [STEPS.size] * 8
    assert runs.notes[-1] == "3 rows that repeat another were counted once"


def test_another_common_end_is_the_planned_length_and_noted(read: Callable) -> None:
    runs = read(frame(steps=STEPS - 100))
    assert {run.iterations for run in runs.runs} == {127_900}
    assert runs.notes[-1] == (
        "8 of 8 runs end at step 127900 and none at the paper's 128000: 127900 is taken for the "
        "planned iterations"
    )
    runs = read(frame(steps=STEPS - 100).drop(index=range(56, 64)))
    (excluded,) = runs.excluded
    assert excluded.reason == "its last measurement is at step 63900 of 127900"
    assert runs.notes[-1].startswith("7 of 8 runs end at step 127900")


def test_ends_without_a_majority_are_no_planned_length(read: Callable, tmp_path: Path) -> None:
    short = frame().drop(index=[16 * run + 15 for run in range(8)])
    short = short.drop(index=[16 * run + 14 for run in range(4)])
    with pytest.raises(InputError) as error:
        read(short)
    assert str(error.value) == (
        f"{tmp_path / 'results.csv'}: no usable law-fitting run: its last measurement is at step "
        "112000 of 128000 (4); its last measurement is at step 120000 of 128000 (4)."
    )


# Tables at fault: they are refused, with the place and the way out.


@pytest.mark.parametrize(
    ("column", "rows", "value", "message"),
    [
        (
            "Noise Batch Ratio",
            slice(17, None),
            -9,
            ": row 18, column 'Noise Batch Ratio': found -9, which looks like a log2; store the "
            "ratio itself: 2**-9 = 0.00195, not -9.",
        ),
        (
            "Noise Batch Ratio",
            slice(None),
            9,
            ": row 1, column 'Noise Batch Ratio': every noise-batch ratio is above 1, the least is "
            "9; store the noise on the mean gradient in clip norms, noise_multiplier / batch size "
            "(a log2 without its sign? 2**-9 = 0.00195).",
        ),
        (
            "Noise Batch Ratio",
            4,
            -np.inf,
            ": row 5, column 'Noise Batch Ratio': expected a finite number, found -inf.",
        ),
        (
            "Noise Batch Ratio",
            4,
            np.inf,
            ": row 5, column 'Noise Batch Ratio': expected a finite number, found inf.",
        ),
        (
            "Learning Rate",
            3,
            -7.0,
            ": row 4, column 'Learning Rate': found -7, which looks like a log2; store the "
            "learning rate itself: 2**-7 = 0.00781, not -7.",
        ),
        (
            "Learning Rate",
            3,
            128,
            ": row 4, column 'Learning Rate': expected a learning rate above 0 and up to 10, found "
            "128; store the rate itself, as the optimizer got it.",
        ),
        (
            "Iterations",
            2,
            0.5,
            ": row 3, column 'Iterations': expected a whole number of iterations, found 0.5; store "
            "optimizer steps, not epochs or tokens.",
        ),
        (
            "Iterations",
            2,
            -100,
            ": row 3, column 'Iterations': expected a whole number of iterations, found -100; "
            "store optimizer steps, not epochs or tokens.",
        ),
        (
            "Iterations",
            2,
            "128K",
            ": row 3, column 'Iterations': expected a number, found '128K'.",
        ),
        (
            "Cross Entropy",
            5,
            "4,2",
            ": row 6, column 'Cross Entropy': expected a number, found '4,2'.",
        ),
        ("Model", 7, None, ": row 8, column 'Model': is empty; every row needs a value."),
        (
            "Iterations",
            7,
            None,
            ": row 8, column 'Iterations': is empty; every row needs a value.",
        ),
        (
            "Cross Entropy",
            slice(None),
            14.9,
            ": every loss is above ln(vocab_size), the least is 14.900 against ln(30522) = 10.326: "
            "expected nats per token (bits times 0.693) and the vocab_size that the runs had.",
        ),
        (
            "Model",
            slice(None),
            "GPT",
            ": no usable law-fitting run: model 'GPT' is not one of the paper's: BertTiny, "
            "BertMini, BertSmall, BertMedium, BertBase, BertLarge, BertMega (4).",
        ),
    ],
)
def test_a_wrong_table_is_refused(
    read: Callable, tmp_path: Path, column: str, rows: object, value: object, message: str
) -> None:
    with pytest.raises(InputError) as error:
        read(changed(column, rows, value))
    assert str(error.value) == f"{tmp_path / 'results.csv'}{message}"


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        (
            {"Noise Batch Ratio": "noise_batch_ratio"},
            "column 'Noise Batch Ratio' is missing (the nearest is 'noise_batch_ratio': rename it)",
        ),
        (
            {"Cross Entropy": "Cros Entropy"},
            "column 'Cross Entropy' is missing (the nearest is 'Cros Entropy': rename it)",
        ),
        (
            {"Iterations": "Budget", "Cross Entropy": "L"},
            "column 'Iterations' is missing, and 'Cross Entropy'",
        ),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(
    read: Callable, tmp_path: Path, renamed: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError) as error:
        read(frame().rename(columns=renamed))
    assert str(error.value) == (
        f"{tmp_path / 'results.csv'}: {message}. Expected the columns Model, Learning Rate, "
        "Iterations, Noise Batch Ratio, Cross Entropy."
    )


def test_a_table_without_rows_is_refused(read: Callable, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(frame().iloc[:0])
    assert str(error.value) == f"{tmp_path / 'results.csv'}: the table has no rows."


def test_other_sources_and_targets_are_refused(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(InputError) as error:
        read_runs(tmp_path / "results.csv", target="eval_loss", format="mckenna2025")
    assert str(error.value) == (
        f"{tmp_path / 'results.csv'}: this layout holds training losses: eval_loss cannot be "
        "fitted from it."
    )
    with pytest.raises(InputError) as error:
        read_runs(tmp_path, format="mckenna2025")
    assert str(error.value) == (
        f"{tmp_path}: is a folder; expected the authors' results.csv itself."
    )
    with pytest.raises(InputError) as error:
        read_runs(tmp_path / "results.csv")
    assert str(error.value) == (
        f"{tmp_path / 'results.csv'}: column 'run_id' is missing, and 14 more. This is the layout "
        "of the paper's authors: use the format mckenna2025."
    )
