from pathlib import Path
from typing import Any

import pytest

from dpscale.errors import InputError
from dpscale.sweep.launchers.protocol import Resources
from dpscale.sweep.spec import read_sweep, sweep_from_dict

ROOT = Path(__file__).resolve().parents[2]


def base() -> dict[str, Any]:
    return {
        "purpose": "law-fitting",
        "model": {"vocab_size": 64, "seq_len": 8, "shape": "w16"},
        "data": {"path": "runs/data"},
        "optimizer": {"learning_rate": 0.1},
        "training": {"iterations": 20},
        "law_fitting": {"physical_batch_size": 4, "noise_batch_ratio": 0.0},
    }


def points(*grids: dict[str, Any], overrides: tuple[str, ...] = ()) -> list[Any]:
    fields = {"base": base(), "grid": list(grids)}
    return list(sweep_from_dict(fields, overrides, where="s.toml").points)


def test_a_grid_is_the_product_of_its_axes() -> None:
    found = points({"shape": ["w16", "w32"], "optimizer.learning_rate": [0.1, 0.2], "seed": [0, 1]})
    keys = [(p.model.width, p.optimizer.learning_rate, p.seed) for p in found]
    assert keys == [(w, rate, s) for w in (16, 32) for rate in (0.1, 0.2) for s in (0, 1)]
    assert len({p.run_id for p in found}) == 8


def test_points_of_several_grids_that_agree_are_run_once() -> None:
    found = points({"seed": [0, 1]}, {"seed": [1, 2]})
    assert [p.seed for p in found] == [0, 1, 2]


def test_points_that_differ_only_in_the_place_of_their_data_are_run_once() -> None:
    assert len(points({"data.path": ["a", "b"]})) == 1


def test_bare_and_quoted_dotted_keys_are_one_axis(tmp_path: Path) -> None:
    text = """
        [base]
        purpose = "law-fitting"
        model = { vocab_size = 64, seq_len = 8, shape = "w16" }
        data = { path = "d" }
        optimizer = { learning_rate = 0.1 }
        training = { iterations = 20 }
        law_fitting = { physical_batch_size = 4, noise_batch_ratio = 0 }
        [[grid]]
        optimizer.learning_rate = [0.1, 0.2]
        "law_fitting.noise_batch_ratio" = [0, 0.5]
    """
    path = tmp_path / "s.toml"
    path.write_text(text)
    found = read_sweep(path).points
    assert [(p.optimizer.learning_rate, p.law_fitting.noise_batch_ratio) for p in found] == [  # type: ignore[union-attr]
        (0.1, 0.0),
        (0.1, 0.5),
        (0.2, 0.0),
        (0.2, 0.5),
    ]


def test_set_changes_the_base_of_every_point() -> None:
    found = points({"seed": [0, 1]}, overrides=("training.iterations=7",))
    assert [p.training.iterations for p in found] == [7, 7]


def test_setting_an_axis_is_refused_rather_than_ignored() -> None:
    with pytest.raises(InputError, match="--set: seed is an axis"):
        points({"seed": [0, 1]}, overrides=("seed=3",))


@pytest.mark.parametrize("name", ["shape", "model.shape"])
def test_the_axis_shape_is_found_under_both_names(name: str) -> None:
    with pytest.raises(InputError, match="is an axis"):
        points({"shape": ["w16"]}, overrides=(f"{name}='w32'",))


@pytest.mark.parametrize(
    ("grid", "place"),
    [
        ({"optimizer.lerning_rate": [0.1]}, "s.toml: optimizer: lerning_rate"),
        ({"optimizer.learning_rate": [0.1, -1.0]}, "s.toml: optimizer: learning_rate"),
        ({"optimizer.learning_rate": 0.1}, "s.toml: grid 1: optimizer.learning_rate"),
        ({"seed": []}, "s.toml: grid 1: seed"),
        ({"seed.x": [1]}, "s.toml: seed"),
        ({"shape": ["w8"]}, "s.toml: model"),
        ({"private.target_epsilon": [1.0]}, "s.toml: private"),
    ],
)
def test_a_wrong_axis_is_named_with_its_file(grid: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError) as caught:
        points(grid)
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"base": {}, "grid": [{}], "axes": {}}, "s.toml: axes"),
        ({"grid": [{"seed": [0]}]}, "s.toml: base"),
        ({"base": base()}, "s.toml: grid"),
        ({"base": base(), "grid": {"seed": [0]}}, "s.toml: grid"),
    ],
)
def test_a_file_of_another_form_is_refused(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError) as caught:
        sweep_from_dict(fields, where="s.toml")
    assert str(caught.value).startswith(place)


SHIPPED = [*(ROOT / "sweeps").glob("*.toml"), *(ROOT / "dpscale/sweep/embedded").glob("*.toml")]


@pytest.mark.parametrize("path", sorted(SHIPPED), ids=lambda path: path.name)
def test_the_sweeps_that_ship_are_valid(path: Path) -> None:
    assert read_sweep(path).points


def test_a_grid_may_need_other_resources_than_the_rest() -> None:
    fields = {
        "base": base(),
        "resources": {"CPU": 2},
        "grid": [{"seed": [0, 1]}, {"seed": [1, 2], "resources": {"TPU": 4, "hosts": 2}}],
    }
    sweep = sweep_from_dict(fields, where="s.toml")
    needs = [sweep.resources_of(point).describe() for point in sweep.points]
    assert needs == ["2 CPU", "2 CPU", "2 hosts of 4 TPU"]  # the first grid of a point counts
    plain = sweep_from_dict({"base": base(), "grid": [{"seed": [0]}]}, where="s.toml")
    assert plain.resources_of(plain.points[0]) == Resources()


def test_resources_and_options_of_slurm_are_no_part_of_a_run() -> None:
    fields = {"base": base(), "grid": [{"seed": [0]}]}
    more = {"resources": {"GPU": 1}, "slurm": {"partition": "gpu", "time": 60}}
    sweep = sweep_from_dict({**fields, **more}, where="s.toml")
    assert sweep.slurm == {"partition": "gpu", "time": 60}
    assert sweep.points == sweep_from_dict(fields, where="s.toml").points


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resources": 2}, "s.toml: resources: expected a table, found 2."),
        ({"resources": {"hosts": 0}}, "s.toml: resources.hosts: expected at least 1, found 0."),
        ({"slurm": "gpu"}, "s.toml: slurm: expected a table, found 'gpu'."),
        ({"ray": {}}, "s.toml: ray: unknown key; known here: base, grid, resources, slurm."),
        (
            {"grid": [{"seed": [0], "resources": {"CPU": "a"}}]},
            "s.toml: grid 1: resources.CPU: expected a number from 0, found 'a'.",
        ),
    ],
)
def test_wrong_resources_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        sweep_from_dict({"base": base(), "grid": [{"seed": [0]}], **fields}, where="s.toml")
    assert str(error.value) == message
