"""What a run is: frozen dataclasses, read from TOML, checked, written as resolved JSON.

A `RunConfig` says everything that determines a run. It has one of two purposes:

- *private*: Poisson batches from a real data set, noise for a target (epsilon, delta);
- *law-fitting*: a fixed `physical_batch_size` and a given `noise_batch_ratio`, which makes
  no privacy claim.

An unknown key, a missing key or a value out of range is an `InputError` that names the key.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dpscale.errors import InputError
from dpscale.paths import check_scheme
from dpscale.schema import build

Purpose = Literal["private", "law-fitting"]
NeighboringRelation = Literal["zero-out", "add-or-remove"]
PrivacyUnit = Literal["sequence"]
ClippingStrategy = Literal["auto", "vmap", "ghost", "bookkeeping"]
NormRule = Literal["auto", "gram", "direct"]


@dataclass(frozen=True)
class ModelConfig:
    """Shape and arithmetic of a Gemma-2-style decoder.

    `seq_len` (S) is the number of predicted tokens: a unit holds S + 1 tokens. Even layers
    (the first is 0) see only the last `sliding_window` tokens where it is set, as in Gemma 2;
    without it every layer attends to the full past, as in VaultGemma. `compute_dtype` is the
    dtype of activations; parameters are float32. `query_pre_attn_scalar` defaults to
    `head_dim`. With `rematerialize` each layer's activations are computed again in the backward
    pass instead of being kept, which saves memory and never changes the result.
    """

    vocab_size: int
    seq_len: int
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    feed_forward_width: int
    sliding_window: int | None = None
    attn_logit_softcap: float | None = 50.0
    final_logit_softcap: float | None = 30.0
    post_norms: bool = True
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    query_pre_attn_scalar: float | None = None
    rematerialize: bool = False
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "seq_len",
            "num_layers",
            "width",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "feed_forward_width",
        ):
            _expect(self, name, getattr(self, name) >= 1, "at least 1")
        _expect(
            self,
            "num_kv_heads",
            self.num_heads % self.num_kv_heads == 0,
            f"a divisor of num_heads={self.num_heads}",
        )
        _expect(self, "head_dim", self.head_dim % 2 == 0, "even (rotary embedding turns pairs)")
        for name in (
            "sliding_window",
            "attn_logit_softcap",
            "final_logit_softcap",
            "query_pre_attn_scalar",
        ):
            _expect(
                self,
                name,
                getattr(self, name) is None or getattr(self, name) > 0,
                "above 0, or absent",
            )
        _expect(self, "norm_eps", self.norm_eps > 0, "above 0")
        _expect(self, "rope_theta", self.rope_theta > 0, "above 0")


@dataclass(frozen=True)
class DataConfig:
    """Where the prepared units are, and how many held-out units an evaluation reads.

    `num_eval_units` = 0 means no evaluation; a number above what is there reads all.
    """

    path: str
    num_eval_units: int = 512

    def __post_init__(self) -> None:
        try:
            check_scheme(self.path)
        except InputError as error:
            raise InputError("path", f"{error.message} Found {self.path!r}.") from None
        _expect(self, "num_eval_units", self.num_eval_units >= 0, "at least 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with linear warm-up, then exponential decay.

    The rate rises linearly over the first `warmup_fraction` of the iterations to
    `learning_rate`, then falls exponentially to `learning_rate / decay_factor` at the last.
    """

    learning_rate: float
    warmup_fraction: float = 0.05
    decay_factor: float = 10.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _expect(self, "learning_rate", self.learning_rate > 0, "above 0")
        _expect(self, "warmup_fraction", 0 <= self.warmup_fraction < 1, "in [0, 1)")
        _expect(self, "decay_factor", self.decay_factor >= 1, "at least 1")
        _expect(self, "b1", 0 <= self.b1 < 1, "in [0, 1)")
        _expect(self, "b2", 0 <= self.b2 < 1, "in [0, 1)")
        _expect(self, "eps", self.eps > 0, "above 0")


@dataclass(frozen=True)
class ClippingConfig:
    """Per-example clipping, over all parameters together.

    `rescale_to_unit_norm` divides the clipped gradient by `l2_clip_norm` (normalised
    clipping, De et al. 2022), so that the learning rate does not depend on the clip norm.

    The other settings say how it is computed and never change the result (but for rounding):
    `microbatch_size` examples are differentiated at once, by a `strategy`, which finds the
    norm of each layer's gradient by a `norm_rule`. What is left open (`auto`, or a microbatch
    size that is absent) is chosen at the start of a run from the model's shape, within
    `memory_limit_gib` for one microbatch (absent: what the device has left).
    """

    l2_clip_norm: float = 1.0
    rescale_to_unit_norm: bool = True
    microbatch_size: int | None = None
    strategy: ClippingStrategy = "auto"
    norm_rule: NormRule = "auto"
    memory_limit_gib: float | None = None

    def __post_init__(self) -> None:
        _expect(self, "l2_clip_norm", self.l2_clip_norm > 0, "above 0")
        _expect(
            self,
            "microbatch_size",
            self.microbatch_size is None or self.microbatch_size >= 1,
            "at least 1, or absent to have it chosen",
        )
        _expect(
            self,
            "memory_limit_gib",
            self.memory_limit_gib is None or self.memory_limit_gib > 0,
            "above 0, or absent",
        )


@dataclass(frozen=True)
class PrivateConfig:
    """A private run: its target, its batch and (optionally) its noise.

    `noise_multiplier` absent: calibrated at the start, and written to the run's
    `config.json`. Present: checked against the target. `truncated_batch_size` absent: the
    least multiple of the microbatch that is certified to take at most a millionth of delta.
    Neighbouring data sets differ by zero-out: the cap needs a public N.
    `insecure_key_seed` pins the secret keys, for tests: the receipt then says that there is
    no guarantee. `tuning_not_covered` says in your own words what was learned from the private
    data before this run (a sweep, a law, a learning rate): the guarantee does not cover it, and
    the receipt repeats it.
    """

    target_epsilon: float
    target_delta: float
    expected_batch_size: int
    noise_multiplier: float | None = None
    truncated_batch_size: int | None = None
    privacy_unit: PrivacyUnit = "sequence"
    insecure_key_seed: int | None = None
    tuning_not_covered: str | None = None

    def __post_init__(self) -> None:
        _expect(self, "target_epsilon", self.target_epsilon > 0, "above 0")
        _expect(self, "target_delta", 0 < self.target_delta < 1, "in (0, 1)")
        _expect(self, "expected_batch_size", self.expected_batch_size >= 1, "at least 1")
        _expect(
            self,
            "noise_multiplier",
            self.noise_multiplier is None or self.noise_multiplier > 0,
            "above 0, or absent to calibrate it",
        )
        _expect(
            self,
            "truncated_batch_size",
            self.truncated_batch_size is None
            or self.truncated_batch_size >= self.expected_batch_size,
            f"at least expected_batch_size={self.expected_batch_size}",
        )


@dataclass(frozen=True)
class LawFittingConfig:
    """A law-fitting run: a fixed batch and noise given as a ratio. It makes no privacy claim.

    `noise_batch_ratio` is the standard deviation of the noise on the *mean* gradient, in
    clip norms (arXiv 2501.18914, section 2).
    """

    physical_batch_size: int
    noise_batch_ratio: float

    def __post_init__(self) -> None:
        _expect(self, "physical_batch_size", self.physical_batch_size >= 1, "at least 1")
        _expect(self, "noise_batch_ratio", self.noise_batch_ratio >= 0, "at least 0")


@dataclass(frozen=True)
class TrainingConfig:
    """How long a run is and what it writes on the way, all in iterations.

    Every `metrics_every` iterations a metric line holds the training loss averaged over
    that window; `eval_every` must be a multiple of it (0: only at the end).
    """

    iterations: int
    metrics_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 100
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        _expect(self, "iterations", self.iterations >= 1, "at least 1")
        _expect(self, "metrics_every", self.metrics_every >= 1, "at least 1")
        _expect(
            self,
            "eval_every",
            self.eval_every >= 0 and self.eval_every % self.metrics_every == 0,
            f"a multiple of metrics_every={self.metrics_every}, or 0",
        )
        _expect(self, "checkpoint_every", self.checkpoint_every >= 1, "at least 1")
        _expect(
            self, "keep_checkpoints", self.keep_checkpoints >= 2, "at least 2 (one to fall back to)"
        )


@dataclass(frozen=True)
class MeshConfig:
    """How a run's devices divide its work; the result is the same for any mesh (but for rounding).

    Devices stand in a grid of `data` · `fsdp` · `tensor`. Examples are divided over the first two
    axes. Parameters, and what the optimizer keeps about them, are divided over `fsdp` (gathered
    where they are used) and over `tensor` (each device computes with its part). One axis may be
    -1: all devices that the others leave.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor"):
            size = getattr(self, name)
            _expect(self, name, size >= 1 or size == -1, "at least 1, or -1 for what is left")
        if [self.data, self.fsdp, self.tensor].count(-1) > 1:
            raise InputError("mesh", "expected at most one axis of -1.")


@dataclass(frozen=True)
class RunConfig:
    """One run of `dpscale train`.

    `seed` covers initialisation, and for a law-fitting run also its batches and noise. The
    keys of a private run are never derived from it.
    """

    purpose: Purpose
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    clipping: ClippingConfig = dataclasses.field(default_factory=ClippingConfig)
    private: PrivateConfig | None = None
    law_fitting: LawFittingConfig | None = None
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        wanted = {"private": "private", "law-fitting": "law_fitting"}[self.purpose]
        for section in ("private", "law_fitting"):
            if (getattr(self, section) is not None) != (section == wanted):
                raise InputError(
                    section,
                    f"purpose={self.purpose!r} needs the section [{wanted}] and no other's.",
                )
        _expect(self, "seed", 0 <= self.seed < 2**32, "in [0, 2^32)")

    @property
    def batch_size(self) -> int:
        """What the summed gradient is divided by: expected batch size, or the physical one."""
        if self.private is not None:
            return self.private.expected_batch_size
        assert self.law_fitting is not None  # exactly one of the two is there
        return self.law_fitting.physical_batch_size

    @property
    def run_id(self) -> str:
        """A name that tells the run apart: equal for equal runs, wherever their data lies.

        Settings that cannot change the result (`UNESSENTIAL`), and the calibrated values of
        a private run, which follow from the others, are left out.
        """
        fields = essential(self.to_dict())
        if fields["private"] is not None:
            for derived in ("noise_multiplier", "truncated_batch_size"):
                if getattr(self.private, derived) is None:
                    del fields["private"][derived]
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:10]
        kind = {"private": "private", "law-fitting": "law"}[self.purpose]
        rate = f"lr{self.optimizer.learning_rate:.3g}"
        return f"{kind}-w{self.model.width}-{rate}-s{self.seed}-{digest}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `config.json` holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], *, where: str) -> "RunConfig":
        """Builds and checks a config; `where` (a file's name) heads every error."""
        return build(cls, fields, where=where)


UNESSENTIAL = (
    ("data", "path"),
    ("clipping", "microbatch_size"),
    ("clipping", "strategy"),
    ("clipping", "norm_rule"),
    ("clipping", "memory_limit_gib"),
    ("model", "rematerialize"),
    ("training", "checkpoint_every"),
    ("training", "keep_checkpoints"),
    ("private", "tuning_not_covered"),
)
"""Keys that may differ between two starts of one run, as the mesh may: none changes what it
computes."""


def essential(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config's plain data without the mesh and the keys in `UNESSENTIAL`."""
    copy: dict[str, Any] = json.loads(json.dumps(fields))
    copy.pop("mesh", None)
    for section, key in UNESSENTIAL:
        # A config written before the key existed lacks it, and a run has one purpose's section.
        (copy[section] or {}).pop(key, None)
    return copy


def _expect(config: Any, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(name, f"expected {expected}, found {getattr(config, name)!r}.")
