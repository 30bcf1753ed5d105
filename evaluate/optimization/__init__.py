"""Compares optimizers: the same first trials for all, best-so-far curves, normalized regret, ranks.

Every optimizer is a Vizier `Designer`; every problem is a Vizier `Experimenter`.
"""

from optformer.evaluate.optimization.tuning import DesignerFactory as DesignerFactory
from optformer.evaluate.optimization.tuning import Run as Run
from optformer.evaluate.optimization.tuning import best_so_far as best_so_far
from optformer.evaluate.optimization.tuning import maximizes as maximizes
from optformer.evaluate.optimization.tuning import normalized_regret as normalized_regret
from optformer.evaluate.optimization.tuning import objective_values as objective_values
from optformer.evaluate.optimization.tuning import random_trials as random_trials
from optformer.evaluate.optimization.tuning import single_objective as single_objective
from optformer.evaluate.optimization.tuning import tune as tune
from optformer.evaluate.optimization.tuning import tuning as tuning
