"""The tokens of a study's trials: parameter values to tokens and back, and the values of its metrics.

Notation: D slots, T trials, M objective metrics, L <= 1000 levels of a slot.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NoReturn, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int32
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.batch import Legality
from optformer.serialization.errors import SerializationError
from optformer.serialization.quantization import ParameterValue, category_levels, is_number
from optformer.serialization.slots import FixedParameter, Node, Slot, flattened

Configuration: TypeAlias = vz.TrialSuggestion | vz.ParameterDict | Mapping[str, object]
"""Parameter values in any form: a trial or suggestion, its parameters, or a plain dictionary."""

OBSERVED: Final = -1
"""Status of a trial whose objectives are all finite; not a token, since its tokens are bins."""

METADATA_NAMESPACE: Final = "optformer"
"""Namespace of the metadata of problems (title, description, algorithm, study_id, auto_log) and of suggestions."""


def keep_scales(problem: vz.ProblemStatement) -> vz.ProblemStatement:
    """The problem, changed: its scales are the declared ones, so wide linear ranges stay linear (see `StudySchema`)."""
    problem.metadata.ns(METADATA_NAMESPACE)["auto_log"] = "off"
    return problem


class StudySchema:
    """The serialization of a problem, without trials.  Build once per study and keep.

    Attributes:
      problem: the problem as given.
      study: name for messages.
      slots: in pre-order, parents before children.
      fixed: parameters with a single feasible value.
      metrics: the objective metrics.
      safety_metrics: metrics with a threshold, which are constraints on outcomes, not objectives.
      slot_kinds: int32 [D].
      slot_levels: int32 [D].
      legality: which tokens may be decoded.
    """

    def __init__(self, problem: vz.ProblemStatement, study: str | None = None):
        """Flattens the search space.

        Scales are as declared.  Without a declared scale, DOUBLE and INTEGER parameters with a strictly positive range
        of at least three decades are treated as LOG, others as LINEAR.  `add_float_param` writes LINEAR if the caller
        gives no scale, so for DOUBLE parameters, LINEAR counts as not declared.  The metadata entry `auto_log` = "off"
        in the namespace `optformer` disables this rule for the whole problem.

        Args:
          problem: with any number of metrics.
          study: name for messages; default: study_id or title of the problem's metadata.

        Raises:
          SerializationError: naming study and parameter: a CUSTOM parameter, more than 1000 categories or discrete
            values, a logarithmic scale over bounds that are not positive, children of an integer parameter with more
            than 1000 values, two parameters of one name that can be active together.
        """
        metadata = problem.metadata.ns(METADATA_NAMESPACE)
        self.problem = problem
        self.study = study or metadata.get("study_id") or metadata.get("title") or "(unnamed)"
        self.metrics = tuple(problem.metric_information.of_type(vz.MetricType.OBJECTIVE))
        self.safety_metrics = tuple(problem.metric_information.of_type(vz.MetricType.SAFETY))
        self._nodes = flattened(problem.search_space, self.study, auto_log=metadata.get("auto_log") != "off")
        self.slots = tuple(node for node in self._nodes if isinstance(node, Slot))
        self.fixed = tuple(node for node in self._nodes if isinstance(node, FixedParameter))
        self.slot_kinds = np.array([slot.kind for slot in self.slots], np.int32)
        self.slot_levels = np.array([slot.levels for slot in self.slots], np.int32)
        parents = np.array([slot.parent for slot in self.slots], np.int32)
        active_when = np.ones((len(self.slots), tokens.NUM_LEVELS), bool)
        for slot in self.slots:
            if slot.parent >= 0:
                active_when[slot.index] = np.isin(np.arange(tokens.NUM_LEVELS), slot.parent_levels)
        self.legality = Legality(self.slot_levels, parents, active_when)

    def __len__(self) -> int:
        """D."""
        return len(self.slots)

    # Trials to tokens.

    def encode(self, trials: Sequence[Configuration]) -> Int32[np.ndarray, "trial slot"]:
        """Parameter tokens of trials: levels, INACTIVE where the parent has another value, MISSING where none is given.

        A child whose parent is MISSING may carry a value; without one it is MISSING too.

        Args:
          trials: `vz.Trial`, `vz.TrialSuggestion`, `vz.ParameterDict` or plain dictionaries; values of internal or
            external type (True or "True", 3 or 3.0).

        Raises:
          SerializationError: naming study, trial and parameter: a value that is NaN or infinite, outside the bounds by
            more than a relative 1e-9, an unknown category or discrete value, of the wrong type, of an unknown
            parameter, or of an inactive one.
        """
        rows = [_row(trial) for trial in trials]
        encoded = np.empty((len(rows), len(self.slots)), np.int32)
        consumed = np.zeros(len(rows), np.int32)
        claimed: dict[str, np.ndarray] = {}
        for node in self._nodes:
            column = [row.get(node.name) for row in rows]
            present = np.array([value is not None for value in column], bool)
            possible = self._activity(node, encoded)[1]
            used = present & possible
            consumed += used
            if isinstance(node, FixedParameter):
                self._check_fixed(node, column, used, trials)
                continue
            before = claimed.get(node.name)
            if before is not None and (before & used).any():
                # If parents are MISSING, a value may belong to several slots.
                reason = "several branches have this parameter; give the value of its parent, too"
                self._refuse(trials, int(np.argmax(before & used)), node.name, reason)
            claimed[node.name] = used if before is None else before | used
            levels, bad = node.quantizer.encode(
                column if used.all() else [v if u else None for v, u in zip(column, used, strict=True)]
            )
            if (bad & used).any():
                index = int(np.argmax(bad & used))
                self._refuse(trials, index, node.name, node.quantizer.complaint(column[index]))
            absent = np.where(possible, tokens.MISSING, tokens.INACTIVE)
            encoded[:, node.index] = np.where(used, levels, absent)
        excess = np.fromiter(map(len, rows), np.int32, len(rows)) != consumed
        if excess.any():
            index = int(np.argmax(excess))
            self._explain_excess(trials, index, rows[index], encoded[index : index + 1])
        return encoded

    def encode_others(self, trials: Sequence[Configuration]) -> Int32[np.ndarray, "trial slot"]:
        """Parameter tokens of trials of another search space, matched by name.

        As `encode`, but parameters that this space lacks are dropped, and values that it does not allow are MISSING.
        """
        rows = [_row(trial) for trial in trials]
        encoded = np.empty((len(rows), len(self.slots)), np.int32)
        for slot in self.slots:
            column = [row.get(slot.name) for row in rows]
            possible = self._activity(slot, encoded)[1]
            given = np.array([value is not None for value in column], bool) & possible
            levels, bad = slot.quantizer.encode(column)
            absent = np.where(possible, tokens.MISSING, tokens.INACTIVE)
            encoded[:, slot.index] = np.where(given & ~bad, levels, absent)
        return encoded

    def _activity(
        self, node: Node, encoded: np.ndarray
    ) -> tuple[Bool[np.ndarray, " trial"], Bool[np.ndarray, " trial"]]:
        """Per trial: whether the node is certainly active, and whether it may be (its parent is MISSING)."""
        if node.parent < 0:
            everywhere = np.ones(len(encoded), bool)
            return everywhere, everywhere
        parent = encoded[:, node.parent]
        on = np.isin(parent, node.parent_levels)
        return on, on | (parent == tokens.MISSING)

    def _check_fixed(
        self, node: FixedParameter, column: Sequence[object], used: np.ndarray, trials: Sequence[Configuration]
    ) -> None:
        for index in np.flatnonzero(used).tolist():
            value = column[index]
            if node.config.type == vz.ParameterType.CATEGORICAL:
                agrees = value in category_levels([str(node.value)], node.config.external_type)
            else:
                agrees = is_number(value) and bool(np.isclose(value, node.value, rtol=1e-9, atol=0))
            if not agrees:
                self._refuse(trials, index, node.name, f"{value!r} is not its only feasible value {node.value!r}")

    def _explain_excess(
        self, trials: Sequence[Configuration], index: int, row: Mapping[str, object], encoded: np.ndarray
    ) -> None:
        for name, value in row.items():
            nodes = [node for node in self._nodes if node.name == name]
            if not nodes:
                self._refuse(trials, index, name, "the search space has no parameter of this name")
            if not any(self._activity(node, encoded)[1][0] for node in nodes):
                places = " or ".join(repr(node.path) for node in nodes)
                self._refuse(
                    trials,
                    index,
                    name,
                    f"has a value ({value!r}) but is inactive: it belongs to {places}; leave it out",
                )

    def _refuse(self, trials: Sequence[Configuration], index: int, name: str, reason: str) -> NoReturn:
        identity = getattr(trials[index], "id", None)
        which = f"trial {identity}" if identity is not None else f"suggestion {index} (counted from 0)"
        raise SerializationError(reason, study=self.study, trial=which, parameter=name)

    # The metrics of trials.

    def objectives(
        self, trials: Sequence[vz.Trial]
    ) -> tuple[Float[np.ndarray, "trial metric"], Int32[np.ndarray, " trial"]]:
        """Objective values, larger is better, and one status per trial.

        Returns:
          values: float64 [T, M], negated if the goal is to minimize; NaN where there is none.
          statuses: int32 [T].  INFEASIBLE: declared infeasible, or an objective is NaN or infinite.  PENDING: active or
            requested.  MISSING: stopped or completed without a final measurement, or with one that lacks a metric.
            `OBSERVED` (-1): has all objectives.  The token of objective m is its bin if `values[:, m]` is finite, else
            the status.
        """
        values = np.full((len(trials), len(self.metrics)), np.nan)
        statuses = np.full(len(trials), OBSERVED, np.int32)
        signs = [(metric.name, larger_is_better(metric)) for metric in self.metrics]
        for index, trial in enumerate(trials):
            if trial.infeasible:
                statuses[index] = tokens.INFEASIBLE
                continue
            measurement = trial.final_measurement
            if measurement is None:
                stopped = trial.stopping_reason is not None or trial.completion_time is not None
                statuses[index] = tokens.MISSING if stopped else tokens.PENDING
                continue
            for column, (name, turned) in enumerate(signs):
                metric = measurement.metrics.get(name)
                if metric is None:
                    statuses[index] = tokens.MISSING
                else:
                    values[index, column] = turned * metric.value
        unusable = np.isinf(values).any(axis=1) | (np.isnan(values).any(axis=1) & (statuses == OBSERVED))
        statuses[unusable] = tokens.INFEASIBLE
        values[~np.isfinite(values)] = np.nan
        return values, statuses

    def values_of(
        self, metric: vz.MetricInformation, trials: Sequence[vz.Trial]
    ) -> tuple[Float[np.ndarray, " trial"], Int32[np.ndarray, " trial"]]:
        """Values of one metric, [T], larger is better or safer, NaN where there is none; and statuses as above."""
        values, statuses = self.objectives(trials)
        if metric in self.metrics:
            return values[:, self.metrics.index(metric)], statuses
        return self.safety_values(trials)[:, self.safety_metrics.index(metric)], statuses

    def safety_values(self, trials: Sequence[vz.Trial]) -> Float[np.ndarray, "trial constraint"]:
        """Values of the safety metrics, larger is safer, NaN where unknown; failed trials may also have them."""
        values = np.full((len(trials), len(self.safety_metrics)), np.nan)
        if not self.safety_metrics:
            return values
        for index, trial in enumerate(trials):
            for column, metric in enumerate(self.safety_metrics):
                if trial.final_measurement is not None and metric.name in trial.final_measurement.metrics:
                    values[index, column] = (
                        larger_is_better(metric) * trial.final_measurement.metrics[metric.name].value
                    )
        return values

    @property
    def safety_thresholds(self) -> Float[np.ndarray, " constraint"]:
        """The thresholds that `safety_values` must reach."""
        return np.array([larger_is_better(one) * (one.safety_threshold or 0.0) for one in self.safety_metrics], float)

    def holds(self, safety: Float[np.ndarray, "trial constraint"]) -> Bool[np.ndarray, " trial"]:
        """Whether each trial violates no constraint on outcomes, given `safety_values`.

        Values that were not measured count as safe, as in Vizier and Optuna.
        """
        return np.asarray(~(safety < self.safety_thresholds).any(axis=1))

    # Tokens to trials.

    def decode(self, x_tokens: Sequence[int] | np.ndarray) -> dict[str, float | int | str | bool]:
        """Parameters of one trial, as plain Python values of their external types, in the order of the search space.

        INACTIVE and MISSING parameters are omitted; active fixed parameters are added.

        Raises:
          SerializationError: naming study and parameter, if the tokens are not a legal trial.
        """
        return {node.name: external_value(value, node.config) for node, value in self._decoded(x_tokens)}

    def decode_parameters(self, x_tokens: Sequence[int] | np.ndarray) -> vz.ParameterDict:
        """Like `decode`, for a Vizier trial or suggestion.

        Booleans are the strings "True" and "False": Vizier's own representation, and the only one that its service
        stores without loss (it writes a Python bool as a number).
        """
        parameters = vz.ParameterDict()
        for node, value in self._decoded(x_tokens):
            boolean = node.config.external_type == vz.ExternalType.BOOLEAN
            parameters[node.name] = value if boolean else external_value(value, node.config)
        return parameters

    def _decoded(self, x_tokens: Sequence[int] | np.ndarray) -> list[tuple[Node, ParameterValue]]:
        row = np.asarray(x_tokens)
        if row.shape != (len(self.slots),):
            raise SerializationError(
                f"expected {len(self.slots)} parameter tokens, got shape {row.shape}", study=self.study
            )
        decoded: list[tuple[Node, ParameterValue]] = []
        for node in self._nodes:
            on, possible = (bool(active[0]) for active in self._activity(node, row[None]))
            if isinstance(node, FixedParameter):
                if on:
                    decoded.append((node, node.value))
                continue
            token = int(row[node.index])
            if 0 <= token < node.levels and possible:
                decoded.append((node, node.values[token]))
            elif not (token == tokens.MISSING and possible) and not (token == tokens.INACTIVE and not on):
                name = tokens.token_name(token) if 0 <= token <= tokens.PAD else str(token)
                expected = f"<0> ... <{node.levels - 1}>" if on else "INACTIVE"
                raise SerializationError(
                    f"token {name} is not legal, expected {expected}", study=self.study, parameter=node.path
                )
        return decoded


def _row(trial: Configuration) -> dict[str, object]:
    """Raw parameter values by name, without absent ones."""
    parameters = getattr(trial, "parameters", trial)
    if isinstance(parameters, vz.ParameterDict):
        return {name: value.value for name, value in parameters.items()}
    return {
        name: value.value if isinstance(value, vz.ParameterValue) else value
        for name, value in parameters.items()
        if value is not None
    }


def external_value(value: ParameterValue, config: vz.ParameterConfig) -> float | int | str | bool:
    """A value of the internal type as the user writes it: "True" of a boolean parameter as True."""
    external = vz.ParameterValue(value).cast(config.external_type)
    return value if external is None else external


def larger_is_better(metric: vz.MetricInformation) -> float:
    """Sign that makes larger values better: -1 if the metric is minimized or must not exceed its threshold, else 1."""
    return -1.0 if metric.goal.is_minimize else 1.0
