"""Vizier's own Gaussian process as a baseline; needs the packages of `google-vizier[jax]`."""

import importlib
from collections.abc import Sequence

import numpy as np
from vizier import algorithms as vza
from vizier import pyvizier as vz

from optformer.evaluate.calibration.forecasts import SampleForecast

_MODULE = "vizier._src.algorithms.designers.gp_bandit"
SAMPLES = 1000


def vizier_is_installed() -> bool:
    """Whether Vizier's Gaussian-process designer can be imported here."""
    try:
        importlib.import_module(_MODULE)
    except Exception:
        # Not only ImportError: incompatible versions fail in many ways during the import.
        return False
    return True


def vizier_process_forecast(
    problem: vz.ProblemStatement, known: Sequence[vz.Trial], later: Sequence[vz.Trial], seed: int = 0
) -> SampleForecast:
    """Samples of the later trials' objectives given the known ones, after Vizier's own warps.

    Raises:
      ValueError: the problem has conditional parameters, which this designer does not support.
    """
    designer = importlib.import_module(_MODULE).VizierGPBandit.from_problem(problem, seed=seed)
    designer.update(vza.CompletedTrials(list(known)), vza.ActiveTrials())
    suggestions = [vz.TrialSuggestion(trial.parameters) for trial in later]
    return SampleForecast(np.asarray(designer.sample(suggestions, num_samples=SAMPLES), dtype=float))
