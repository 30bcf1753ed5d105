"""The config of the synthetic prior.  `--set` can change every field.

`nano-1` was trained with the defaults.  `PriorConfig.measured()` is closer to measured systems.
"""

import dataclasses
from typing import Self

Weights = tuple[tuple[str, float], ...]
"""Names with relative weights, which need not sum to 1."""


@dataclasses.dataclass(frozen=True)
class PriorConfig:
    """Distribution over studies: search space, function, behaviour, and what is known.  Hashable: static under `jit`.

    Attributes:
      slots_mean: mean of the (truncated, shifted) geometric distribution over the number of parameters.
      uniform_slots_rate: share of studies whose number of parameters is uniform over 1 ... D instead.
      single_kind_rate: share of studies all of whose parameters are continuous.
      kind_weights: kinds of parameter in the others: continuous, integer, discrete, categorical.
      grid_rate: share of studies all of whose parameters are discrete or categorical.
      conditional_rate: share of studies (of two or more parameters) in which some parameters depend on others.
      log_rate: probability that a continuous or integer parameter has a log scale.
      max_discrete: most feasible values of a discrete parameter.
      max_categories: most categories of a categorical parameter.
      values_power: a discrete or categorical parameter has 2 (largest / 2) ** (u ** values_power) values, u uniform:
        above 1 favours few.
      disorder_rate: share of studies in which the order of a discrete parameter's values has little to do with their
        effect.
      families: function families (`families.FAMILIES`) and their weights.
      combination_rate: share of functions that are a sum, maximum or minimum of two members of families.
      features: number of random Fourier features of a Gaussian process.
      irrelevant_rate: probability that a parameter does not matter.
      few_rate: share of functions in which one to three parameters matter much more than the others.
      additive_rate: share of Gaussian processes and main effects that are sums of functions of one or two parameters.
      periodic_rate: share of Gaussian processes with a periodic component.
      trend_rate: share of Gaussian processes with a linear trend.
      bowl_rate: share of Gaussian processes with a quadratic bowl.
      rotated_rate: share of analytic functions whose axes are not those of the parameters.
      category_rate: share of functions (of those with a categorical parameter) in which a category shifts the optimum,
        scales the effects of the others, or sets the level.
      category_pick_rate: share of the latter in which each category has one of two different functions.
      input_warp_rate: share of functions whose inputs are warped (Kumaraswamy), which moves optima to the edges.
      step_rate: share of functions in which some ordered inputs act in two to a dozen steps, with plateaus between.
      output_warps: warps of the output (`warps.OUTPUT_WARPS`) and their weights.
      rounded_rate: share of studies whose objective takes few values, like an accuracy on a small test set.
      noise_rate: share of studies with observation noise.
      noise_range: range of its standard deviation relative to the function's; drawn log-uniformly.
      noise_by_value_rate: share of noisy studies in which worse trials are noisier.
      noise_by_place_rate: share of noisy studies in which the noise varies over the space.
      student_rate: share of noisy studies whose noise has heavy tails.
      repeatable_rate: share of noisy studies in which equal points have equal noise.
      outlier_rate: share of studies in which single trials are far worse than the function's value.
      infeasible_rate: share of studies with infeasible trials.
      failures: causes of infeasible trials (`task.FAILURES`) and their weights.
      failing_range: range of the share of the space that fails; drawn uniformly.
      cliff_failure_rate: share of functions with a cliff whose lowest values are infeasible, in addition to the above.
      center_rate: share of studies whose first trial is the centre of the space.
      default_rate: share whose first trial imitates a user's defaults: good values for some parameters, arbitrary ones
        for the others.
      rerun_rate: share of studies that sometimes repeat an earlier trial unchanged.
      stopped_rate: share of studies some of whose trials were stopped before they reported.
      lost_rate: share of studies whose record lacks some parameter values.
      distinct_rate: share of studies in which a proposal that repeats a trial is replaced by a random one.
      behaviours: behaviours that choose the trials (`behaviours.BEHAVIOURS`) and their weights.
      earlier_rate: share of studies with trials of one to four earlier studies (`earlier.py`).
      flipped_rate: probability that the objective of an earlier study is negated.
      partial_rate: share of the studies without earlier ones that have learning curves (`partial.py`).
      full_rate: share of studies that fill all T trials; the others have a uniform number.
      min_trials: fewest trials of a study (T if that is less).
      prefix_power: the known prefix is 2 + floor((N - 2) * u ** prefix_power) trials, u uniform: above 1 favours short
        ones.
      single_prefix_rate: share of studies with a single known trial.
      blind_rate: share of studies without a known trial, from which a model learns to suggest the first trials.
      pending_rate: share of studies some of whose known trials are still running.
      order_free_rate: share of studies whose prefix carries no order.
      goal_rate: share of studies whose metadata writes the goal; it is omitted when suggestions are requested.
      minimize_rate: share of those whose goal is `minimize` (the tokens are larger-is-better in any case).
      title_rate: share of studies whose metadata has a title.
      algorithm_rate: share whose metadata names the algorithm.
      metric_rate: share whose metadata names the metric.
      names_rate: share whose metadata names the parameters.
      undirected_policy_weight: policy loss weight of behaviours that do not depend on the objective.
    """

    slots_mean: float = 4.0
    uniform_slots_rate: float = 0.3
    single_kind_rate: float = 0.4
    kind_weights: tuple[float, float, float, float] = (0.6, 0.16, 0.1, 0.14)
    grid_rate: float = 0.0
    conditional_rate: float = 0.14
    log_rate: float = 0.35
    max_discrete: int = 32
    max_categories: int = 10
    values_power: float = 1.0
    disorder_rate: float = 0.0
    families: Weights = (
        ("gaussian_process", 0.34),
        ("network", 0.09),
        ("trees", 0.07),
        ("bowl", 0.06),
        ("valley", 0.03),
        ("ridge", 0.03),
        ("ripples", 0.04),
        ("peaks", 0.06),
        ("rough", 0.04),
        ("steps", 0.03),
        ("main_effects", 0.09),
        ("learning_rate", 0.07),
        ("saturation", 0.05),
    )
    combination_rate: float = 0.2
    features: int = 128
    irrelevant_rate: float = 0.2
    few_rate: float = 0.4
    additive_rate: float = 0.25
    periodic_rate: float = 0.08
    trend_rate: float = 0.35
    bowl_rate: float = 0.45
    rotated_rate: float = 0.5
    category_rate: float = 0.6
    category_pick_rate: float = 0.25
    input_warp_rate: float = 0.4
    step_rate: float = 0.0
    output_warps: Weights = (
        ("identity", 0.35),
        ("exponential", 0.16),
        ("saturating", 0.1),
        ("ceiling", 0.1),
        ("power", 0.08),
        ("logarithmic", 0.12),
        ("outlying", 0.05),
        ("ranks", 0.04),
    )
    rounded_rate: float = 0.05
    noise_rate: float = 0.45
    noise_range: tuple[float, float] = (1e-3, 0.3)
    noise_by_value_rate: float = 0.2
    noise_by_place_rate: float = 0.15
    student_rate: float = 0.15
    repeatable_rate: float = 0.2
    outlier_rate: float = 0.04
    infeasible_rate: float = 0.2
    failures: Weights = (("region", 0.45), ("memory", 0.25), ("divergence", 0.15), ("chance", 0.15))
    failing_range: tuple[float, float] = (0.05, 0.45)
    cliff_failure_rate: float = 0.4
    center_rate: float = 0.12
    default_rate: float = 0.1
    rerun_rate: float = 0.05
    stopped_rate: float = 0.06
    lost_rate: float = 0.02
    distinct_rate: float = 0.8
    behaviours: Weights = (
        ("random_search", 0.12),
        ("quasi_random", 0.1),
        ("clustered", 0.08),
        ("grid_search", 0.04),
        ("shuffled_grid_search", 0.06),
        ("converging", 0.1),
        ("local_search", 0.1),
        ("hill_climb", 0.06),
        ("coordinate_search", 0.05),
        ("regularized_evolution", 0.1),
        ("tpe", 0.08),
        ("gaussian_process", 0.11),
    )
    earlier_rate: float = 0.0
    flipped_rate: float = 0.1
    partial_rate: float = 0.0
    full_rate: float = 0.5
    min_trials: int = 8
    prefix_power: float = 1.5
    single_prefix_rate: float = 0.04
    blind_rate: float = 0.0
    pending_rate: float = 0.1
    order_free_rate: float = 0.5
    goal_rate: float = 0.3
    minimize_rate: float = 0.5
    title_rate: float = 0.2
    algorithm_rate: float = 0.3
    metric_rate: float = 0.2
    names_rate: float = 0.3
    undirected_policy_weight: float = 0.3

    @classmethod
    def measured(cls) -> Self:
        """A config with properties of measured systems that the defaults lack, by `benchmarks/prior_and_real.py`.

        Grids of few values, many categories, values whose order says little, several parameters that matter about
        equally, plateaus, flat tails, failures in corners of the space, and noise that repeats.
        """
        return cls(
            slots_mean=6.0,
            single_kind_rate=0.25,
            kind_weights=(0.46, 0.26, 0.11, 0.17),
            grid_rate=0.2,
            max_categories=24,
            values_power=2.0,
            disorder_rate=0.5,
            irrelevant_rate=0.1,
            few_rate=0.2,
            step_rate=0.06,
            output_warps=(
                ("identity", 0.33),
                ("exponential", 0.12),
                ("saturating", 0.08),
                ("ceiling", 0.1),
                ("power", 0.06),
                ("logarithmic", 0.18),
                ("outlying", 0.05),
                ("ranks", 0.04),
                ("floored", 0.02),
                ("capped", 0.02),
            ),
            repeatable_rate=0.4,
            failures=(("region", 0.25), ("memory", 0.25), ("corner", 0.25), ("divergence", 0.15), ("chance", 0.1)),
            failing_range=(0.03, 0.3),
        )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_rate") and not 0.0 <= value <= 1.0:
                raise ValueError(f"PriorConfig.{field.name} is {value}; a share must lie in [0, 1].")
            if field.name in ("families", "output_warps", "failures", "behaviours"):
                _check_weights(field.name, [weight for _, weight in value])
        _check_weights("kind_weights", list(self.kind_weights))
        if not self.max_categories >= 2 or not self.max_discrete >= 2:
            raise ValueError("PriorConfig.max_categories and max_discrete must be at least 2.")
        if not 0.0 < self.noise_range[0] <= self.noise_range[1]:
            raise ValueError(f"PriorConfig.noise_range is {self.noise_range}; it needs 0 < low <= high.")
        if not 0.0 < self.failing_range[0] <= self.failing_range[1] < 1.0:
            raise ValueError(f"PriorConfig.failing_range is {self.failing_range}; it needs 0 < low <= high < 1.")
        if not self.values_power > 0.0:
            raise ValueError(f"PriorConfig.values_power is {self.values_power}; it must be positive.")
        if self.slots_mean < 1.0 or self.features < 1 or self.min_trials < 1:
            raise ValueError("PriorConfig.slots_mean, features and min_trials must be at least 1.")


def _check_weights(name: str, weights: list[float]) -> None:
    if not weights or min(weights) < 0.0 or sum(weights) <= 0.0:
        raise ValueError(f"PriorConfig.{name} needs weights that are not negative and not all zero, got {weights}.")
