"""Base class of Vizier designers for optimizers of other packages, which are asked and told one trial at a time."""

import abc
from collections.abc import Sequence
from typing import Any, Final

from vizier import algorithms as vza
from vizier import pyvizier as vz

_NUMBER: Final = "number"


class AskTellDesigner(vza.Designer):
    """Keeps for each suggestion what the optimizer calls it, because that may be more exact than the trial.

    Subclasses define `ask`, `given` and `tell`.

    Args:
      problem: a single-objective study.

    Attributes:
      roots: the parameters of the search space without the conditional ones.
      configs: name -> parameter, conditional ones included.
    """

    def __init__(self, problem: vz.ProblemStatement):
        self._objective = problem.metric_information.of_type(vz.MetricType.OBJECTIVE).item()
        self.roots = list(problem.search_space.parameters)
        self.configs = {config.name: config for root in self.roots for config in root.traverse(show_children=True)}
        self._asked: dict[str, Any] = {}

    @abc.abstractmethod
    def ask(self) -> tuple[Any, dict[str, Any]]:
        """The optimizer's own record of its next configuration, and the values of the active parameters."""

    @abc.abstractmethod
    def given(self, values: dict[str, Any]) -> Any:
        """The optimizer's own record of a configuration that it has not suggested, such as a shared first trial."""

    @abc.abstractmethod
    def tell(self, record: Any, cost: float | None) -> None:
        """Reports the cost of a configuration, less is better; None if the trial failed."""

    def suggest(self, count: int | None = None) -> Sequence[vz.TrialSuggestion]:
        suggestions = []
        for _ in range(1 if count is None else count):
            number = str(len(self._asked))
            self._asked[number], values = self.ask()
            suggestion = vz.TrialSuggestion(values)
            suggestion.metadata.ns("ask_tell")[_NUMBER] = number
            suggestions.append(suggestion)
        return suggestions

    def update(self, completed: vza.CompletedTrials, all_active: vza.ActiveTrials) -> None:
        for trial in completed.trials:
            number = trial.metadata.ns("ask_tell").get(_NUMBER)
            record = self.given(dict(trial.parameters.as_dict())) if number is None else self._asked[number]
            if trial.infeasible or trial.final_measurement is None:
                self.tell(record, None)
            else:
                value = trial.final_measurement.metrics[self._objective.name].value
                self.tell(record, -value if self._objective.goal.is_maximize else value)
