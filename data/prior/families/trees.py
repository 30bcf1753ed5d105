"""Sums of random trees with axis-aligned splits: piecewise constant, with plateaus of all sizes.

Notation as in `family.py`; M trees of depth L, whose inner nodes are numbered as in a heap: children of n are 2 n and
2 n + 1, the root is 1.  A category splits by its coordinate, which is random: into two random groups.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families.family import Domain, Family

_TREES = 10
_DEPTH = 4


class Trees(NamedTuple):
    """One sum of trees.  Node 0 is unused."""

    slots: Int[Array, "tree node"]
    thresholds: Float[Array, "tree node"]
    leaves: Float[Array, "tree leaf"]


def sample(draws: Draws, domain: Domain, config: PriorConfig) -> Trees:
    """Between one tree with a few plateaus and `_TREES` of them; in half of the functions the trees are oblivious."""
    nodes = 2**_DEPTH
    slots = draws.choice(domain.importance, (_TREES, nodes))
    thresholds = draws.uniform((_TREES, nodes), 0.03, 0.97)
    # Oblivious: all nodes of a level share their split.
    level = jnp.asarray([node if node < 1 else 1 << (node.bit_length() - 1) for node in range(nodes)])
    node = jnp.where(draws.bernoulli(0.5), level, jnp.arange(nodes))
    slots, thresholds = slots[:, node], thresholds[:, node]
    thresholds = thresholds * jnp.where(domain.categorical, 2.0, 1.0)[slots]

    leaves = draws.normal((_TREES, nodes))
    # The root of the first tree splits for certain, whatever its leaves are.
    side = jnp.where(jnp.arange(nodes) < nodes // 2, -0.5, 0.5)[None, :] * (jnp.arange(_TREES) == 0)[:, None]
    count = jnp.floor(draws.log_uniform(1.0, _TREES + 1.0))
    fading = jnp.power(draws.uniform((), 0.6, 1.0), jnp.arange(_TREES))
    weight = jnp.where(jnp.arange(_TREES) < count, fading, 0.0)
    return Trees(slots, thresholds, (leaves + side) * weight[:, None])


def evaluate(trees: Trees, u: Float[Array, " slot"]) -> Float[Array, ""]:
    """The sum of the leaves that the point falls into."""
    tree = jnp.arange(_TREES)
    node = jnp.ones((_TREES,), jnp.int32)
    for _ in range(_DEPTH):
        above = u[trees.slots[tree, node]] > trees.thresholds[tree, node]
        node = 2 * node + above
    return trees.leaves[tree, node - 2**_DEPTH].sum()


FAMILY = Family(sample, evaluate)
