"""A pyvizier study as tokens, from which the inputs of the model are made.

Notation: T trials, D slots, M objective metrics, C safety metrics, S text tokens; v a value, larger is better or safer.

Metrics are numbered consecutively: first the objectives, then the safety metrics.
"""

import copy
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int32
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.batch import StudyRow
from optformer.serialization.metadata import MetadataOptions, MetadataTokens, metadata_segments, tokenize
from optformer.serialization.partial_trials import Reports, of_study, reports_of, with_budget
from optformer.serialization.prior_studies import PriorTrials, checked_studies, joined, matched
from optformer.serialization.space import StudySchema, larger_is_better


class EncodedStudy:
    """A problem and its trials, encoded once.

    Attributes:
      schema: slots of the search space.
      trials: as given.
      x_tokens: int32 [T, D], parameter tokens.
      values: float64 [T, M], larger is better, NaN where unknown.
      safety: float64 [T, C], larger is safer, NaN where unknown, infinite where measured so.
      thresholds: float64 [C], what `safety` must reach.
      prior_studies: earlier studies, whose trials the model also reads (`optformer.serialization.prior_studies`).
      statuses: int32 [T], OBSERVED or the status token.

    Raises:
      ValueError: naming study, trial and parameter; see `StudySchema`.  Also if the problem has no objective metric.
      TypeError: `prior_studies` holds anything other than studies with their trials.
    """

    def __init__(
        self,
        problem: vz.ProblemStatement,
        trials: Sequence[vz.Trial],
        prior_studies: Sequence[vz.ProblemAndTrials] = (),
    ):
        self.schema = StudySchema(problem)
        if not self.schema.metrics:
            raise ValueError(f"study {self.schema.study!r}: no objective metric; add one to problem.metric_information")
        self.trials = list(trials)
        self.x_tokens = self.schema.encode(self.trials)
        self.values, self.statuses = self.schema.objectives(self.trials)
        self.safety = self.schema.safety_values(self.trials)
        self.thresholds = self.schema.safety_thresholds
        wanted = "studies with their trials (vizier.pyvizier.ProblemAndTrials)"
        self.prior_studies = checked_studies(prior_studies, (vz.ProblemAndTrials,), wanted)
        self._texts: dict[tuple[str | None, int], MetadataTokens] = {}
        self._earlier: dict[int, list[PriorTrials]] = {}
        self._reports: dict[int, list[Reports]] = {}

    def first(self, count: int) -> "EncodedStudy":
        """The study with only its first `count` trials."""
        earlier = copy.copy(self)
        earlier.trials, earlier.x_tokens = self.trials[:count], self.x_tokens[:count]
        earlier.values, earlier.statuses = self.values[:count], self.statuses[:count]
        earlier.safety = self.safety[:count]
        earlier._reports = {}
        return earlier

    @property
    def pending(self) -> np.ndarray:
        """Whether each trial is pending, bool [T]."""
        return self.statuses == tokens.PENDING

    @property
    def open_ended(self) -> np.ndarray:
        """bool [T], trials that are running or were stopped; failed ones are not included."""
        return (self.statuses == tokens.PENDING) | (self.statuses == tokens.MISSING)

    def metric_index(self, name: str | None) -> int:
        """Index of a metric by name; None means the only objective.

        Raises:
          ValueError: there is no such metric, or there are several objectives and `name` is None.
        """
        names = [metric.name for metric in self.metrics]
        if name is None and len(self.schema.metrics) == 1:
            return 0
        if name not in names:
            asked = "several objectives" if name is None else f"no metric {name!r}"
            raise ValueError(f"study {self.schema.study!r}: {asked}; name one of {', '.join(map(repr, names))}")
        return names.index(name)

    def sign(self, metric: int) -> float:
        """-1 if the metric is minimized: user value = sign * v."""
        return larger_is_better(self.metrics[metric])

    @property
    def metrics(self) -> tuple[vz.MetricInformation, ...]:
        """The objectives, then the safety metrics."""
        return (*self.schema.metrics, *self.schema.safety_metrics)

    @property
    def holds(self) -> np.ndarray:
        """Whether each trial violates no constraint on outcomes, bool [T]; see `StudySchema.holds`."""
        return self.schema.holds(self.safety)

    @property
    def shortfall(self) -> Float[np.ndarray, " trial"]:
        """Violation of each trial, summed over constraints, each relative to its largest violation."""
        missing = np.zeros((len(self.trials), len(self.thresholds)))
        for k, threshold in enumerate(self.thresholds):
            values = self.metric_values(self.values.shape[1] + k)
            missing[:, k] = np.maximum(threshold - np.where(np.isnan(values), threshold, values), 0.0)
        return np.asarray((missing / np.maximum(missing.max(axis=0, initial=0.0), 1e-300)).sum(axis=1))

    def metric_values(self, metric: int) -> Float[np.ndarray, " trial"]:
        """v of every trial, NaN where unknown; infinite values of a safety metric are clipped to the finite ones."""
        objectives = self.values.shape[1]
        if metric < objectives:
            return self.values[:, metric]
        values, threshold = self.safety[:, metric - objectives], self.thresholds[metric - objectives]
        if np.isinf(threshold):
            return np.where(np.isfinite(values), values, np.nan)
        known = values[np.isfinite(values)]
        reach = np.abs(known - threshold).max(initial=0.0) or 1.0
        return np.clip(values, threshold - reach, threshold + reach)

    def best(self, metric: int) -> int | None:
        """Index of the best trial by a metric among those that violate no constraint; None without such trials."""
        values = np.where(self.holds, self.metric_values(metric), np.nan)
        return int(np.nanargmax(values)) if np.isfinite(values).any() else None

    def reports(self, metric: int) -> list[Reports]:
        """The intermediate reports of a metric of each trial."""
        if metric not in self._reports:
            name = self.metrics[metric].name
            self._reports[metric] = of_study([reports_of(trial, name) for trial in self.trials], self.sign(metric))
        return self._reports[metric]

    def earlier(self, metric: int, count: int) -> list[PriorTrials]:
        """At most `count` trials of earlier studies for a metric, equally many of each study."""
        found = self._matched(metric)
        return [each.some(count // max(len(found), 1), self.schema.slot_levels) for each in found]

    @property
    def has_earlier(self) -> bool:
        """Whether any earlier study has usable trials for any metric."""
        return any(self._matched(metric) for metric in range(len(self.metrics)))

    def _matched(self, metric: int) -> list[PriorTrials]:
        if metric not in self._earlier:
            values = self.metric_values(metric)
            self._earlier[metric] = matched(
                self.schema, self.prior_studies, self.metrics[metric], self.x_tokens, values
            )
        return self._earlier[metric]

    def text(self, algorithm: str | None, metric: int) -> MetadataTokens:
        """The metadata with which suggestions are requested."""
        known = self._texts.get((algorithm, metric))
        if known is None:
            # Without the goal, so that minimizing f and maximizing -f give exactly the same tokens.
            options = MetadataOptions(goal=False)
            known = tokenize(metadata_segments(self.schema, algorithm, options, objective=metric))
            self._texts[algorithm, metric] = known
        return known

    def row(
        self,
        x_tokens: Int32[np.ndarray, "trial slot"],
        y_tokens: Int32[np.ndarray, " trial"],
        *,
        algorithm: str | None = None,
        metric: int = 0,
        order_free: bool = False,
        earlier: int = 0,
        left: Int32[np.ndarray, " trial"] | None = None,
    ) -> StudyRow:
        """A study with these trials, all of them known, and no policy loss.

        Args:
          x_tokens: int32 [N, D], parameter tokens of trials of this study or of others in its search space.
          y_tokens: int32 [N], their objective tokens.
          algorithm: name for the metadata; default: the problem's own entry.
          metric: index of the metric that the metadata names.
          order_free: see `StudyBatch`.
          earlier: largest number of trials of earlier studies to put before these.
          left: int32 [N], level of the remaining budget (`optformer.serialization.partial_trials`); default: all 0.
        """
        slots = len(self.schema)
        row = StudyRow(
            **self.text(algorithm, metric)._asdict(),
            slot_kinds=self.schema.slot_kinds,
            slot_levels=self.schema.slot_levels,
            slot_identities=np.arange(slots, dtype=np.int32) % tokens.NUM_SLOT_IDENTITIES,
            x_tokens=x_tokens,
            y_tokens=y_tokens,
            prefix_length=len(x_tokens),
            order_free=order_free,
            policy_trials=np.zeros(0, np.int32),
            policy_weights=np.zeros((0, slots), np.float32),
        )
        if left is not None and left.any():
            row = with_budget(row, left)
        return joined(row, self.earlier(metric, earlier) if earlier and self.prior_studies else [])
