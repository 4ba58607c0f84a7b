from typing import Any

from dpscale.config import RunConfig
from dpscale.sizes import expand_shape
from dpscale.sweep.schedule import in_order, planned_flops, program_of


def point(width: int = 16, rate: float = 0.1, **changes: Any) -> RunConfig:
    fields = {
        "purpose": "law-fitting",
        "model": {"vocab_size": 64, "seq_len": 8, "shape": f"w{width}"},
        "data": {"path": "d"},
        "optimizer": {"learning_rate": rate},
        "training": {"iterations": changes.get("iterations", 20)},
        "law_fitting": {
            "physical_batch_size": changes.get("batch", 4),
            "noise_batch_ratio": changes.get("ratio", 0.0),
        },
        "seed": changes.get("seed", 0),
    }
    return RunConfig.from_dict(expand_shape(fields, where="t"), where="t")


def test_planned_flops_follow_the_convention() -> None:
    # 6 M B T S, M counted by hand: embedding 64*16; two layers of attention 16*16*2*2,
    # feed-forward 3*16*64 and norms 4*16; final norm 16.
    num_params = 64 * 16 + 2 * (16 * 16 * 4 + 3 * 16 * 64 + 4 * 16) + 16
    assert planned_flops(point()) == 6 * num_params * 4 * 20 * 8


def test_arguments_of_the_step_do_not_need_another_compilation() -> None:
    same = {program_of(p) for p in (point(), point(rate=0.2), point(ratio=0.5), point(seed=3))}
    assert len(same) == 1


def test_shapes_need_another_compilation() -> None:
    assert len({program_of(p) for p in (point(), point(width=32), point(batch=8))}) == 3


def test_the_longest_goes_first() -> None:
    short, long = point(16), point(32)
    assert in_order([short, long]) == [long, short]


def test_a_size_in_compilation_is_passed_over() -> None:
    # Started now, the second w32 run would compile the same program once more.
    other, same = point(16), point(32, rate=0.2)
    assert in_order([other, same], {program_of(point(32))}) == [other, same]


def test_no_slot_stays_empty_when_only_sizes_in_compilation_are_left() -> None:
    same = point(32, rate=0.2)
    assert in_order([same], {program_of(point(32))}) == [same]


def test_two_of_a_size_are_not_started_together_where_another_can_be() -> None:
    first, second, other = point(32, rate=0.1), point(32, rate=0.2), point(16)
    assert in_order([first, second, other]) == [first, other, second]
