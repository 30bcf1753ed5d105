"""Problems with learning curves that the prior draws, for `pruning.py --suite prior`.

A problem is a function of the prior with up to eight parameters, without conditions, noise and failures, and the curves
of a study (`optformer/data/prior/partial.py`), which may cross, jump, fall again and have noise.
"""

import dataclasses
import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from vizier import pyvizier as vz

from optformer.data.prior import PriorConfig, partial, spaces, task
from optformer.data.prior.draws import Draws
from optformer.evaluate.optimization.problems import Scale
from optformer.evaluate.optimization.tuning import is_flat
from optformer.serialization import tokens

SLOTS = 8
KEY = 2026
"""Of the random key of all problems."""
RANDOM_POINTS = 4096
"""That give the scale of the regret; the best of them is the best known value until a run finds a better one."""
CONFIG = dataclasses.replace(
    PriorConfig.measured(),
    conditional_rate=0.0,
    noise_rate=0.0,
    outlier_rate=0.0,
    infeasible_rate=0.0,
    cliff_failure_rate=0.0,
)


class Drawn(NamedTuple):
    """A function and its curves, with what these need to know of the final values."""

    function: task.Task
    curves: partial.Curves
    middle: Float[Array, ""]
    spread: Float[Array, ""]
    finals: Float[Array, " point"]
    """At random points."""


@jax.jit
def draw(key: jax.Array) -> Drawn:
    draws = Draws(key)
    space = spaces.sample_space(draws, CONFIG, SLOTS)
    function, _ = task.sample_task(draws, space, CONFIG)
    curves = partial.sample_curves(draws, SLOTS)
    random = jax.random.uniform(jax.random.fold_in(key, 1), (RANDOM_POINTS, SLOTS))
    finals = jax.vmap(lambda z: final(function, spaces.quantize(space, z)))(random)
    return Drawn(function, curves, *partial.middle_and_spread(finals), finals)


def final(function: task.Task, q: Array) -> Array:
    """The value of a whole trial with the levels q of its parameters; more is better."""
    undisturbed = task.Disturbance(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), bool))
    return task.observe(function, CONFIG, undisturbed, *task.locate(function.space, q))[0]


@jax.jit
def report(drawn: Drawn, q: Array, share: Array, noise: Array) -> Array:
    """The report of a trial at a share of its budget."""
    space, value = drawn.function.space, final(drawn.function, q)
    point = jnp.where(space.active, q / jnp.maximum(space.levels - 1, 1), 0.0)
    early = partial.report_difference(
        drawn.curves, point[None], value[None], drawn.middle, drawn.spread, share[None], noise[None]
    )
    return value + jnp.where(share < 1.0, early[0], 0.0)


@dataclasses.dataclass(frozen=True)
class PriorProblem:
    """Problem `number` of the prior.  Its trials can report from the start of their budget on (`least_share`)."""

    number: int
    least_share = 0.0
    metric = "objective"
    maximize = True

    @property
    def name(self) -> str:
        return f"prior {self.number}"

    @property
    def seed(self) -> int:
        return self.number

    @functools.cached_property
    def drawn(self) -> Drawn:
        return draw(jax.random.fold_in(jax.random.key(KEY), self.number))

    def configs(self) -> list[vz.ParameterConfig]:
        """The parameters, whose names say nothing."""
        space = jax.tree.map(np.asarray, self.drawn.function.space)
        search_space = vz.SearchSpace()
        root = search_space.root
        for slot in np.flatnonzero(space.kinds > tokens.NO_SLOT):
            name, most, log = f"x{slot + 1}", int(space.levels[slot]) - 1, bool(space.log_scale[slot])
            scale = vz.ScaleType.LOG if log else vz.ScaleType.LINEAR
            if space.kinds[slot] == tokens.CONTINUOUS:
                root.add_float_param(name, 1e-4 if log else 0.0, 1.0, scale_type=scale)
            elif space.kinds[slot] == tokens.INTEGER:
                root.add_int_param(name, 1, most + 1, scale_type=scale)
            elif space.kinds[slot] == tokens.DISCRETE:
                root.add_discrete_param(name, list(range(most + 1)))
            else:
                root.add_categorical_param(name, [f"choice {choice}" for choice in range(most + 1)])
        return list(search_space.parameters)

    def evaluate(self, configuration: dict[str, Any], share: float) -> float:
        """What a trial reports at a share of its budget, and its final value at 1."""
        space = jax.tree.map(np.asarray, self.drawn.function.space)
        q = np.zeros(SLOTS, np.int32)
        for name, value in configuration.items():
            slot = int(name[1:]) - 1
            if space.kinds[slot] == tokens.CONTINUOUS:
                z = 1.0 + np.log10(value) / 4.0 if space.log_scale[slot] else value
                q[slot] = round(z * (space.levels[slot] - 1))
            elif space.kinds[slot] == tokens.INTEGER:
                q[slot] = value - 1
            else:
                q[slot] = int(str(value).removeprefix("choice ").removesuffix(".0"))
        digest = hashlib.sha256(q.tobytes() + np.float64(share).tobytes()).digest()
        noise = np.random.default_rng(list(digest)).standard_normal()
        return float(report(self.drawn, q, np.float32(share), np.float32(noise)))

    def scale(self) -> Scale:
        """Reference: the median of the best of ten random points.

        Raises:
          ValueError: The function is flat.
        """
        finals = np.asarray(self.drawn.finals)
        tens = finals[: RANDOM_POINTS // 10 * 10].reshape(-1, 10).max(axis=1)
        reference, best = float(np.median(tens)), float(finals.max())
        if is_flat(best, reference):
            raise ValueError(f"{self.name}: no random point is better than the median of the best of ten")
        return Scale(reference, best)
