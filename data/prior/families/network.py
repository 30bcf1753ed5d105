"""Random neural networks: functions of a few directions, with kinks, saturation, and interactions of all orders.

Notation as in `family.py`; H units per hidden layer, phi an activation drawn once per function.

  h_1 = phi(W_1 (u - u_0)),   h_{l+1} = phi(W_{l+1} h_l + b_{l+1}),   f = w . h_L,   L = 1, 2 or 3.

The kinks of the first layer go through random points u_0 of the cube, one per unit.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.families.family import Domain, Family, pick, sample_center, wave

_UNITS = 24
_HIDDEN_LAYERS = 2
"""Hidden layers after the first one."""


def _activate(index: Int[Array, ""], h: Float[Array, " unit"]) -> Float[Array, " unit"]:
    return pick(
        index,
        [
            jnp.tanh(h),
            jnp.maximum(h, 0.0),
            jnp.where(h > 0.0, h, jnp.exp(jnp.minimum(h, 0.0)) - 1.0),
            wave(0.25 * h),
            jnp.exp(-0.5 * jnp.square(h)),
            jnp.where(h > 0.0, 1.0, -1.0),
        ],
    )


_ACTIVATION_WEIGHTS = [0.3, 0.2, 0.15, 0.15, 0.15, 0.05]
"""tanh, ReLU, ELU, cosine, Gaussian, step."""


class Network(NamedTuple):
    """One network; the readout follows hidden layer `depth`, and later ones are unused."""

    activation: Int[Array, ""]
    depth: Int[Array, ""]
    first: Float[Array, "slot unit"]
    first_bias: Float[Array, " unit"]
    hidden: Float[Array, "layer unit unit"]
    hidden_bias: Float[Array, "layer unit"]
    readout: Float[Array, " unit"]


def sample(draws: Draws, domain: Domain, config: PriorConfig) -> Network:
    """Draws depth, activation and weight scales."""
    slots = domain.relevant.shape[0]
    # Half of the units depend on few parameters.
    sparse = draws.bernoulli(draws.uniform((1, _UNITS), 0.3, 1.7), (slots, _UNITS))
    weights = draws.normal((slots, _UNITS)) * sparse * domain.importance[:, None]
    weights *= draws.log_normal(6.0, 0.6) / jnp.sqrt(domain.dimension)
    kinks = sample_center(draws, domain, _UNITS)
    scale = draws.log_normal(1.5, 0.4, (_HIDDEN_LAYERS, 1, 1)) / jnp.sqrt(_UNITS)
    return Network(
        activation=draws.choice(_ACTIVATION_WEIGHTS),
        depth=draws.integer(1, _HIDDEN_LAYERS + 2),
        first=weights,
        first_bias=-(kinks.T * weights).sum(0),
        hidden=scale * draws.normal((_HIDDEN_LAYERS, _UNITS, _UNITS)),
        hidden_bias=0.5 * draws.normal((_HIDDEN_LAYERS, _UNITS)),
        # Few units with large weights make single features visible; many make a Gaussian process.
        readout=draws.normal((_UNITS,)) * draws.log_normal(1.0, 0.8, (_UNITS,)) / jnp.sqrt(_UNITS),
    )


def evaluate(network: Network, u: Float[Array, " slot"], v: Float[Array, " slot"]) -> Float[Array, ""]:
    """The network's output."""
    h = _activate(network.activation, u @ network.first + network.first_bias)
    for layer in range(_HIDDEN_LAYERS):
        deeper = _activate(network.activation, h @ network.hidden[layer] + network.hidden_bias[layer])
        h = jnp.where(network.depth > layer + 1, deeper, h)
    return h @ network.readout


FAMILY = Family(sample, evaluate)
