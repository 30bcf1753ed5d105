"""Earlier studies of a study of the prior: one more slot of two levels for each (`prior_studies`).

Functions treat these slots as categories, and in most functions a category among many parameters changes little.  So
the functions of most earlier studies are also shifted along every parameter.  A small shift moves the good regions; one
of up to the whole range leaves hardly any similarity.

Notation, for one study: T trials, D slots, K earlier studies with E trials together, numbered 0 ... K - 1; K is the
current study; u the coordinates of a trial.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.spaces import Space
from optformer.serialization import objective, tokens
from optformer.serialization.batch import BatchShape
from optformer.serialization.prior_studies import KIND, LEVELS, MOST_STUDIES

_FEWEST_TRIALS = 3
"""Smallest number of trials of an earlier study."""
_SHARE = (1, 8), (3, 4)
"""Smallest and largest share of the trials that belong to earlier studies."""
_BLIND_RATE = 0.15
"""Smallest share of studies with earlier ones that have no known trial of their own."""
_RANDOM_RATE = 0.5
"""Share of studies whose earlier trials are uniform, whatever the behaviour."""
_FREE = -1.0
_CATEGORIES = 2.0
"""Range of the coordinates of categories."""
_UNMOVED_RATE = 0.2
"""Probability that the function of an earlier study is not shifted."""
_MOVES = (0.2, 1.0)
"""If it is shifted, range of the largest shift, as a share of a parameter's range; drawn uniformly.

A third of the earlier studies then resembles the current study (correlations in
docs/decisions/0094-earlier-studies-in-the-prior.md)."""


class Earlier(NamedTuple):
    """The earlier studies of one study.

    Attributes:
      studies: K, 0 for a study without earlier ones.
      trials: E.
      study: number of the study of each trial.
      flipped: trials of studies whose objective is negated.
      uniform: whether the trials of earlier studies are uniform, whatever the behaviour.
      blind: whether no trial of the current study is known.
      locations: coordinates of the two levels of each earlier study's slot.
      moves: shift of the function of each study along each slot, as a share of the coordinate's range.
      slots: the slots of earlier studies.
      pinned: values of these slots in each trial, as a point z; negative for all other slots.
    """

    studies: Int[Array, ""]
    trials: Int[Array, ""]
    study: Int[Array, " trial"]
    flipped: Bool[Array, " trial"]
    uniform: Bool[Array, ""]
    blind: Bool[Array, ""]
    locations: Float[Array, "study level"]
    moves: Float[Array, "study slot"]
    slots: Bool[Array, " slot"]
    pinned: Float[Array, "trial slot"]

    def pin(self, z: Float[Array, " slot"], t: Int[Array, ""]) -> Float[Array, " slot"]:
        """The point that trial t runs if z was proposed."""
        return jnp.where(self.slots, self.pinned[t], z)

    def moved(self, space: Space, u: Float[Array, " slot"], t: Int[Array, ""]) -> Float[Array, " slot"]:
        """Shifted coordinates, at which the function of trial t is evaluated; reflected at the ends of the range."""
        move = jnp.where(self.slots, 0.0, self.moves[self.study[t]])
        width = jnp.where(space.kinds == tokens.CATEGORICAL, _CATEGORIES, 1.0)
        folded = width * (1.0 - jnp.abs(1.0 - jnp.mod(u / width + move, 2.0)))
        return jnp.where(move == 0.0, u, folded)

    def fit(self, y: Float[Array, " trial"], known: Bool[Array, " trial"]) -> objective.Scaling:
        """Scaling of each trial, [T], fitted on the known trials of its study."""
        same = self.study[None, :] == jnp.arange(MOST_STUDIES + 1)[:, None]
        scaling = objective.fit(jnp.broadcast_to(y, same.shape), same & known[None, :], xp=jnp)
        return objective.Scaling(jnp.asarray(scaling.center)[self.study], jnp.asarray(scaling.scale)[self.study])

    @property
    def fewest_of_all(self) -> Int[Array, ""]:
        """Fewest trials in total, so that the share of earlier ones stays within its limit."""
        part, whole = _SHARE[1]
        return -(-whole * self.trials // part)

    @property
    def begins(self) -> Bool[Array, " trial"]:
        """Whether each trial is the first one of its study."""
        return jnp.concatenate([jnp.ones((1,), bool), jnp.diff(self.study) > 0])


def sample_earlier(key: PRNGKeyArray, config: PriorConfig, shape: BatchShape) -> Earlier | None:
    """Draws earlier studies for `config.earlier_rate` of the studies; `with_slots` adds their slots.

    Returns None if no study has any: if the rate is 0, or the shape has a single slot or too few trials.
    """
    most = min(MOST_STUDIES, shape.slots - 1, shape.trials * _SHARE[1][0] // _SHARE[1][1] // _FEWEST_TRIALS)
    if not config.earlier_rate or most < 1:
        return None
    # A separate key, so that a study without earlier ones does not depend on `config.earlier_rate`.
    draws = Draws(jax.random.fold_in(key, 3), block=128)
    count = draws.integer(1, most + 1) * draws.bernoulli(config.earlier_rate)
    (least, of_least), (largest, of_largest) = _SHARE
    trials = draws.integer(
        jnp.maximum(_FEWEST_TRIALS * count, shape.trials * least // of_least),
        shape.trials * largest // of_largest + 1,
    )
    trials = jnp.where(count > 0, trials, 0)

    used = jnp.arange(MOST_STUDIES) < count
    parts = jnp.cumsum(jnp.where(used, -jnp.log1p(-draws.uniform((MOST_STUDIES,))), 0.0))
    spare = (trials - _FEWEST_TRIALS * count).astype(jnp.float32)
    ends = _FEWEST_TRIALS * (jnp.arange(MOST_STUDIES) + 1)
    ends += jnp.floor(spare * parts / jnp.maximum(parts[-1], 1e-6)).astype(jnp.int32)
    # The last earlier study ends where the current one begins, independent of rounding.
    ends = jnp.where(jnp.arange(MOST_STUDIES) == count - 1, trials, ends)
    study = (used[None, :] & (jnp.arange(shape.trials)[:, None] >= ends[None, :])).sum(1)

    flips = used & draws.bernoulli(config.flipped_rate, (MOST_STUDIES,))
    most_moved = draws.uniform((MOST_STUDIES, 1), *_MOVES) * ~draws.bernoulli(_UNMOVED_RATE, (MOST_STUDIES, 1))
    moves = most_moved * draws.uniform((MOST_STUDIES, shape.slots), -1.0, 1.0)
    return Earlier(
        studies=count,
        trials=trials,
        study=study,
        flipped=jnp.append(flips, False)[study],
        uniform=draws.bernoulli(_RANDOM_RATE),
        # In addition to those that `config.blind_rate` makes blind.
        blind=(count > 0)
        & draws.bernoulli(max(_BLIND_RATE - config.blind_rate, 0.0) / max(1.0 - config.blind_rate, 1e-6)),
        locations=draws.uniform((MOST_STUDIES, LEVELS), 0.0, _CATEGORIES),
        moves=jnp.pad(jnp.where(used[:, None], moves, 0.0), ((0, 1), (0, 0))),
        slots=jnp.zeros((shape.slots,), bool),
        pinned=jnp.full((shape.trials, shape.slots), _FREE),
    )


def with_slots(space: Space, earlier: Earlier) -> tuple[Space, Earlier]:
    """Adds the slots of earlier studies to a space, directly after its parameters; it must have room for them."""
    number = jnp.arange(space.kinds.shape[0]) - space.active.sum()
    slots = (number >= 0) & (number < earlier.studies)
    locations = earlier.locations[jnp.clip(number, 0, MOST_STUDIES - 1)]
    both = jnp.where(slots[:, None], locations, space.locations[:, :LEVELS])
    space = space._replace(
        kinds=jnp.where(slots, KIND, space.kinds),
        levels=jnp.where(slots, LEVELS, space.levels),
        locations=space.locations.at[:, :LEVELS].set(both),
    )
    level = number[None, :] == earlier.study[:, None]
    # The centre of the cell of each level.
    return space, earlier._replace(slots=slots, pinned=jnp.where(slots[None, :], 0.25 + 0.5 * level, _FREE))


def at_hand(space: Space, earlier: Earlier | None) -> Space:
    """The space of the current study, in which the slots of earlier studies only have their first level."""
    return space if earlier is None else space._replace(levels=jnp.where(earlier.slots, 1, space.levels))


def own(space: Space, earlier: Earlier | None) -> Space:
    """The space without the slots of earlier studies."""
    if earlier is None:
        return space
    return space._replace(
        kinds=jnp.where(earlier.slots, tokens.NO_SLOT, space.kinds), levels=jnp.where(earlier.slots, 0, space.levels)
    )
