"""The law's 90 % interval holds the truth about as often as it says, and its choices cost little.

The script over all forms and 200 trials is `analysis/law_coverage.py`; here one form, 30 trials.
"""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(analysis_script: Callable[[str], ModuleType]) -> ModuleType:
    return analysis_script("law_coverage")


def test_coverage_and_regret_of_recommendations(script: ModuleType) -> None:
    trials = [script.Trial("form-3", seed, 30, chosen=False) for seed in range(1000, 1030)]
    coverage = script.Coverage("form-3", tuple(trial.run() for trial in trials))
    answers = [answer for each in coverage.answers for answer in each]
    assert len(answers) == 30 * 4
    assert 0.75 <= coverage.share <= 0.99  # 0.9 within 2.7 binomial errors
    assert np.max([answer.regret for answer in answers]) < 0.005
    assert np.median([answer.half_width for answer in answers]) < 0.006  # wider says less
    assert abs(np.mean([answer.error for answer in answers])) < 0.0015
