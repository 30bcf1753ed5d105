"""The trials of a running Optuna study as the model reads them."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from optuna.trial import FrozenTrial, TrialState
from vizier import pyvizier as vz

from optformer.inference import costs
from optformer.serialization.branches import Branch, unused
from optformer.serve import optuna_spaces
from optformer.serve.domains import Domain

SUGGESTED: Final = "optformer:suggested"
"""System attribute of a trial: the suggested parameters (JSON, choices as labels), so that concurrent trials see each
other's points before the objective function has asked for them."""

DURATION: Final = "duration"
"""Name of the cost that every trial has: its duration in seconds."""


def model_trials(
    trials: Sequence[FrozenTrial],
    parameters: Mapping[str, Domain],
    branches: Mapping[str, Branch],
    objectives: Sequence[str],
) -> list[vz.Trial]:
    """The trials in Vizier's form, without those that have no parameter yet or failed before their first one.

    A running trial has all parameters that were suggested for it, also those that its objective function has not asked
    for yet.

    Args:
      trials: in any state.
      parameters: parameters of the study; values of others, or outside these, are left out.
      branches: the parameters that depend on others.
      objectives: metric names, in order.
    """
    converted, counted_from = [], optuna_spaces.first_step(trials)
    for frozen in trials:
        if frozen.state != TrialState.WAITING:
            params = _suggested(frozen, parameters, branches) | frozen.params
            converted.append(optuna_spaces.trial(frozen, params, parameters, objectives, counted_from))
    return [each for each in converted if len(each.parameters)]


def _suggested(
    frozen: FrozenTrial, parameters: Mapping[str, Domain], branches: Mapping[str, Branch]
) -> dict[str, object]:
    """Parameters that were suggested for a running trial, as Optuna's values."""
    if frozen.state != TrialState.RUNNING or SUGGESTED not in frozen.system_attrs:
        return {}
    labels = json.loads(frozen.system_attrs[SUGGESTED])
    known = optuna_spaces.model_values(frozen.params, parameters)
    # The branches may have changed since the suggestion.
    left_out = unused(labels | known, branches)
    values = {}
    for name, label in labels.items():
        if name in parameters and name not in left_out:
            try:
                values[name] = parameters[name].from_model(label)
            except (ValueError, TypeError):  # the parameter has changed since the suggestion
                continue
    return values


def add_costs(told: Sequence[vz.Trial], trials: Sequence[FrozenTrial], cost: str, study: str) -> None:
    """Adds the costs of complete trials to their final measurements; a warning names costs that are not positive.

    Args:
      told: trials from `model_trials`, which are modified.
      trials: the same trials as Optuna's.
      cost: name of a user attribute, or `DURATION` for the duration of trials without such an attribute.
      study: name of the study, for messages.
    """
    by_id = {each.id: each for each in told}
    for frozen in trials:
        own = by_id.get(frozen.number + 1)
        if own is None or own.final_measurement is None or frozen.state != TrialState.COMPLETE:
            continue
        value = frozen.user_attrs.get(cost)
        if value is None and cost == DURATION and frozen.duration is not None:
            # Trials from `study.add_trial` may start and end at the same time.
            value = frozen.duration.total_seconds() or None
        if value is not None:
            value = costs.usable_value(value, cost, f"study {study!r}, trial {frozen.number}")
        if value is not None:
            own.final_measurement.metrics[cost] = value
