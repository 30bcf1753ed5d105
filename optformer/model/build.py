"""Builds a model from its config."""

import math

import jax
import numpy as np
from flax import nnx

from optformer.model.config import ModelConfig
from optformer.model.flat import FlatModel
from optformer.model.layers import Projection, Rng
from optformer.model.pooled import PooledModel

Model = PooledModel | FlatModel


def build_model(config: ModelConfig, seed: int = 0) -> Model:
    """A model with random initial weights, which depend on the seed but not on the device."""
    return _construct(config, np.random.default_rng(seed))


def abstract_model(config: ModelConfig) -> Model:
    """A model with shapes instead of weights: takes no memory and draws no random numbers."""
    return nnx.eval_shape(lambda: _construct(config, None))


def round_products(model: Model, rounded: bool) -> None:
    """Sets whether the projections of a float32 model use `rounded_product`, except those that must stay float32."""

    def may_round(_: object, node: object) -> bool:
        return isinstance(node, Projection) and node.may_round

    model.set_attributes(may_round, rounded=rounded)


def count_parameters(model: Model) -> int:
    """Number of weights of a real or an abstract model."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _construct(config: ModelConfig, rng: Rng) -> Model:
    return PooledModel(config, rng=rng) if config.layout == "pooled" else FlatModel(config, rng=rng)
