"""Measured tables with a random forest that predicts the objective between rows, for studies to train on.

Using the value of the nearest row would make the objective flat around every row, which is not realistic.  Measured
configurations keep their measured value.
"""

import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scipy.stats import norm, rankdata
from vizier import pyvizier as vz

from optformer.data.problems.tables import Table, TableExperimenter

_TREES: Final = 40


class FittedTableExperimenter(TableExperimenter):
    """A table, with a random forest fitted to its rows for other configurations.  Needs scikit-learn.

    The forest predicts normal scores of the values, so that a few extreme ones do not dominate.  A trial fails if the
    nearest row failed.

    Args:
      table: the table.
      seed: seed of the forest: of its bootstrap samples, and of the number of parameters that a split considers.
    """

    def __init__(self, table: Table, seed: int):
        super().__init__(table)
        self._seed = seed

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial."""
        if not suggestions:
            return
        table = self.table
        configurations = [trial.parameters.as_dict() for trial in suggestions]
        nearest = np.array([table.nearest(configuration) for configuration in configurations])
        places = table.placed(configurations)
        values = table.values[nearest]
        between = np.flatnonzero(np.isfinite(values) & (places != table.places[nearest]).any(axis=1))
        if len(between):
            values[between] = self._response(places[between])
        for trial, value in zip(suggestions, values.tolist(), strict=True):
            if np.isfinite(value):
                trial.complete(vz.Measurement(metrics={table.metric.name: value}))
            else:
                trial.complete(vz.Measurement(), infeasibility_reason="the nearest measured configuration failed")

    def _response(self, places: np.ndarray) -> np.ndarray:
        forest, scores, values = self._fitted
        found: np.ndarray = np.interp(forest.predict(_features(places, self.table)), scores, values)
        return found

    @functools.cached_property
    def _fitted(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """The forest, and the scores of the measured values, both ascending."""
        from sklearn.ensemble import RandomForestRegressor

        known = np.isfinite(self.table.values)
        values = self.table.values[known]
        scores = norm.ppf((rankdata(values) - 0.5) / len(values))
        share = float(np.random.default_rng([self._seed, 29]).uniform(0.3, 1.0))
        forest = RandomForestRegressor(_TREES, max_features=share, random_state=self._seed, n_jobs=1)
        forest.fit(_features(self.table.places[known], self.table), scores)
        order = np.argsort(values)
        return forest, scores[order], values[order]


def _features(places: np.ndarray, table: Table) -> np.ndarray:
    """Features, float64 [N, F]: positions of numbers, one-hot categories; 0 if inactive."""
    columns = []
    for place, column, categorical in zip(places.T, table.columns, table.categorical, strict=True):
        if categorical:
            columns.append(place[:, None] == np.arange(len(column.config.feasible_values)))
        else:
            columns.append(place[:, None])
    return np.concatenate(columns, axis=1, dtype=float)
