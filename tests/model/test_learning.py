"""A tiny model learns one small batch by heart."""

import numpy as np
import optax
import pytest
from flax import nnx

from optformer.model import build_model

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("layout", ["pooled", "flat"])
def test_overfits_one_batch(models, run, layout):
    batch = run.study(0)
    graph, weights = nnx.split(build_model(models[layout].config, seed=0))
    optimizer = optax.adam(4e-3)
    moments = optimizer.init(weights)

    @run.compiled
    def update(weights, moments, gradient):
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(weights, updates), moments

    losses = []
    for _ in range(200):
        (_, result), gradient = run.gradient(nnx.merge(graph, weights), batch)
        weights, moments = update(weights, moments, gradient)
        losses.append((float(result.policy), float(result.function)))
    assert np.all(np.isfinite(losses))
    # Soft labels have an entropy that no model can go below: ln(s * 999 * sqrt(2 pi e)) = 2.1 nats for objectives.
    assert losses[0][1] > 6.5
    assert losses[-1][1] < 2.6
    assert losses[-1][0] < losses[0][0] - 0.8
