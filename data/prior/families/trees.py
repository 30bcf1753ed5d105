"""Sums of random trees with axis-aligned splits: piecewise constant, with plateaus of all sizes.

Notation as in `family.py`; M trees of depth L, whose inner nodes are numbered as in a heap: children of n are 2 n and
2 n + 1, the root is 1.  A category splits by its coordinate, which is random: into two random groups.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families.family import Domain, Family

_TREES = 10
_DEPTH = 4
_LEAVES = 2**_DEPTH


def _paths() -> np.ndarray:
    """[node, leaf]: 1 if the path to the leaf takes the upper branch of the node, -1 the lower, 0 if not on it."""
    paths = np.zeros((_LEAVES, _LEAVES), np.float32)
    for leaf in range(_LEAVES):
        child = _LEAVES + leaf
        while child > 1:
            paths[child // 2, leaf] = 1.0 if child % 2 else -1.0
            child //= 2
    return paths


_PATHS = _paths()
_LEVEL = np.array([0] + [1 << (node.bit_length() - 1) for node in range(1, _LEAVES)])
"""The first node of the level of each node."""


class Trees(NamedTuple):
    """One sum of trees.  Node 0 is unused; `slots` is a one-hot vector of the slot that each node splits."""

    slots: Float[Array, "slot tree_node"]
    thresholds: Float[Array, " tree_node"]
    leaves: Float[Array, "tree leaf"]


def sample(draws: Draws, domain: Domain, config: PriorConfig) -> Trees:
    """One to `_TREES` trees; in half of the functions, the trees are oblivious."""
    slots = draws.choice(domain.importance, (_TREES, _LEAVES))
    thresholds = draws.uniform((_TREES, _LEAVES), 0.03, 0.97)
    # Oblivious: all nodes of a level share their split.
    oblivious = draws.bernoulli(0.5)
    slots = jnp.where(oblivious, slots[:, _LEVEL], slots).reshape(-1)
    thresholds = jnp.where(oblivious, thresholds[:, _LEVEL], thresholds).reshape(-1)
    chosen = jnp.arange(domain.importance.shape[0])[:, None] == slots[None, :]

    leaves = draws.normal((_TREES, _LEAVES))
    # The two halves of the first tree get different means, so that the function is not constant.
    side = jnp.where(jnp.arange(_LEAVES) < _LEAVES // 2, -0.5, 0.5)[None, :] * (jnp.arange(_TREES) == 0)[:, None]
    count = jnp.floor(draws.log_uniform(1.0, _TREES + 1.0))
    fading = jnp.power(draws.uniform((), 0.6, 1.0), jnp.arange(_TREES))
    weight = jnp.where(jnp.arange(_TREES) < count, fading, 0.0)
    return Trees(
        slots=chosen.astype(jnp.float32),
        thresholds=thresholds * (1.0 + (chosen & domain.categorical[:, None]).any(0)),
        leaves=(leaves + side) * weight[:, None],
    )


def evaluate(trees: Trees, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """The sum of the leaves into which the point falls: those whose whole path it takes."""
    turns = jnp.where(u @ trees.slots > trees.thresholds, 1.0, -1.0).reshape(_TREES, _LEAVES)
    return jnp.where(turns @ _PATHS > _DEPTH - 0.5, trees.leaves, 0.0).sum()


FAMILY = Family(sample, evaluate)
