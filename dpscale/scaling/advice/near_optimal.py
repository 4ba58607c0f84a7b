"""What else is nearly as good: the set within 1 % of the best loss, and what its members risk.

The set is usually wide. Its smallest model is the cheapest to serve, and at equal (epsilon, delta)
its members differ in how far a membership test gets.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from dpscale.compute import train_flops
from dpscale.scaling.advice.membership import diffusion, membership_advantage
from dpscale.scaling.advice.search import Field
from dpscale.scaling.forms import Array

Preference = Literal["loss", "small", "low-risk"]

LOOKED_AT: Final = 8
"""Members at either end of the central limit's order whose advantage is worked out."""


@dataclass(frozen=True)
class Member:
    """A configuration of the near-optimal set.

    Its noise is approximate (about 1 %), and with it everything that depends on noise.

    Args:
      predicted_loss: Nats per token.
      membership_advantage: See `membership.py`, in [0, 1].
    """

    num_params: int
    width: int
    num_layers: int
    expected_batch_size: int
    iterations: int
    predicted_loss: float
    epochs: float
    train_flops: float
    membership_advantage: float


@dataclass(frozen=True)
class NearOptimal:
    """Candidates within 1 % of the best loss: least and largest value of each choice.

    Args:
      membership_advantage: Least and largest in the set, by approximate noise.
      smallest: The smallest model, at its best batch.
      least_risky: The member with the least membership advantage.
      members: Of each size in the set the member with the least loss, by size.
    """

    num_params: tuple[int, int]
    expected_batch_size: tuple[int, int]
    iterations: tuple[int, int]
    membership_advantage: tuple[float, float]
    smallest: Member
    least_risky: Member
    members: tuple[Member, ...]


def near_optimal(field: Field) -> NearOptimal:
    """The near-optimal set of a field."""
    candidates = field.candidates
    near = np.flatnonzero(field.is_near_optimal)
    least, largest = _ends_of_risk(field, near)
    best_of_sizes = [
        _least(field.losses, near[candidates.num_params[near] == size])
        for size in np.unique(candidates.num_params[near])
    ]
    members = tuple(_member(field, at) for at in best_of_sizes)
    return NearOptimal(
        num_params=_range(candidates.num_params[near]),
        expected_batch_size=_range(candidates.expected_batch_size[near]),
        iterations=_range(candidates.iterations[near]),
        membership_advantage=(_advantage(field, least), _advantage(field, largest)),
        smallest=members[0],
        least_risky=_member(field, least),
        members=members,
    )


def preferred(field: Field, prefer: Preference) -> int:
    """Index of the member that `prefer` asks for: least loss, smallest, or least risk."""
    near = np.flatnonzero(field.is_near_optimal)
    if prefer == "small":
        sizes = field.candidates.num_params[near]
        return _least(field.losses, near[sizes == sizes.min()])
    if prefer == "low-risk":
        return _ends_of_risk(field, near)[0]
    return field.best


def _ends_of_risk(field: Field, near: NDArray[np.intp]) -> tuple[int, int]:
    """The members with the least and the largest advantage."""
    candidates = field.candidates
    batch, iterations = candidates.expected_batch_size[near], candidates.iterations[near]
    noise = field.question.noise.noise_multiplier(batch, iterations)
    order = np.argsort(diffusion(batch / field.question.budget.dataset_size, noise, iterations))
    ends = near[order[:LOOKED_AT]], near[order[-LOOKED_AT:]]
    risks = {int(at): _advantage(field, int(at)) for at in np.unique(np.concatenate(ends))}
    return min(risks, key=risks.__getitem__), max(risks, key=risks.__getitem__)


def _advantage(field: Field, at: int) -> float:
    _, batch, iterations = field.candidates.place(at)
    noise = field.question.noise.noise_multiplier(np.array(batch), np.array(iterations))
    size = field.question.budget.dataset_size
    return membership_advantage(batch / size, float(noise), iterations)


def _member(field: Field, at: int) -> Member:
    size, batch, iterations = field.candidates.place(at)
    budget = field.question.budget
    shape = field.candidates.shapes[int(field.candidates.shape[at])]
    return Member(
        num_params=size,
        width=shape.width,
        num_layers=shape.num_layers,
        expected_batch_size=batch,
        iterations=iterations,
        predicted_loss=float(field.losses[at]),
        epochs=batch * iterations / budget.dataset_size,
        train_flops=train_flops(
            num_params=size, batch_size=batch, iterations=iterations, seq_len=budget.seq_len
        ),
        membership_advantage=_advantage(field, at),
    )


def _least(losses: Array, chosen: NDArray[np.intp]) -> int:
    return int(chosen[np.argmin(losses[chosen])])


def _range(values: Array) -> tuple[int, int]:
    return int(np.min(values)), int(np.max(values))
