"""Requests that the seven tasks do not make, by our adapter and by the harness's Transformers."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dpscale.data.assets import resolve
from dpscale.data.tokenizer import Tokenizer
from dpscale.evaluation.adapter import make_adapter
from dpscale.evaluation.answers import Answers
from dpscale.inference.trained import TrainedModel
from dpscale.interop.exporting import export_model
from dpscale.interop.families import Format
from dpscale.model import decoder
from dpscale.sizes import named_shape

pytestmark = [
    pytest.mark.parity,
    # Of the harness and its libraries: nothing that we could mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SEQ_LEN = 24
LONG = "the whale and the sea, the ship and the crew. " * 3
PAIRS = [
    ("", "the whale"),
    ("", LONG),
    ("the whale and the ", "sea"),
    (LONG, " Ahab"),
    (LONG * 3, " the whale"),
]


BOS = 2
"""`<s>` in the tokenizer that ships, which our own models never see."""


@pytest.fixture(
    scope="module",
    params=[("gemma2", None), ("vaultgemma", None), ("gemma2", BOS)],
    ids=["gemma2", "vaultgemma", "imported with a bos"],
)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our adapter, and the harness's own model of the same parameters, exported."""
    from lm_eval.models.huggingface import HFLM

    format: Format
    format, bos_id = request.param
    folder = tmp_path_factory.mktemp(format)
    (folder / "imported.json").write_text(json.dumps({"bos_id": bos_id}))
    tokenizer = Tokenizer(resolve("embedded:moby-2048"))
    model = named_shape("w32", vocab_size=tokenizer.vocab_size, seq_len=64)
    window, post_norms = (9, True) if format == "gemma2" else (None, False)
    model = dataclasses.replace(
        model, seq_len=SEQ_LEN, sliding_window=window, post_norms=post_norms
    )
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: generator.normal(0, 0.3, x.shape).astype(np.float32),
        decoder.params_shapes(model),
    )
    trained = TrainedModel(folder, model, params, tokenizer, None, bos_id)
    export_model(trained, folder / "hf", format=format)
    theirs = HFLM(
        pretrained=str(folder / "hf"),
        device="cpu",
        dtype="float32",
        batch_size=2,
        attn_implementation="eager",
    )
    return make_adapter(Answers(trained), lambda _doing, _done, _total: None), theirs


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


def test_empty_and_long_contexts_are_read_as_transformers_does(both):
    """Catches another start of a bare text, a lost space, and a cut at another place."""
    ours, theirs = both
    short = [pair for pair in PAIRS if len(ours.tok_encode(pair[1])) <= SEQ_LEN]
    assert 1 < len(short) < len(PAIRS)
    asked = requests("loglikelihood", short)
    found, expected = ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True)
    for (log_prob, is_greedy), (other, also_greedy) in zip(found, expected, strict=True):
        assert log_prob == pytest.approx(other, rel=2e-6, abs=2e-4)
        assert is_greedy == also_greedy


def test_long_texts_are_scored_in_the_same_windows(both):
    """Catches tokens that are scored twice or never, and a first token that is given."""
    ours, theirs = both
    texts = [(text,) for text in ("sea", "the whale and the sea", LONG, LONG * 3)]
    assert len(ours.tok_encode(LONG)) > SEQ_LEN
    asked = requests("loglikelihood_rolling", texts)
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(expected, rel=2e-6, abs=2e-4)


def test_answers_are_those_of_transformers(both):
    """Catches a question that is cut elsewhere, and answers that end at another place."""
    ours, theirs = both
    settings = {"until": [" ", "e"], "do_sample": False, "max_gen_toks": 8}
    contexts = ["the whale", LONG, LONG * 2, "Ahab "]
    for until in ([" ", "e"], ["no such text"]):
        asked = requests("generate_until", [(c, {**settings, "until": until}) for c in contexts])
        assert ours.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


SCORES_WITHOUT_TORCH = """
import importlib.util
import sys
from pathlib import Path

hidden = "torch", "transformers", "accelerate"
really_find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (
    None if name.split(".")[0] in hidden else really_find_spec(name, *rest)
)


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())

import jax

from dpscale.data.assets import resolve
from dpscale.data.tokenizer import Tokenizer
from dpscale.evaluation.harness import TaskRequest, score_tasks
from dpscale.evaluation.tasks import TASKS
from dpscale.inference.trained import TrainedModel
from dpscale.model.decoder import init_params
from dpscale.sizes import named_shape

tokenizer = Tokenizer(resolve("embedded:moby-1024"))
model = named_shape("w16", vocab_size=tokenizer.vocab_size, seq_len=128)
params = init_params(model, jax.random.key(0))
trained = TrainedModel(Path("none"), model, params, tokenizer, None)
request = TaskRequest(tasks=tuple(TASKS), items=Path(sys.argv[1]), num_shots=0)
found = score_tasks(trained, request)
print(len({score.task for score in found.scores}), "tasks", set(hidden) & set(sys.modules))
"""


def test_our_models_are_scored_without_torch():
    """Catches an import that keeps the tasks from a computer with JAX alone."""
    items = Path(__file__).parent / "items"
    done = subprocess.run(
        [sys.executable, "-c", SCORES_WITHOUT_TORCH, str(items)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("7 tasks set()\n"), done.stderr


FETCHES = """
from dpscale.errors import InputError
from dpscale.evaluation.harness import TaskRequest, _evaluated, _prefer_local

request = TaskRequest(tasks=("piqa",))
_prefer_local(request)
try:
    _evaluated(None, {}, request)
except InputError as error:
    print(error)

import logging

from huggingface_hub import constants

assert constants.HF_HUB_OFFLINE
assert logging.getLogger("huggingface_hub").getEffectiveLevel() == logging.ERROR
"""


def test_items_that_cannot_be_fetched_are_one_line(tmp_path):
    """Catches a traceback, and a warning of each retry around the one line that helps."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FETCHES],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("--items: items could not be fetched (")
    assert "name a folder that holds them" in done.stdout
