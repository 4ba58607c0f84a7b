"""A receipt that was changed no longer adds up."""

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dpscale.errors import InputError
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.receipt import FORMAT_VERSION, ReceiptFacts, make_receipt
from dpscale.privacy.receipt_check import mismatches, read_receipt, schema, violations

from .test_receipt import FACTS

EVERY_UNIT_EVERY_TIME = dataclasses.replace(
    FACTS,
    accounted=SubsampledGaussian(
        dataset_size=20,
        expected_batch_size=20,
        iterations=7,
        noise_multiplier=5.0,
        truncated_batch_size=20,
    ),
)
"""A mechanism that is accounted for in no time: one Gaussian."""


def as_read_back(facts: ReceiptFacts, *, with_curve: bool) -> dict[str, Any]:
    receipt = make_receipt(facts, with_curve=with_curve)
    fields: dict[str, Any] = json.loads(json.dumps(receipt, allow_nan=False))
    return fields


@pytest.fixture(scope="module")
def receipt() -> dict[str, Any]:
    return as_read_back(EVERY_UNIT_EVERY_TIME, with_curve=True)


@pytest.fixture(scope="module")
def sampled_receipt() -> dict[str, Any]:
    return as_read_back(FACTS, with_curve=False)


def test_an_honest_receipt_adds_up(
    receipt: dict[str, Any], sampled_receipt: dict[str, Any]
) -> None:
    assert mismatches(receipt) == []
    assert mismatches(sampled_receipt) == []


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_schema_is_of_this_format(receipt: dict[str, Any]) -> None:
    # Catches: a field that is written and not described, or described and never required.
    fields = schema()
    assert fields["properties"]["format_version"] == {"const": FORMAT_VERSION}
    assert fields["$id"].endswith(f":{FORMAT_VERSION}")
    assert set(receipt) == set(fields["properties"]) == set(fields["required"])


def check_noticed(changed: dict[str, Any], noticed_at: str) -> None:
    found = mismatches(changed)
    assert noticed_at in [line.partition(":")[0] for line in found]
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize(
    ("name", "value", "noticed_at"),
    [
        ("epsilon", 0.9, "epsilon"),
        ("epsilon_upper", 0.9, "epsilon_upper"),
        ("epsilon_lower", 0.1, "epsilon_lower"),
        ("epsilon_lower", None, "epsilon_lower"),
        ("is_certified", False, "is_certified"),
        ("delta", 1e-6, "epsilon"),
        ("iterations", 6, "epsilon"),
        ("iterations", 51, "iterations"),
        ("noise_multiplier", 5.01, "epsilon"),
        ("noise_multiplier", 5.01, "noise_batch_ratio"),
        ("truncated_batch_size", 19, "truncated_batch_size"),
        ("sampling_prob", 0.009, "sampling_prob"),
        ("noise_batch_ratio", 0.1, "noise_batch_ratio"),
        ("event", "GaussianDpEvent(noise_multiplier=9)", "event"),
    ],
)
def test_a_changed_number_is_noticed(
    receipt: dict[str, Any], name: str, value: Any, noticed_at: str
) -> None:
    assert receipt[name] != value
    check_noticed({**receipt, name: value}, noticed_at)


@pytest.mark.parametrize(
    ("name", "value", "noticed_at"),
    [
        ("dataset_size", 2001, "sampling_prob"),
        ("iterations", 6, "epsilon"),
        ("truncated_batch_size", None, "event"),
    ],
)
def test_a_changed_sampling_is_noticed(
    sampled_receipt: dict[str, Any], name: str, value: Any, noticed_at: str
) -> None:
    check_noticed({**sampled_receipt, name: value}, noticed_at)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("curve", 1, "delta"), 0.011),
        (("curve", 1, "epsilon_upper"), 0.6),
        (("curve", 1, "epsilon_lower"), 0.5),
        (("curve", 1, "is_certified"), False),
        (("attacker", "membership_advantage"), 0.1),
        (("attacker", "tpr_at_fpr", "0.01"), 0.02),
        (("attacker", "is_certified"), False),
    ],
)
def test_a_changed_curve_is_noticed(
    receipt: dict[str, Any], path: tuple[Any, ...], value: Any
) -> None:
    changed = copy.deepcopy(receipt)
    place = changed
    for name in path[:-1]:
        place = place[name]
    assert place[path[-1]] != value
    place[path[-1]] = value
    found = mismatches(changed)
    assert len(found) == 1
    assert found[0].startswith(path[0])
    assert str(path[-1]) in found[0]


def test_a_shortened_curve_is_noticed(receipt: dict[str, Any]) -> None:
    (line,) = mismatches({**receipt, "curve": receipt["curve"][:-1]})
    assert line.startswith("curve: ")


def test_only_a_run_that_was_stopped_may_leave_its_curve_out(receipt: dict[str, Any]) -> None:
    without = {**receipt, "curve": None, "attacker": None}
    assert mismatches(without) == []
    found = mismatches({**without, "planned_iterations": without["iterations"]})
    assert [line.partition(":")[0] for line in found] == ["curve", "attacker"]


def test_a_mismatch_says_both_numbers(receipt: dict[str, Any]) -> None:
    (line,) = mismatches({**receipt, "epsilon": 0.5})
    assert receipt["epsilon"] != 0.5
    assert line == f"epsilon: states 0.5, recomputed {receipt['epsilon']:.6g}"


def test_a_slightly_better_epsilon_is_noticed(receipt: dict[str, Any]) -> None:
    # 2e-4: above what machines differ by, below what anybody would see.
    (line,) = mismatches({**receipt, "epsilon": receipt["epsilon"] * (1 - 2e-4)})
    assert line.startswith("epsilon: ")
    assert mismatches({**receipt, "epsilon": receipt["epsilon"] * (1 + 1e-9)}) == []


def test_every_missing_field_is_noticed(receipt: dict[str, Any]) -> None:
    for name in receipt:
        rest = {key: value for key, value in receipt.items() if key != name}
        assert f"receipt: {name!r} is a required property" in mismatches(rest)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("delta",), 0),
        (("delta",), 1),
        (("epsilon",), -0.1),
        (("epsilon",), "0.5"),
        (("iterations",), 7.5),
        (("iterations",), -1),
        (("noise_multiplier",), 0),
        (("config_hash",), "abc"),
        (("not_covered",), []),
        (("tuning_not_covered",), ""),
        (("normalizer",), "drawn_batch_size"),
        (("neighboring_relation",), "replace-one"),
        (("guarantee",), "perfectly private"),
        (("guarantee",), "seed known: no guarantee"),
        (("keys", "noise", "bits"), 32),
        (("keys", "noise", "key"), "0123456789abcdef"),
        (("not_private", "num_truncated_batches"), None),
        (("epsilon_for_all_runs",), 1.0),
    ],
)
def test_what_the_schema_does_not_allow(
    receipt: dict[str, Any], path: tuple[str, ...], value: Any
) -> None:
    # Catches: keys in a receipt; a claim for known keys; a field that nobody defined.
    changed = copy.deepcopy(receipt)
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert violations(changed)
    assert mismatches(changed) == violations(changed)


def test_known_keys_carry_no_claim(receipt: dict[str, Any]) -> None:
    # Catches: a receipt whose keys anyone can repeat, and which claims privacy all the same.
    known = {**receipt["keys"], "source": "pinned seed"}
    found = violations({**receipt, "keys": known})
    assert [line.partition(":")[0] for line in found] == ["guarantee"]
    honest = {**receipt, "keys": known, "guarantee": "seed known: no guarantee"}
    assert violations(honest) == []


class TestReading:
    def test_returns_what_was_written(self, receipt: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "receipt.json"
        path.write_text(json.dumps(receipt))
        assert read_receipt(path) == receipt

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "cannot be read as JSON"),
            ("[]", "expected a JSON object, found a list"),
            ("{}", "format_version: expected 2, found None"),
            ('{"format_version": 1}', "format_version: expected 2, found 1: written by another"),
            ('{"format_version": 2}', "is a required property (`--check` lists all)"),
        ],
    )
    def test_anything_else_is_one_line(self, text: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "receipt.json"
        path.write_text(text)
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            read_receipt(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    def test_a_missing_file_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file"):
            read_receipt(tmp_path / "receipt.json")
