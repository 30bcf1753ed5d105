"""A pruner for Optuna that predicts the final value of a running trial.

    study = optuna.create_study(sampler=OptFormerSampler(), pruner=OptFormerPruner())

It stops a trial that is unlikely to beat the best value, from a third of the budget on.  The budget is the largest step
that any trial has reported (`optformer.inference.early_stopping`).
"""

from optformer.extras import from_extra

with from_extra("optuna", user="the pruner"):
    from optuna.pruners import BasePruner
    from optuna.study import Study
    from optuna.trial import FrozenTrial

from optformer.facade import OptFormer, load
from optformer.inference.early_stopping import THRESHOLD, stopping
from optformer.serve import optuna_spaces


class OptFormerPruner(BasePruner):
    """Prunes a trial whose final value is unlikely to be the best one.

    No trial is pruned before four have finished with reports, or while it is ahead of all other running trials.
    Optuna does not support pruning in studies with several objectives.
    """

    def __init__(self, model: OptFormer | str = "default", threshold: float = THRESHOLD):
        """
        Args:
          model: a model or checkpoint, as for `OptFormer.from_pretrained`, that was trained with learning curves.
          threshold: probability of a new best value below which a trial is pruned.

        Raises:
          ValueError: no such checkpoint, one that was not trained with learning curves, or a threshold outside [0, 1].
        """
        self._model = load(model)
        self._model.check_reads_reports()
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold is a probability between 0 and 1, not {threshold}")
        self._threshold = threshold

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop a running trial."""
        if not trial.intermediate_values:
            return False
        problem, trials = optuna_spaces.problem_and_trials(getattr(study, "_study", study))
        running = next((each for each in trials if each.id == trial.number), None)
        if running is None:  # it has no parameter
            return False
        return stopping(self._model, problem, trials, running, self._threshold).stop

    def __str__(self) -> str:
        return f"OptFormerPruner({self._model.name!r}, threshold={self._threshold:g})"
