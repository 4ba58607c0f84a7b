"""Tasks through lm-evaluation-harness: by hand, by our adapter, and by Transformers.

Items are the project's own, or real ones from the folder that DPSCALE_TASK_ITEMS names.
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dpscale.data.assets import resolve
from dpscale.data.tokenizer import Tokenizer
from dpscale.evaluation.answers import Answers
from dpscale.evaluation.harness import TaskRequest, TaskScores, score_exported, score_tasks
from dpscale.evaluation.tasks import TASKS
from dpscale.inference.trained import TrainedModel
from dpscale.interop.exporting import export_model
from dpscale.model import decoder
from dpscale.sizes import named_shape

pytestmark = [
    pytest.mark.parity,
    # Of the harness and its libraries: nothing that we could mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

OWN_ITEMS = Path(__file__).parent / "items"
ITEMS = Path(os.environ.get("DPSCALE_TASK_ITEMS", OWN_ITEMS))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """Random parameters in an imported folder."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "imported.json").write_text("{}")
    tokenizer = Tokenizer(resolve("embedded:moby-1024"))
    model = named_shape("w32", vocab_size=tokenizer.vocab_size, seq_len=192)
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: generator.normal(0, 0.3, x.shape).astype(np.float32),
        decoder.params_shapes(model),
    )
    return TrainedModel(folder, model, params, tokenizer, None)


def asked(*tasks: str, num_shots: int = 1, limit: int | None = 20) -> TaskRequest:
    return TaskRequest(tasks=tasks, items=ITEMS, num_shots=num_shots, limit=limit)


def answers_of(scores: TaskScores, task: str) -> list[Any]:
    """Each item's answers: (log-likelihood, is greedy) pairs, or texts."""
    samples = sorted(scores.samples[task], key=lambda sample: int(sample["doc_id"]))
    return [[response[0] for response in sample["resps"]] for sample in samples]


def test_our_adapter_and_transformers_give_the_same(trained, tmp_path):
    """Catches other tokens, another cut of long contexts, another start of a text.

    With two examples some contexts are longer than the 192 tokens that the model reads.
    """
    request = asked(*TASKS, num_shots=2)
    export_model(trained, tmp_path / "hf", format="gemma2")
    ours, theirs = score_tasks(trained, request), score_exported(tmp_path / "hf", request)
    assert ours.scores == theirs.scores
    assert {score.task for score in ours.scores} == set(TASKS)
    for task in TASKS:
        one, other = answers_of(ours, task), answers_of(theirs, task)
        if task == "triviaqa":
            assert one == other
            continue
        for choices, theirs_too in zip(one, other, strict=True):
            for (log_prob, is_greedy), (expected, also_greedy) in zip(
                choices, theirs_too, strict=True
            ):
                assert log_prob == pytest.approx(expected, rel=2e-6, abs=2e-4)
                assert is_greedy == also_greedy


def test_scores_by_hand(trained):
    """Catches templates, choices or metrics that are not what they seem: PIQA, written out."""
    scores = score_tasks(trained, asked("piqa", num_shots=0))
    items = [
        json.loads(line)
        for line in (ITEMS / "piqa" / "validation.jsonl").read_text().splitlines()[:20]
    ]
    logits_of = jax.jit(decoder.logits, static_argnums=0)
    num_right = 0
    for item in items:
        question = f"Question: {item['goal']}\nAnswer:"
        totals = []
        for solution in (item["sol1"], item["sol2"]):
            tokens = trained.tokenizer.encode(f"{question} {solution}").tolist()
            start = len(trained.tokenizer.encode(question))
            padded = np.zeros((1, 192), np.int32)
            padded[0, : len(tokens)] = tokens
            rows = np.asarray(logits_of(trained.model, trained.params, padded), np.float64)[0]
            log_shares = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
            totals.append(sum(log_shares[i - 1, tokens[i]] for i in range(start, len(tokens))))
        num_right += int(np.argmax(totals)) == item["label"]
    (accuracy,) = [score for score in scores.scores if score.metric == "acc"]
    assert accuracy.score == pytest.approx(num_right / len(items))
    assert (accuracy.num_items, accuracy.num_shots) == (len(items), 0)


def test_a_model_that_knows_the_answers_gets_them_all_right(trained, monkeypatch):
    """Catches labels that are shifted, and answers that are handed to other questions."""
    items = OWN_ITEMS / "arc_easy" / "test.jsonl"
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    right = {
        row["question"]: row["choices"]["text"]["ABCD".index(row["answerKey"])] for row in rows
    }
    solved = [json.loads(line) for line in
              (OWN_ITEMS / "triviaqa" / "validation.jsonl").read_text().splitlines()]  # fmt: skip
    known = {row["question"]: row["answer"]["aliases"][0] for row in solved}

    def log_likelihoods(self, requests, on_done=None):
        texts = [tuple(map(self.tokenizer.decode, request)) for request in requests]
        return [(0.0 if any(question in context and answer in choice
                            for question, answer in right.items()) else -9.0, False)
                for context, choice in texts]  # fmt: skip

    def texts(self, contexts, **options):
        asked_last = [context.rsplit("Question: ", 1)[1] for context in contexts]
        return [next(a for q, a in known.items() if q in text) for text in asked_last]

    monkeypatch.setattr(Answers, "log_likelihoods", log_likelihoods)
    monkeypatch.setattr(Answers, "texts", texts)
    request = TaskRequest(tasks=("arc_easy", "triviaqa"), items=OWN_ITEMS, num_shots=0)
    found = {
        (score.task, score.metric): score.score for score in score_tasks(trained, request).scores
    }
    assert found[("arc_easy", "acc")] == 1.0
    assert found[("triviaqa", "exact_match")] == 1.0
