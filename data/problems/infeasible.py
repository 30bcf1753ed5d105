"""Adds failing regions to any problem: diverging learning rates, sizes that exceed memory, random crashes."""

import dataclasses
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.serialization import tokens
from optformer.serialization.space import StudySchema

KINDS: Final = ("divergence", "memory", "chance")
_REASONS: Final = {"divergence": "the loss diverged", "memory": "out of memory", "chance": "the machine crashed"}
_SAMPLES: Final = 4096


class InfeasibleExperimenter(experimenters.Experimenter):
    """A problem in which trials fail in a share of the space.

    `divergence`: one ordered parameter (a logarithmic one if there is one) is beyond a threshold; `memory`: a sum of up
    to three ordered parameters, on their own scales, is beyond a threshold; `chance`: any trial, with that probability.
    Thresholds are chosen on random points, so that the share is as close to the requested one as the levels of discrete
    parameters allow, and not 0.  Regions only use unconditional parameters, since inactive ones have no value.
    """

    def __init__(
        self,
        problem: experimenters.Experimenter,
        kind: Literal["divergence", "memory", "chance"],
        share: float,
        seed: int,
    ):
        """
        Args:
          problem: the problem.
          kind: kind of failure, see above.
          share: share of the space that fails, in (0, 1).
          seed: seed of parameters, directions and crashes.

        Raises:
          ValueError: an unknown kind, a share outside (0, 1), or no ordered unconditional parameter.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        if not 0.0 < share < 1.0:
            raise ValueError(f"the share that fails must be above 0 and below 1, not {share}")
        self.problem, self.kind, self.share = problem, kind, share
        self._rng = np.random.default_rng([seed, 13])
        self._schema = StudySchema(problem.problem_statement())
        self._weights = np.zeros(len(self._schema.slots))
        self._threshold = np.inf
        if kind != "chance":
            self._draw_region()

    def _draw_region(self) -> None:
        slots = self._schema.slots
        ordered = [k for k, slot in enumerate(slots) if slot.kind != tokens.CATEGORICAL and slot.parent < 0]
        if not ordered:
            raise ValueError(f"{self.kind} needs an ordered parameter that every trial has; there is none")
        logarithmic = [k for k in ordered if slots[k].scale == vz.ScaleType.LOG]
        count = 1 if self.kind == "divergence" else min(3, len(ordered))
        pool = logarithmic if self.kind == "divergence" and logarithmic else ordered
        for k in self._rng.choice(pool, size=count, replace=False):
            self._weights[k] = self._rng.uniform(0.5, 1.0)
        levels = np.array([slot.levels for slot in slots])
        drawn = self._rng.integers(0, levels, size=(_SAMPLES, len(slots)))
        heights, counts = np.unique(drawn / np.maximum(levels - 1, 1) @ self._weights, return_counts=True)
        beyond = 1.0 - np.cumsum(counts)[:-1] / _SAMPLES  # share beyond each height, except the largest
        self._threshold = float(heights[int(np.argmin(np.abs(beyond - self.share)))])

    def problem_statement(self) -> vz.ProblemStatement:
        return self.problem.problem_statement()

    def fails(self, trials: Sequence[vz.Trial]) -> np.ndarray:
        """Whether each trial fails, bool [trial]; for `chance`, drawn again at each call."""
        if self.kind == "chance":
            return self._rng.random(len(trials)) < self.share
        rows = self._schema.encode([vz.TrialSuggestion(trial.parameters) for trial in trials])
        levels = np.array([max(slot.levels - 1, 1) for slot in self._schema.slots])
        height: np.ndarray = np.where(self._weights > 0, rows / levels, 0.0) @ self._weights
        return height > self._threshold

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial: failing ones as infeasible, the others with the problem's result.

        A completed trial keeps its measurement, unless it fails.
        """
        failing = self.fails(suggestions)
        self.problem.evaluate(
            [trial for trial, fails in zip(suggestions, failing, strict=True) if not (fails or trial.is_completed)]
        )
        for trial, fails in zip(suggestions, failing, strict=True):
            if fails:
                trial.complete(vz.Measurement(), infeasibility_reason=_REASONS[self.kind])

    def __str__(self) -> str:
        return f"{self.kind}, {self.share:.0%}"


@dataclasses.dataclass(frozen=True)
class Failures:
    """How often problems get a failing region.

    Attributes:
      rate: share of problems with a failing region.
      shares: least and largest share of the space that fails.
    """

    rate: float = 0.0
    shares: tuple[float, float] = (0.05, 0.5)

    def around(self, problem: experimenters.Experimenter, seed: int) -> experimenters.Experimenter:
        """The problem, with or without a failing region depending on the seed."""
        rng = np.random.default_rng([seed, 17])
        if rng.random() >= self.rate:
            return problem
        kind = KINDS[int(rng.integers(len(KINDS)))]
        share = float(rng.uniform(*self.shares))
        try:
            return InfeasibleExperimenter(problem, kind, share, seed)  # type: ignore[arg-type]
        except ValueError:  # no ordered unconditional parameter
            return InfeasibleExperimenter(problem, "chance", share, seed)
