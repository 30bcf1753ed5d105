"""The parts of a T5 1.1 block: RMSNorm, gated feed-forward, attention, relative position buckets.

Notation: B studies, N groups of I positions each (rows), C keys that all rows of a study share, J keys that only
the rows of one group see, d width, H heads, K head width.

Differences from T5 1.1 (Raffel et al. 2020; Shazeer 2020):
- attention divides its scores by sqrt(K), while T5 folds that factor into the initial query weights.  T5 is trained
  with Adafactor, whose steps scale with the weights; this model is trained with AdamW, whose steps do not;
- the residual stream is float32, since bfloat16 would round away the last digits of a value (bins are a thousandth
  wide).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from optformer.model.precision import rounded_product

NEVER = -1e9
"""Score of a masked key, and logit of a token that must not be emitted.  Finite, to avoid NaN."""


BLOCK = "block"
"""Name of the residual stream after a block, for `jax.checkpoint_policies.save_only_these_names`."""

Rng = np.random.Generator | None


def normal(rng: Rng, shape: Sequence[int], std: float) -> nnx.Param[Array]:
    """A float32 parameter with normally distributed values; without a generator zeros, for abstract models.

    The values are drawn on the host.  So a seed gives the same weights on every device, and jax need not compile a
    generator per shape (12 s for the smallest model on a CPU).
    """
    if rng is None:
        return nnx.Param(jnp.zeros(shape, jnp.float32))
    return nnx.Param(jnp.asarray(rng.standard_normal(shape, dtype=np.float32) * np.float32(std)))


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + 1e-6) * scale, in float32 (Zhang and Sennrich 2019): no mean subtraction, no bias."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))

    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        return rms_norm(x.astype(jnp.float32).reshape(-1, x.shape[-1]), self.scale[...]).reshape(x.shape)


@jax.custom_vjp
def rms_norm(x: Float[Array, "row width"], scale: Float[Array, " width"]) -> Float[Array, "row width"]:
    """x / sqrt(mean(x^2) + 1e-6) * scale.

    The custom gradient is r (h - x r^2 mean(h x)), where r = 1 / sqrt(mean(x^2) + 1e-6) and h = g * scale.
    """
    return _rms_norm_forward(x, scale)[0]


def _rms_norm_forward(x: Array, scale: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
    return x * inverse * scale[None], (x, scale, inverse)


def _rms_norm_backward(kept: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, scale, inverse = kept
    scaled = gradient * scale[None]
    share = jnp.mean(scaled * x, axis=-1, keepdims=True)
    return inverse * (scaled - x * (jnp.square(inverse) * share)), jnp.sum(gradient * x * inverse, axis=0)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


class Projection(nnx.Module):
    """x @ kernel over the trailing axes of x, without bias.  The kernel has the shape `inputs + outputs`.

    Args:
      inputs, outputs: shapes of the axes that are contracted and of those that replace them.
      dtype: type of the product; None always uses float32, whatever the config or the trainer says.
      rng: generator of the initial values.
      gain: initial standard deviation times the square root of the number of inputs.
      stacked: whether the first axis of the outputs stacks independent matrices with a common input.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        dtype: jnp.dtype | None,
        rng: Rng,
        gain: float = 1.0,
        stacked: bool = False,
    ):
        self.contracted = len(inputs)
        self.stacked = stacked
        self.dtype = jnp.dtype(jnp.float32) if dtype is None else dtype
        self.may_round = dtype is not None
        self.rounded = False  # see `build.round_products`
        self.kernel = normal(rng, (*inputs, *outputs), gain / math.sqrt(math.prod(inputs)))

    def __call__(self, x: Array) -> Array:
        # One plain matrix product: XLA's CPU backend copies more for a product with several free axes.
        kernel = self.kernel[...].astype(self.dtype)
        leading, outputs = x.shape[: x.ndim - self.contracted], kernel.shape[self.contracted :]
        inputs = math.prod(kernel.shape[: self.contracted])
        rows = x.astype(self.dtype).reshape(math.prod(leading), inputs)
        return self.product(rows, kernel.reshape(inputs, math.prod(outputs))).reshape(*leading, *outputs)

    def product(self, rows: Float[Array, "row input"], kernel: Float[Array, "input output"]) -> Array:
        """rows @ kernel, in this projection's type."""
        return rounded_product(rows, kernel) if self.rounded and self.dtype == jnp.float32 else rows @ kernel


def unstack(x: Array, axis: int) -> list[Array]:
    """The slices along an axis.  Uses `split`, whose gradient is one concatenation and not a padded sum per slice."""
    return [jnp.squeeze(part, axis) for part in jnp.split(x, x.shape[axis], axis=axis)]


class Table(nnx.Module):
    """Embedding table: learned float32 vectors, looked up by index."""

    def __init__(self, rows: int, width: int, *, std: float, rng: Rng):
        self.embedding = normal(rng, (rows, width), std)

    def __call__(self, ids: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        return self.embedding[...][ids]


class GatedFeedForward(nnx.Module):
    """(gelu(x W_gate) * (x W_up)) W_down, with the tanh form of GELU (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int, *, dtype: jnp.dtype, rng: Rng):
        self.up = Projection((width,), (2, hidden), dtype=dtype, rng=rng, stacked=True)
        self.down = Projection((hidden,), (width,), dtype=dtype, rng=rng)

    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        return self.down(gate(self.up(x)))


@jax.custom_vjp
def gate(hidden: Float[Array, "*rows 2 hidden"]) -> Float[Array, "*rows hidden"]:
    """gelu(first half) * second half.

    The custom gradient keeps only `hidden`; the automatic one keeps five arrays of its size.
    """
    first, second = unstack(hidden, axis=-2)
    return jax.nn.gelu(first, approximate=True) * second


def _gate_forward(hidden: Array) -> tuple[Array, Array]:
    return gate(hidden), hidden


def _gate_backward(hidden: Array, gradient: Array) -> tuple[Array]:
    first, second = unstack(hidden, axis=-2)
    c, cubic = math.sqrt(2 / math.pi), 0.044715
    t = jnp.tanh(c * (first + cubic * first**3))
    slope = 0.5 * (1 + t) + 0.5 * first * (1 - t * t) * c * (1 + 3 * cubic * first**2)
    return (jnp.stack([gradient * second * slope, gradient * (0.5 * first * (1 + t))], axis=-2),)


gate.defvjp(_gate_forward, _gate_backward)


Caches = tuple[tuple[Array, Array], ...]
"""Keys and values of each layer, for incremental decoding."""


class Keys(NamedTuple):
    """Keys and values to which rows attend, and the bias of their scores.

    Shared by all rows: key and value [B, C, H, K]; bias broadcastable to [B, H, N, I, C].
    Own keys of a group of rows: key and value [B, N, J, H, K]; bias broadcastable to [B, H, N, I, J].
    The bias is float32 and has `NEVER` where a row must not attend to a key.
    """

    key: Array
    value: Array
    bias: Array


def attend(
    query: Float[Array, "batch group row head width"], shared: Keys | None = None, own: Keys | None = None
) -> Float[Array, "batch group row head width"]:
    """Softmax attention of every row over the shared keys and the keys of its own group together.

    The keys of a prefix are not copied for each of the thousands of candidates that share it.  A row whose keys are all
    masked gets zeros.  Scores and softmax are float32.
    """
    studies, groups, rows, heads, width = query.shape
    # Explicitly transposed to heads first and all rows in one axis.  Otherwise, XLA's CPU backend copies more, which
    # takes a tenth of a training step.
    query = heads_first(query.reshape(studies, groups * rows, heads, width))
    query = query * np.asarray(width**-0.5, query.dtype)  # [B, H, N * I, K]
    scores = []
    if shared is not None:
        score = jnp.einsum("bhrk,bhck->bhrc", query, heads_first(shared.key), preferred_element_type=jnp.float32)
        scores.append(score + rows_bias(shared.bias, groups, rows))
    # The common case of one own key per group is an inner product; a batched product would be slow.
    single = own is not None and own.key.shape[2] == rows == 1
    grouped = (studies, heads, groups, rows, width)
    if own is not None and single:
        own_key, own_value = heads_first(own.key[:, :, 0]), heads_first(own.value[:, :, 0])
        score = jnp.sum(query.astype(jnp.float32) * own_key.astype(jnp.float32), axis=-1, keepdims=True)
        scores.append(score + rows_bias(own.bias, groups, rows))
    elif own is not None:
        own_key, own_value = heads_first(own.key), heads_first(own.value)
        score = jnp.einsum("bhnik,bhnjk->bhnij", query.reshape(grouped), own_key, preferred_element_type=jnp.float32)
        scores.append(score.reshape(studies, heads, groups * rows, -1) + rows_bias(own.bias, groups, rows))
    weights = joint_softmax(scores)
    mixed = jnp.zeros((), jnp.float32)
    if shared is not None:
        weight = weights[0].astype(query.dtype)
        mixed = jnp.einsum("bhrc,bhck->bhrk", weight, heads_first(shared.value), preferred_element_type=jnp.float32)
    if own is not None and single:
        mixed = mixed + weights[-1] * own_value
    elif own is not None:
        weight = weights[-1].astype(query.dtype).reshape(*grouped[:4], -1)
        value = jnp.einsum("bhnij,bhnjk->bhnik", weight, own_value, preferred_element_type=jnp.float32)
        mixed = mixed + value.reshape(query.shape)
    mixed = jnp.transpose(mixed.astype(query.dtype), (0, 2, 1, 3))
    return mixed.reshape(studies, groups, rows, heads, width)


def rows_bias(
    bias: Float[Array, "batch head group row key"], groups: int, rows: int
) -> Float[Array, "batch head rows key"]:
    """Merges the axes of groups and rows; the result has size 1 if both have."""
    batch, heads, *own, keys = bias.shape
    if own != [1, 1]:
        bias = jnp.broadcast_to(bias, (batch, heads, groups, rows, keys))
    return bias.reshape(batch, heads, -1, keys)


def heads_first(x: Float[Array, "batch *rows head width"]) -> Float[Array, "batch head *rows width"]:
    return jnp.moveaxis(x, -2, 1)


@jax.custom_vjp
def joint_softmax(scores: list[Float[Array, "*rows key"]]) -> list[Float[Array, "*rows key"]]:
    """Softmax over the last axes of all parts together; zeros if every score is `NEVER`.

    The custom gradient y * (g - sum(g * y)) takes a third of the element-wise work of the automatic one.
    """
    top = jnp.max(scores[0], axis=-1, keepdims=True)
    for score in scores[1:]:
        top = jnp.maximum(top, jnp.max(score, axis=-1, keepdims=True))
    # The maximum is clipped far above NEVER, so that the exponentials of a row without keys are 0.
    masses = [jnp.exp(score - jnp.maximum(top, NEVER / 2)) for score in scores]
    total = sum(jnp.sum(mass, axis=-1, keepdims=True) for mass in masses)
    return [mass / jnp.where(total > 0, total, 1.0) for mass in masses]


def _softmax_forward(scores: list[Array]) -> tuple[list[Array], list[Array]]:
    weights = joint_softmax(scores)
    return weights, weights


def _softmax_backward(weights: list[Array], gradients: list[Array]) -> tuple[list[Array]]:
    parts = zip(weights, gradients, strict=True)
    shift = sum(jnp.sum(weight * gradient, axis=-1, keepdims=True) for weight, gradient in parts)
    return ([weight * (gradient - shift) for weight, gradient in zip(weights, gradients, strict=True)],)


joint_softmax.defvjp(_softmax_forward, _softmax_backward)


class Block(nnx.Module):
    """One pre-norm block: self-attention, cross-attention if `cross`, gated feed-forward.

    The keys that a row attends to differ between layouts and between training and decoding.  So a block is applied in
    two steps: `project` returns query, key and value of the rows; the caller computes the attention; `finish` takes its
    result.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        feed_forward: int,
        *,
        cross: bool,
        dtype: jnp.dtype,
        rng: Rng,
    ):
        head = (heads, head_width)
        self.self_norm = RMSNorm(width)
        self.self_qkv = Projection((width,), (3, *head), dtype=dtype, rng=rng, stacked=True)
        self.self_out = Projection(head, (width,), dtype=dtype, rng=rng)
        self.cross = cross
        if cross:
            self.cross_norm = RMSNorm(width)
            self.cross_query = Projection((width,), head, dtype=dtype, rng=rng)
            self.cross_kv = Projection((width,), (2, *head), dtype=dtype, rng=rng, stacked=True)
            self.cross_out = Projection(head, (width,), dtype=dtype, rng=rng)
        self.feed_norm = RMSNorm(width)
        self.feed_forward = GatedFeedForward(width, feed_forward, dtype=dtype, rng=rng)

    def project(self, rows: Float[Array, "batch group row width"]) -> tuple[Array, Array, Array]:
        """Query, key and value [B, N, I, H, K] of the rows."""
        query, key, value = unstack(self.self_qkv(self.self_norm(rows)), axis=3)
        return query, key, value

    def memory(self, text: Float[Array, "batch text width"], bias: Array) -> Keys:
        """Keys and values of the metadata for this block's cross-attention."""
        key, value = unstack(self.cross_kv(text), axis=2)
        return Keys(key, value, bias)

    def finish(
        self, rows: Float[Array, "batch group row width"], attended: Array, memory: Keys | None = None
    ) -> Float[Array, "batch group row width"]:
        rows = rows + self.self_out(attended)
        if self.cross:
            rows = rows + self.cross_out(attend(self.cross_query(self.cross_norm(rows)), shared=memory))
        # The one activation per block that a trainer with recomputation keeps.
        return checkpoint_name(rows + self.feed_forward(self.feed_norm(rows)), BLOCK)


def distance_buckets(buckets: int, max_distance: int) -> np.ndarray:
    """T5's buckets: int32 [max_distance + 1], the bucket of each distance 0 ... max_distance and beyond.

    The first half of the buckets are exact distances, the others widen logarithmically up to `max_distance`.
    The table is computed on the host, so that all compiled functions use the same rounding of the logarithm.
    """
    exact = buckets // 2
    distance = np.arange(max_distance + 1)
    with np.errstate(divide="ignore"):
        spread = np.log(distance / exact) / math.log(max_distance / exact) * (buckets - exact)
    far = np.minimum(exact + np.floor(np.maximum(spread, 0)).astype(np.int32), buckets - 1)
    return np.where(distance < exact, distance, far).astype(np.int32)


class RelativeBias(nnx.Module):
    """One learned number per head and distance bucket or special relation; shared by all layers.

    Rows 0 ... buckets - 1 are distance buckets; `special` further rows follow, for relations other than distances.
    """

    def __init__(self, buckets: int, max_distance: int, heads: int, *, special: int, rng: Rng):
        self.buckets = buckets
        self.max_distance = max_distance
        self.bias = normal(rng, (buckets + special, heads), 0.1)

    def one_way(self, distance: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
        """Row of a distance >= 0."""
        return jnp.asarray(distance_buckets(self.buckets, self.max_distance))[jnp.clip(distance, 0, self.max_distance)]

    def two_way(self, offset: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
        """Row of a signed offset (key minus query): half of the buckets for each direction."""
        table = jnp.asarray(distance_buckets(self.buckets // 2, self.max_distance))
        return table[jnp.minimum(jnp.abs(offset), self.max_distance)] + jnp.where(offset > 0, self.buckets // 2, 0)

    def __call__(self, rows: Int[Array, "*shape"]) -> Float[Array, "*shape head"]:
        return self.bias[...][rows]
