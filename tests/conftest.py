"""What many tests need: a small prepared data set, and run configs on it."""

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gcs_emulator import new_bucket, running_server

from dpscale.runtime import with_compile_cache

# Before JAX is imported: equal programs compile once over all tests, workers and child processes.
os.environ.update(with_compile_cache(os.environ))
# Before NumPy is: the matrices of the accountant are small, and workers share the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from dpscale.config import RunConfig
from dpscale.data.assets import resolve
from dpscale.data.prepare import prepare
from dpscale.data.request import PrepareRequest
from dpscale.sizes import expand_shape

SEQ_LEN = 8


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of about 2,000 units of 8 + 1 tokens, from made-up sentences."""
    folder = tmp_path_factory.mktemp("prepared")
    words = ["the", "whale", "sea", "ship", "captain", "crew", "wind", "storm", "night", "sail"]
    generator = random.Random(0)
    texts = [" ".join(generator.choice(words) for _ in range(150)) for _ in range(100)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "text.jsonl").write_text(lines, encoding="utf-8")
    request = PrepareRequest(
        inputs=(folder / "text.jsonl",), tokenizer=resolve("embedded:moby-1024"), seq_len=SEQ_LEN
    )
    prepare(request, folder / "data", workers=1)
    return folder / "data"


@pytest.fixture(scope="session")
def storage_server() -> Iterator[str]:
    """The address of a storage emulator that runs as long as the tests."""
    with running_server() as address:
        yield address


@pytest.fixture
def bucket(
    storage_server: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The `gs://` address of an empty bucket; copies of its data go to a cache of this test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return new_bucket()


ConfigMaker = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def make_config(prepared: Path) -> ConfigMaker:
    """A maker of small run configs; keyword arguments replace whole sections' keys."""

    def make(purpose: str = "law-fitting", *, seed: int = 0, **sections: Any) -> RunConfig:
        fields: dict[str, Any] = {
            "purpose": purpose,
            "seed": seed,
            "model": {"shape": "w16", "vocab_size": 1024, "seq_len": SEQ_LEN},
            "data": {"path": str(prepared), "num_eval_units": 20},
            "optimizer": {"learning_rate": 0.01},
            "clipping": {"microbatch_size": 8},
            "training": {
                "iterations": 12,
                "metrics_every": 4,
                "eval_every": 4,
                "checkpoint_every": 5,
            },
        }
        if purpose == "private":
            fields["private"] = {
                "target_epsilon": 8.0,
                "target_delta": 1e-5,
                "expected_batch_size": 20,
            }
        else:
            fields["law_fitting"] = {"physical_batch_size": 20, "noise_batch_ratio": 0.01}
        for section, keys in sections.items():
            fields[section] = {**fields.get(section, {}), **keys}
        return RunConfig.from_dict(expand_shape(fields, where="test"), where="test")

    return make


@dataclass(frozen=True)
class Contraction:
    """A `dot_general` of a traced program: dtype and precision of its sums, shared axes."""

    operand_dtype: str
    sum_dtype: str
    is_highest: bool
    num_batch_axes: int

    @property
    def is_exact(self) -> bool:
        """Whether float32 is float32 in fact, and bfloat16 is summed in float32."""
        wide = "float64" if self.operand_dtype == "float64" else "float32"
        return self.is_highest and self.sum_dtype == wide


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            inner = parameter if isinstance(parameter, list | tuple) else [parameter]
            for program in inner:
                program = getattr(program, "jaxpr", program)
                if hasattr(program, "eqns"):
                    yield from _equations(program)


@pytest.fixture(scope="session")
def equations() -> Callable[[Any], list[Any]]:
    """All equations of a traced program, and of the programs within it."""
    return lambda program: list(_equations(program.jaxpr))


@pytest.fixture(scope="session")
def contractions() -> Callable[[Any], list[Contraction]]:
    """All contractions of a traced program."""

    def read(program: Any) -> list[Contraction]:
        return [
            Contraction(
                operand_dtype=str(equation.invars[0].aval.dtype),
                sum_dtype=str(equation.params["preferred_element_type"]),
                is_highest=str(equation.params["precision"]).count("HIGHEST") == 2,
                num_batch_axes=len(equation.params["dimension_numbers"][1][0]),
            )
            for equation in _equations(program.jaxpr)
            if equation.primitive.name == "dot_general"
        ]

    return read
