"""Behaviours: the optimizers that choose the trials of synthetic studies, which the policy learns to imitate.

`BEHAVIOURS` names them and `PriorConfig.behaviours` gives their weights.  `interface` defines a behaviour; `designs`,
`incumbents` and `surrogates` implement them.
"""

from optformer.data.prior.behaviours import designs, incumbents, surrogates
from optformer.data.prior.behaviours.interface import Behaviour, History, Setting, move

__all__ = ["BEHAVIOURS", "Behaviour", "History", "Setting", "move"]

BEHAVIOURS: dict[str, Behaviour] = {
    "random_search": Behaviour(designs.plan_random, directed=False, algorithm="random_search"),
    "quasi_random": Behaviour(designs.plan_quasi_random, directed=False, algorithm="quasi_random_search"),
    "clustered": Behaviour(designs.plan_clustered, directed=False, algorithm="clustered"),
    "grid_search": Behaviour(designs.plan_grid, directed=False, algorithm="grid_search"),
    "shuffled_grid_search": Behaviour(designs.plan_shuffled_grid, directed=False, algorithm="shuffled_grid_search"),
    "converging": Behaviour(designs.plan_converging, directed=True, algorithm="converging"),
    "local_search": Behaviour(
        incumbents.plan_local_search, incumbents.propose_local_search, directed=True, algorithm="local_search"
    ),
    "hill_climb": Behaviour(
        incumbents.plan_hill_climb, incumbents.propose_hill_climb, directed=True, algorithm="hill_climb"
    ),
    "coordinate_search": Behaviour(
        incumbents.plan_coordinates, incumbents.propose_coordinates, directed=True, algorithm="coordinate_search"
    ),
    "regularized_evolution": Behaviour(
        incumbents.plan_evolution, incumbents.propose_evolution, directed=True, algorithm="regularized_evolution"
    ),
    "tpe": Behaviour(
        surrogates.plan_tpe,
        surrogates.propose,
        directed=True,
        algorithm="tpe",
        remember=surrogates.remember,
        costly=True,
    ),
    "gaussian_process": Behaviour(
        surrogates.plan_gaussian_process,
        surrogates.propose,
        directed=True,
        algorithm="gp_bandit",
        remember=surrogates.remember,
        costly=True,
    ),
}
