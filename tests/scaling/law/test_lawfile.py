"""A law survives its file exactly, and a damaged file is refused with its place."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dpscale.errors import InputError
from dpscale.scaling.fitting.fit import fit_law
from dpscale.scaling.law.law import LAW_VERSION, ScalingLaw
from dpscale.scaling.law.lawfile import load_law, save_law
from dpscale.scaling.reading.runs import select_runs


@pytest.fixture(scope="module")
def law(sweep: Callable) -> ScalingLaw:
    rows = sweep(widths=(16, 24, 32), rates=(2.0**-6, 2.0**-5, 2.0**-4), failed=1).rows()
    runs = select_runs(rows, target="train_loss", source="x")
    return fit_law(runs, forms=("chinchilla", "form-3", "effective-noise"), num_replicates=5)


def test_a_law_that_was_saved_predicts_to_the_bit(law: ScalingLaw, tmp_path: Path) -> None:
    save_law(law, tmp_path / "law.json")
    again = load_law(tmp_path / "law.json")
    assert again == law
    assert law.forms == ("semi-parametric", "form-3", "effective-noise")
    for form in law.forms:
        where = (50_000, 350, 2.0**-9)
        assert again.predict(*where, form=form) == law.predict(*where, form=form)
        assert again.interval(*where, form=form) == law.interval(*where, form=form)
        assert again.law_interval(*where, form=form) == law.law_interval(*where, form=form)
    assert again.learning_rate(50_000, 350, 2.0**-9) == law.learning_rate(50_000, 350, 2.0**-9)


def test_a_law_without_curves_and_rates_survives_too(law: ScalingLaw, tmp_path: Path) -> None:
    bare = replace(law, surface=None, learning_rates=None)
    save_law(bare, tmp_path / "law.json")
    assert load_law(tmp_path / "law.json") == bare


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.pop("law_version"), "is not a law"),
        (lambda d: d.update(law_version=0), f"law_version: expected {LAW_VERSION}, found 0"),
        (lambda d: d.update(extra=1), "extra: unknown key"),
        (lambda d: d.pop("run_scatter"), "run_scatter: missing"),
        (lambda d: d.update(run_scatter="a"), "run_scatter: expected float, found 'a'"),
        (lambda d: d.update(form="form-9"), "form: expected one of"),
        (lambda d: d["surface"]["slices"][1].update(cells=3), r"slices\[1\]: cells: expected a li"),
        (lambda d: d["valid_range"].update(iterations=[1.0]), "iterations: expected 2 values"),
        (
            lambda d: d["learning_rates"]["parabola"].update(constant=None),
            "constant: expected float",
        ),
    ],
)
def test_a_damaged_law_names_the_key(
    law: ScalingLaw, tmp_path: Path, change: Callable, match: str
) -> None:
    path = tmp_path / "law.json"
    save_law(law, path)
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=match):
        load_law(path)
