import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpscale.config import RunConfig, essential
from dpscale.errors import InputError
from dpscale.schema import read_toml, to_toml, with_overrides


def law_fitting() -> dict[str, Any]:
    return {
        "purpose": "law-fitting",
        "model": {
            "vocab_size": 64,
            "seq_len": 8,
            "num_layers": 2,
            "width": 16,
            "num_heads": 2,
            "num_kv_heads": 1,
            "head_dim": 8,
            "feed_forward_width": 64,
        },
        "data": {"path": "runs/data"},
        "optimizer": {"learning_rate": 0.1},
        "training": {"iterations": 20},
        "law_fitting": {"physical_batch_size": 4, "noise_batch_ratio": 0.5},
    }


def private(**changes: Any) -> dict[str, Any]:
    fields = {**law_fitting(), "purpose": "private"}
    del fields["law_fitting"]
    target = {"target_epsilon": 8.0, "target_delta": 1e-6, "expected_batch_size": 32}
    return {**fields, "private": {**target, **changes}}


def build(fields: dict[str, Any]) -> RunConfig:
    return RunConfig.from_dict(fields, where="c.toml")


def changed(fields: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    section, _, key = name.rpartition(".")
    if not section:
        return {**fields, key: value}
    return {**fields, section: {**fields.get(section, {}), key: value}}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("purpos", "private", "c.toml: purpos: unknown key"),
        ("optimizer.lr", 0.1, "c.toml: optimizer: lr: unknown key; known here: learning_rate"),
        ("optimizer.learning_rate", "0.1", "expected float, found '0.1'."),
        ("optimizer.learning_rate", 0, "learning_rate: expected above 0, found 0.0."),
        ("optimizer.learning_rate", float("inf"), "expected a finite number"),
        ("optimizer.learning_rate", float("nan"), "expected a finite number"),
        ("optimizer.b1", True, "optimizer: b1: expected float, found True."),
        ("training.iterations", 1.5, "training: iterations: expected int, found 1.5."),
        ("training.iterations", True, "training: iterations: expected int, found True."),
        ("training.eval_every", 15, "expected a multiple of metrics_every=10, or 0, found 15."),
        ("training.keep_checkpoints", 1, "expected at least 2"),
        ("model.num_kv_heads", 3, "expected a divisor of num_heads=2, found 3."),
        ("model.head_dim", 7, "expected even"),
        ("model.compute_dtype", "float16", "expected one of 'float32', 'bfloat16'"),
        ("law_fitting.noise_batch_ratio", -1.0, "noise_batch_ratio: expected at least 0"),
        ("data", "runs/data", "c.toml: data: expected a section, found 'runs/data'."),
        ("data.path", 3, "c.toml: data: path: expected str, found 3."),
        ("seed", -1, "c.toml: seed: expected in [0, 2^32), found -1."),
        ("purpose", "public", "expected one of 'private', 'law-fitting', found 'public'."),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_key(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(changed(law_fitting(), name, value))
    assert str(caught.value).startswith("c.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_epsilon", 0.0),
        ("target_delta", 0.0),
        ("target_delta", 1.0),
        ("expected_batch_size", 0),
        ("noise_multiplier", 0.0),
        ("truncated_batch_size", 31),
        ("privacy_unit", "document"),
    ],
)
def test_a_private_section_that_means_no_privacy_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"c.toml: private: {name}: expected"):
        build(private(**{name: value}))


@pytest.mark.parametrize("name", ["model", "data", "optimizer", "training", "purpose"])
def test_a_missing_section_is_named(name: str) -> None:
    fields = law_fitting()
    del fields[name]
    with pytest.raises(InputError, match=f"c.toml: {name}: missing."):
        build(fields)


def test_a_run_has_the_section_of_its_purpose_and_no_other() -> None:
    # A law-fitting run with a [private] section would look like a privacy claim.
    both = {**law_fitting(), "private": private()["private"]}
    neither = {key: value for key, value in law_fitting().items() if key != "law_fitting"}
    wrong = {**law_fitting(), "purpose": "private"}
    for fields in (both, neither, wrong):
        with pytest.raises(InputError, match="purpose="):
            build(fields)


UNESSENTIAL = [
    ("data.path", "elsewhere"),
    ("clipping.microbatch_size", 7),
    ("training.checkpoint_every", 3),
    ("training.keep_checkpoints", 9),
]
ESSENTIAL = [
    ("seed", 1),
    ("model.width", 32),
    ("model.rope_theta", 500.0),
    ("model.compute_dtype", "bfloat16"),
    ("optimizer.learning_rate", 0.1000001),
    ("optimizer.b2", 0.99),
    ("training.iterations", 21),
    ("training.metrics_every", 5),
    ("data.num_eval_units", 7),
    ("clipping.l2_clip_norm", 2.0),
    ("clipping.rescale_to_unit_norm", False),
    ("law_fitting.physical_batch_size", 5),
    ("law_fitting.noise_batch_ratio", 0.25),
]


@pytest.mark.parametrize(("name", "value"), UNESSENTIAL)
def test_run_id_is_stable_under_what_cannot_change_the_result(name: str, value: Any) -> None:
    assert build(changed(law_fitting(), name, value)).run_id == build(law_fitting()).run_id


@pytest.mark.parametrize(("name", "value"), ESSENTIAL)
def test_run_id_tells_apart_what_changes_the_result(name: str, value: Any) -> None:
    assert build(changed(law_fitting(), name, value)).run_id != build(law_fitting()).run_id


def test_run_id_does_not_change_from_one_version_to_the_next() -> None:
    # Recorded: a sweep begun before an upgrade must find its finished runs after it.
    assert build(law_fitting()).run_id == "law-w16-lr0.1-s0-1055cf8faa"


def test_a_statement_about_tuning_changes_no_run() -> None:
    # Catches: a run that cannot be resumed, or is run again, because its owner wrote a sentence.
    said = build(private(tuning_not_covered="a sweep on the same text"))
    silent = build(private())
    assert said.run_id == silent.run_id
    assert essential(said.to_dict()) == essential(silent.to_dict())
    before = silent.to_dict()  # as a run wrote it before the key existed
    del before["private"]["tuning_not_covered"]
    assert essential(before) == essential(silent.to_dict())
    assert build(before) == silent


def test_run_id_of_a_private_run_does_not_change_from_one_version_to_the_next() -> None:
    # Recorded before `tuning_not_covered` existed.
    assert build(private()).run_id == "private-w16-lr0.1-s0-a35c4e14ca"


def test_run_id_of_a_private_run_tells_targets_apart() -> None:
    ids = [
        build(private()).run_id,
        build(private(target_epsilon=2.0)).run_id,
        build(private(noise_multiplier=0.5)).run_id,
        build(private(truncated_batch_size=64)).run_id,
    ]
    assert len(set(ids)) == 4


def test_run_id_is_a_file_name() -> None:
    for config in (build(law_fitting()), build(private())):
        assert "/" not in config.run_id
        assert config.run_id == config.run_id.strip()


def test_whole_numbers_pass_as_floats_and_become_them() -> None:
    config = build(changed(law_fitting(), "law_fitting.noise_batch_ratio", 0))
    assert config.law_fitting is not None
    assert isinstance(config.law_fitting.noise_batch_ratio, float)


positive = st.floats(min_value=1e-300, max_value=1e300)
configs = st.builds(
    lambda rate, ratio, path, seed, softcap, unit_norm: changed(
        changed(
            changed(
                changed(
                    changed(changed(law_fitting(), "seed", seed), "data.path", path),
                    "law_fitting.noise_batch_ratio",
                    ratio,
                ),
                "optimizer.learning_rate",
                rate,
            ),
            "model.attn_logit_softcap",
            softcap,
        ),
        "clipping.rescale_to_unit_norm",
        unit_norm,
    ),
    rate=positive,
    ratio=positive,
    path=st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=("Cs", "Cc"))),
    seed=st.integers(0, 2**32 - 1),
    softcap=positive,
    unit_norm=st.booleans(),
)


@given(configs)
def test_a_config_written_as_toml_is_read_back_as_itself(fields: dict[str, Any]) -> None:
    # The sweep hands every run its config this way: a rounded rate would be another run.
    config = build(fields)
    text = to_toml(config.to_dict(), header="first line\n\nthird line")
    assert build(tomllib.loads(text)) == config


def test_any_path_survives_toml() -> None:
    config = build(changed(law_fitting(), "data.path", "\N{GRINNING FACE}"))
    assert build(tomllib.loads(to_toml(config.to_dict()))) == config


def test_an_absent_value_survives_toml() -> None:
    config = build(law_fitting())
    bare = dataclasses.replace(
        config, model=dataclasses.replace(config.model, attn_logit_softcap=None)
    )
    assert build(tomllib.loads(to_toml(bare.to_dict()))) == bare


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("optimizer.learning_rate=0.5", 0.5),
        ("optimizer.learning_rate = 5e-1", 0.5),
        ("optimizer.learning_rate=true", True),
        ("optimizer.learning_rate=[1, 2]", [1, 2]),
        ("optimizer.learning_rate='0.5'", "0.5"),
        ("optimizer.learning_rate=runs/data", "runs/data"),
    ],
)
def test_overrides_read_toml_values(assignment: str, value: Any) -> None:
    assert with_overrides(law_fitting(), [assignment])["optimizer"]["learning_rate"] == value


def test_overrides_leave_the_original_alone_and_apply_in_order() -> None:
    fields = law_fitting()
    found = with_overrides(fields, ["seed=1", "seed=2", "clipping.l2_clip_norm=0.5"])
    assert (found["seed"], found["clipping"]) == (2, {"l2_clip_norm": 0.5})
    assert fields == law_fitting()


@pytest.mark.parametrize("assignment", ["seed", "=1", "seed.x.y=1"])
def test_an_override_of_another_form_is_refused(assignment: str) -> None:
    with pytest.raises(InputError, match="--set: "):
        with_overrides({"seed": 1}, [assignment])


def test_broken_toml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("seed = 1\nmodel = {\nwidth = = 3\n}\n")
    with pytest.raises(InputError, match=r"c\.toml: cannot be read as TOML .*line"):
        read_toml(path)
    with pytest.raises(InputError, match="no such file"):
        read_toml(tmp_path / "other.toml")
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(InputError, match="cannot be read as TOML"):
        read_toml(path)
