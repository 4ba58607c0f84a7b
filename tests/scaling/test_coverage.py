"""The law's 90 % interval holds the truth about as often as it says, and its choices cost little.

The script over all forms and 200 trials is `analysis/law_coverage.py`; here one form, 30 trials.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "analysis" / "law_coverage.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("law_coverage", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["law_coverage"] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_coverage_and_regret_of_recommendations(script: ModuleType) -> None:
    trials = [script.Trial("form-3", seed, 30, chosen=False) for seed in range(1000, 1030)]
    coverage = script.Coverage("form-3", tuple(trial.run() for trial in trials))
    answers = [answer for each in coverage.answers for answer in each]
    assert len(answers) == 30 * 4
    assert 0.75 <= coverage.share <= 0.99  # 0.9 within 2.7 binomial errors
    assert np.max([answer.regret for answer in answers]) < 0.005
    assert np.median([answer.half_width for answer in answers]) < 0.006  # wider says less
    assert abs(np.mean([answer.error for answer in answers])) < 0.0015
