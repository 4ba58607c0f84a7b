"""Our model as lm-evaluation-harness wants one.

The class is made inside a function, because the harness is optional and a class needs its base.
"""

from typing import Any

from dpscale.evaluation.answers import Answers
from dpscale.evaluation.progress import OnProgress, counted


def make_adapter(answers: Answers, on_progress: OnProgress) -> Any:
    """An `lm_eval.api.model.TemplateLM` that hands every request to `answers`."""
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs

    class Adapter(TemplateLM):  # type: ignore[misc]
        """Requests in text to requests in tokens, by the harness's own rules."""

        @property
        def eot_token_id(self) -> int:
            return answers.tokenizer.eos_id

        @property
        def prefix_token_id(self) -> int:
            return answers.trained.start_id

        @property
        def max_length(self) -> int:
            return answers.max_length

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
        ) -> list[int]:
            if add_special_tokens is False:
                return [int(token) for token in answers.tokenizer.encode(string)]
            return answers.trained.encode(string)

        def loglikelihood(
            self, requests: list[Any], disable_tqdm: bool = True
        ) -> list[tuple[float, bool]]:
            scored: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
            return scored

        def _loglikelihood_tokens(
            self, requests: list[Any], disable_tqdm: bool = False, **kwargs: Any
        ) -> list[tuple[float, bool]]:
            pairs = [(context, continuation) for _, context, continuation in requests]
            return answers.log_likelihoods(
                pairs, counted(on_progress, "scoring choices", len(pairs))
            )

        def loglikelihood_rolling(
            self, requests: list[Any], disable_tqdm: bool = False
        ) -> list[float]:
            totals = []
            for request in requests:
                windows = utils.get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                pairs = list(map(utils.make_disjoint_window, windows))
                totals.append(sum(log_prob for log_prob, _ in answers.log_likelihoods(pairs)))
            return totals

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            on_done = counted(on_progress, "writing answers", len(requests))
            alike: dict[tuple[tuple[str, ...], int], list[int]] = {}
            for index, request in enumerate(requests):
                settings = normalize_gen_kwargs(request.args[1], default_max_gen_toks=256)
                key = tuple(settings["until"]), settings["max_gen_toks"]
                alike.setdefault(key, []).append(index)
            texts = [""] * len(requests)
            for (until, max_new_tokens), indices in alike.items():
                found = answers.texts(
                    [requests[index].args[0] for index in indices],
                    until=until,
                    max_new_tokens=max_new_tokens,
                    on_done=on_done,
                )
                for index, text in zip(indices, found, strict=True):
                    texts[index] = text
            return texts

    return Adapter()
