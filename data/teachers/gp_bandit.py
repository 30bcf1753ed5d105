"""Vizier's Gaussian-process bandit as a teacher: in double precision, and compiled as rarely as possible.

By itself, it compiles for each number of trials, which takes nine tenths of its time.
"""

from collections.abc import Callable, Sequence
from typing import Final

import attrs
import jax
import numpy as np
from vizier import algorithms as vza
from vizier import pyvizier as vz
from vizier._src.jax import types
from vizier.pyvizier.converters import padding

SIZES: Final = (25, 50, 100)
"""Trials are padded to one of these sizes, then to multiples of the last.  Compiling for a size takes ten seconds; a
trial takes 1.2 s at size 25 and 2.2 s at size 100."""


def padded(trials: int) -> int:
    """The padded number of trials; always larger than `trials`, since full arrays would be compiled separately."""
    if trials == 0:
        return 0
    return next((size for size in SIZES if trials < size), (trials // SIZES[-1] + 1) * SIZES[-1])


@attrs.define(frozen=True, kw_only=True, hash=True, eq=True)
class FewSizes(padding.PaddingSchedule):
    """Pads trials by `padded`; does not pad features and metrics."""

    def _pad_trailing_dims(self, array: np.ndarray, padding_types: Sequence[padding.PaddingType]) -> types.PaddedArray:
        trials, *others = array.shape
        fill = self._int_default if np.issubdtype(array.dtype, np.integer) else self._float_default
        return types.PaddedArray.from_array(array, (padded(trials), *others), fill_value=fill)


class InDoublePrecision(vza.Designer):
    """Runs Vizier's Gaussian process in 64 bits, since it fails within ten trials in 32; other code keeps 32 bits."""

    def __init__(self, make: Callable[[], vza.Designer]):
        with jax.enable_x64(True):
            self._designer = make()

    def suggest(self, count: int | None = None) -> Sequence[vz.TrialSuggestion]:
        with jax.enable_x64(True):
            return self._designer.suggest(count)

    def update(self, completed: vza.CompletedTrials, all_active: vza.ActiveTrials) -> None:
        with jax.enable_x64(True):
            self._designer.update(completed, all_active)


def gp_bandit(problem: vz.ProblemStatement, seed: int) -> vza.Designer:
    """GP bandit with Vizier's defaults: UCB 1.8, a trust region, acquisition maximized by Eagle; starts at the centre.

    Raises:
      ModuleNotFoundError: jaxopt or tensorflow-probability is not installed.
    """
    from vizier._src.algorithms.designers.gp_bandit import VizierGPBandit

    from optformer.inference.compiled import cache_compilations

    # Studies with equally many parameters of each kind, and categories, share compiled functions.
    cache_compilations()

    def make() -> VizierGPBandit:
        return VizierGPBandit(problem, rng=jax.random.PRNGKey(seed), padding_schedule=FewSizes())

    return InDoublePrecision(make)
