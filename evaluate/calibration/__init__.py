"""How well objectives are predicted: `optformer evaluate calibration`.

A study is cut after n trials; the model and baselines that are fitted to the study predict later trials from those n.

| module | content |
|---|---|
| `data_sets.py` | the studies: prior functions, BBOB, logged studies, YAHPO |
| `forecasts.py` | the interface of predictive distributions, and those of the baselines |
| `output_warps.py`, `gaussian_process.py`, `vizier_process.py` | the Gaussian processes that are fitted to each study |
| `prediction.py` | cuts studies, predicts the later trials, and scores the predictions |
| `scores.py` | log density, calibration error, coverage and so on, with bootstrap intervals |
| `pages.py` | tables and pictures |
"""

from optformer.evaluate.calibration.gaussian_process import gaussian_process_log_density, unit_features
from optformer.evaluate.calibration.prediction import Predicted, predict_studies

__all__ = ["Predicted", "gaussian_process_log_density", "predict_studies", "unit_features"]
