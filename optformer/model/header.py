"""Attention of the policy to the header of the metadata, which names the optimizer to imitate.

The decoder over trials has only one summary of the header among its keys, and its state mostly reflects the trials.  If
the trials come from another optimizer than the named one, the state follows the trials.  So the slot decoder also reads
the header directly.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from optformer.model.config import ModelConfig
from optformer.model.layers import NEVER, Projection, RMSNorm, Rng, joint_softmax, normal, unstack
from optformer.serialization.batch import StudyBatch


class HeaderReading(nnx.Module):
    """Attention of learned queries over the header's encoded tokens.

    The last weights are zero-initialized, so adding this module to a trained model does not change its outputs.
    """

    def __init__(self, config: ModelConfig, *, rng: Rng):
        head = (config.heads, config.policy_width // config.policy_heads)
        self.norm = RMSNorm(config.width)
        self.query = normal(rng, head, 1.0)
        self.of_text = Projection((config.width,), (2, *head), dtype=config.compute_dtype, rng=rng, stacked=True)
        self.out = Projection(head, (config.policy_width,), dtype=config.compute_dtype, rng=rng, gain=0.0)

    def __call__(self, encoded: Float[Array, "batch text width"], batch: StudyBatch) -> Float[Array, "batch policy"]:
        """A vector for each study, which is added to every step of the slot decoder; zeros without a header."""
        key, value = unstack(self.of_text(self.norm(encoded)), axis=2)
        score = jnp.einsum("hc,bshc->bhs", self.query[...], key, preferred_element_type=jnp.float32)
        header = jnp.asarray(batch.text_segments) == 0
        score = jnp.where(header[:, None], score * key.shape[-1] ** -0.5, NEVER)
        (weights,) = joint_softmax([score])
        mixed = jnp.einsum("bhs,bshc->bhc", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
        return self.out(mixed).astype(jnp.float32)
