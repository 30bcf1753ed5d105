"""The reasons of a suggestion: how it was found and what was predicted for it, as strings for its metadata."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from optformer.inference.proposable import Proposal
    from optformer.serialization.study import EncodedStudy

UNLIKELY: Final = 0.05
"""A suggestion carries a warning if the probability that all constraints on outcomes hold is below this."""


def reasons(study: "EncodedStudy", proposal: "Proposal") -> dict[str, str]:
    """The metadata of a suggestion without the name of the checkpoint; `OptFormer.suggest` lists the keys.

    Args:
      study: the study for which it was proposed.
      proposal: the suggestion.
    """
    found = {"source": proposal.source}
    if proposal.value is not None:
        found["acquisition_value"] = f"{proposal.value:.6g}"
    objectives = len(study.schema.metrics)
    for k, prediction in enumerate(proposal.predictions[:objectives]):
        name = f":{study.metrics[k].name}" if objectives > 1 else ""
        low, middle, high = prediction.quantile([0.05, 0.5, 0.95])[:, 0]
        found[f"mean{name}"] = f"{prediction.mean[0]:.6g}"
        found[f"quantile_05{name}"] = f"{low:.6g}"
        found[f"quantile_50{name}"] = f"{middle:.6g}"
        found[f"quantile_95{name}"] = f"{high:.6g}"
        found[f"infeasible{name}"] = f"{prediction.infeasible[0]:.4f}"
        if objectives == 1 and (best := study.best(0)) is not None:
            chance = prediction.probability_of_improvement(study.sign(0) * study.values[best, 0])
            found["improvement"] = f"{chance[0]:.4f}"
    if proposal.holds:
        together = math.prod(proposal.holds)
        found["constraints_hold"] = f"{together:.4f}"
        for metric, holds in zip(study.schema.safety_metrics, proposal.holds, strict=True):
            found[f"holds:{metric.name}"] = f"{holds:.4f}"
        if together < UNLIKELY:
            found["warning"] = _hardly_feasible(study, proposal.holds)
    for key, number in ("belief", proposal.belief), ("cost", proposal.cost):
        if number is not None:
            found[key] = f"{number:.6g}"
    return found


def _hardly_feasible(study: "EncodedStudy", holds: Sequence[float]) -> str:
    worst = int(np.argmin(holds))
    metric = study.schema.safety_metrics[worst]
    side = "at most" if metric.goal.is_minimize else "at least"
    return (
        f"unlikely to be feasible: {metric.name!r} is {side} {metric.safety_threshold:g} with a probability of "
        f"{holds[worst]:.2g}, and no better candidate was found"
    )
