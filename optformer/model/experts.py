"""Gaussian-process experts of the function head: regression within one study, with predicted hyperparameters.

A decoder trained on many studies knows what objectives usually look like, but learns little from the trials of the
current study, at which Gaussian processes are good.  So several of them complement the decoder: their predictions
correct its last state, and their normal distributions are mixed into its histogram (`mixture.py`).

Notation: B studies, T trials, D slots, H experts, R rows (queries or candidates), N candidates, d width, F features of
a prediction, n the number of known trials.  y = (z - CENTER) / SPREAD is the standardized objective, z its bin scaled
to [0, 1].

Hyperparameters depend only on the known trials of the prefix, and not on their order.  A network predicts them from
statistics of each slot: the mean squared difference of objectives by distance of values (an empirical variogram).  A
few learned steps along the gradient of the log density of the known trials then refine them.  `gaussian_process.py` has
the regression itself, and shows why no trial sees itself or a later one.

Distance of two values in a slot.  All three parts are squared distances between points of a Euclidean space; so is
their sum, and kernels of it are positive semi-definite:
  - ordered values: by their places from 0 to 1; an absent value (inactive or missing) counts as the middle;
  - categories a and b: 1 - s cos(e_a, e_b), that is (1 - s) |onehot_a - onehot_b|^2 / 2 + s |e_a - e_b|^2 / 2 with unit
    vectors e that are learned and a share s that begins near 0; an absent one is 1 / 2 from all;
  - if one of the two is absent and the other is not, a learned distance is added.

Hyperparameters depend on the whole prefix, so a query inside the prefix sees its own objective through them.  Its loss
weight must be 0, in every study, order-free or not.
"""

import math
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from optformer.model.config import ModelConfig
from optformer.model.embedding import ordered_kind
from optformer.model.gaussian_process import (
    Hyperparameters,
    Known,
    Points,
    Prediction,
    Smoothness,
    fit,
    full_precision,
    log_density_slopes,
    predict,
)
from optformer.model.interface import SlotContext
from optformer.model.layers import RMSNorm, Rng, gate, normal, unstack
from optformer.model.mixture import BIN, Mixture
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch

CENTER: Final = 0.4
SPREAD: Final = 0.25

STARTS: Final = ((0.2, 3), (0.5, 5), (1.0, 5), (2.0, 1))
"""Per expert: initial length scale (in studies with one slot), and twice the order of its kernel."""

EDGES: Final = (0.1, 0.25, 0.5)
"""Edges of the distance bins of the variogram."""

REFINEMENTS: Final = 3
"""Number of gradient steps on the hyperparameters."""

HIDDEN: Final = 64
"""Hidden width of the networks that predict hyperparameters and mixture weights."""

SLOT_FACTS: Final = 2 * (len(EDGES) + 1) + 4
STUDY_FACTS: Final = 3
"""Columns of `Facts`."""

LEAST_NOISE: Final = 1e-5
"""Smallest variance of the noise of y: its standard deviation is below a bin's width, for deterministic objectives."""

OWN_SHARE: Final = 0.9
"""Initial weight of the decoder's own histogram in the mixture."""


class Facts(NamedTuple):
    """Statistics of the known trials, from which hyperparameters are predicted.  No gradient goes through them.

    Attributes:
      known: [B], number of known trials.
      center, variance: [B], mean and variance of their y, shrunk towards typical values.
      slots: [B, D, SLOT_FACTS], statistics of each slot.
      studies: [B, STUDY_FACTS], statistics of the study.
    """

    known: Array
    center: Array
    variance: Array
    slots: Array
    studies: Array


class Affine(nnx.Module):
    """x @ kernel + bias over the last axis, float32."""

    def __init__(self, inputs: int, outputs: int, *, rng: Rng, gain: float = 1.0, bias: float = 0.0):
        self.kernel = normal(rng, (inputs, outputs), gain / math.sqrt(inputs))
        self.bias = nnx.Param(jnp.full(outputs, bias, jnp.float32))

    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        rows = x.astype(jnp.float32).reshape(-1, x.shape[-1])
        return (rows @ self.kernel[...] + self.bias[...][None]).reshape(*x.shape[:-1], -1)


class Experts(nnx.Module):
    """Gaussian processes over the slots of a study, and how the function head uses their predictions."""

    def __init__(self, config: ModelConfig, *, rng: Rng):
        count, width = config.experts, config.width
        starts = [STARTS[index % len(STARTS)] for index in range(count)]
        self.smoothness: Smoothness = tuple(order for _, order in starts)
        self.distances = SlotDistances(config, rng=rng)
        self.guess = Guess(width, tuple(length for length, _ in starts), rng=rng)
        self.refinements = nnx.List(Refinement(count, rng=rng) for _ in range(REFINEMENTS))
        features, hidden = 4 * count + 1, 3 * width // 2
        self.norm = RMSNorm(width)
        self.correction_up = Affine(width + features, 2 * hidden, rng=rng)
        # Initially, the decoder's state is not corrected, and its own histogram has nearly all of the mixture.
        self.correction_down = Affine(hidden, width, rng=rng, gain=0.0)
        self.share_hidden = Affine(width + features, HIDDEN, rng=rng)
        self.shares = Affine(HIDDEN, count + 1, rng=rng, gain=0.0)

    @full_precision
    def read(
        self, batch: StudyBatch, values: Float[Array, "batch trial slot width"], slots: SlotContext
    ) -> tuple[Known, Prediction]:
        """Fits the processes: the known trials, from which candidates are predicted, and the prediction of each trial
        from those before it.

        Hyperparameters depend on the trials of the prefix.
        """
        x, tokens_of_y = jnp.asarray(batch.x_tokens), jnp.asarray(batch.y_tokens)
        present = jnp.asarray(batch.trial_mask)
        # In a study without a known trial, every trial is predicted as if it were the first one.
        observed = (tokens_of_y < tokens.NUM_LEVELS) & present & (jnp.asarray(batch.prefix_length) > 0)[:, None]
        y = jnp.where(observed, (tokens_of_y * BIN - CENTER) / SPREAD, 0.0)
        prefix = jnp.arange(y.shape[1])[None] < jnp.asarray(batch.prefix_length)[:, None]
        known = observed & prefix
        points = self.distances.points(x, values, slots)
        squared = self.distances(points, points, slots)
        hyperparameters = self.hyperparameters(squared, y, known, slots)
        fitted, prediction = fit(squared, y, present, observed, hyperparameters, self.smoothness)
        return Known(points, fitted), prediction

    @full_precision
    def predict(
        self,
        known: Known,
        x: Int[Array, "batch candidate slot"],
        values: Float[Array, "batch candidate slot width"],
        slots: SlotContext,
    ) -> Prediction:
        """Predicts each candidate as the next trial."""
        squared = self.distances(self.distances.points(x, values, slots), known.points, slots)
        return predict(known.fitted, squared, self.smoothness)

    def hyperparameters(
        self,
        squared: Float[Array, "batch slot trial trial"],
        y: Float[Array, "batch trial"],
        known: Bool[Array, "batch trial"],
        slots: SlotContext,
    ) -> Hyperparameters:
        """Hyperparameters of all processes, from the known trials of the prefix."""
        facts = prefix_facts(jax.lax.stop_gradient(squared), y, known, slots)
        raw, of_slots, of_study = self.guess(facts, slots)
        for refinement in self.refinements:
            here = jax.lax.stop_gradient(self.guess.bounded(raw, facts, slots))
            slopes = log_density_slopes(jax.lax.stop_gradient(squared), y, known, here, self.smoothness)
            slopes = slopes._replace(mean=slopes.mean * jnp.sqrt(facts.variance)[:, None])
            raw = refinement(raw, jax.lax.stop_gradient(slopes), of_slots, of_study, facts)
        return self.guess.bounded(raw, facts, slots)

    def corrected(
        self, rows: Float[Array, "batch row width"], prediction: Prediction
    ) -> Float[Array, "batch row width"]:
        """The decoder's states, plus a correction from the experts' predictions."""
        joined = jnp.concatenate([self.norm(rows), prediction_features(prediction)], axis=-1)
        up = self.correction_up(joined)
        return rows + self.correction_down(gate(up.reshape(*up.shape[:-1], 2, -1)))

    def mixture(
        self, logits: Float[Array, "batch row output"], rows: Float[Array, "batch row width"], prediction: Prediction
    ) -> Mixture:
        """The decoder's histogram mixed with the experts' distributions; the decoder's states determine the weights."""
        joined = jnp.concatenate([self.norm(rows), prediction_features(prediction)], axis=-1)
        scores = self.shares(jax.nn.gelu(self.share_hidden(joined)))
        others = math.log((1 - OWN_SHARE) / (scores.shape[-1] - 1))
        start = np.asarray([math.log(OWN_SHARE)] + [others] * (scores.shape[-1] - 1), np.float32)
        return Mixture(
            logits=logits,
            log_shares=jax.nn.log_softmax(scores + start[None, None], axis=-1),
            mean=jnp.clip(prediction.mean * SPREAD + CENTER, 0.0, 1.0),
            deviation=jnp.maximum(jnp.sqrt(prediction.variance) * SPREAD, BIN),
        )


class SlotDistances(nnx.Module):
    """Squared distances of values, slot by slot; see the docstring of this module."""

    CATEGORY_WIDTH: Final = 8

    def __init__(self, config: ModelConfig, *, rng: Rng):
        self.category = Affine(config.slot_width, self.CATEGORY_WIDTH, rng=rng)
        self.similarity = Affine(config.width, 1, rng=rng, gain=0.1, bias=-3.0)
        self.absence = Affine(config.width, 1, rng=rng, gain=0.1)

    def points(
        self, x: Int[Array, "batch row slot"], values: Float[Array, "batch row slot width"], slots: SlotContext
    ) -> Points:
        """Converts configurations and the embeddings of their values to points."""
        vectors = self.category(values)
        vectors = vectors * jax.lax.rsqrt(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True) + 1e-6)
        valued = (x < tokens.NUM_LEVELS) & (slots.kinds == tokens.CATEGORICAL)[:, None]
        return Points(x, jnp.where(valued[..., None], vectors, 0.0))

    def __call__(self, a: Points, b: Points, slots: SlotContext) -> Float[Array, "batch slot row trial"]:
        levels, kinds = slots.levels[..., None], slots.kinds[..., None]
        ordered = ordered_kind(kinds)
        token_a, token_b = jnp.swapaxes(a.tokens, 1, 2)[..., None], jnp.swapaxes(b.tokens, 1, 2)[:, :, None]
        valued_a, valued_b = token_a < tokens.NUM_LEVELS, token_b < tokens.NUM_LEVELS

        def place(token: Array, valued: Array) -> Array:
            z = token / jnp.maximum(levels - 1, 1)[..., None]
            return jnp.where(ordered[..., None] & valued, z, 0.5)

        of_order = jnp.square(place(token_a, valued_a) - place(token_b, valued_b))
        share = jax.nn.sigmoid(self.similarity(slots.descriptor))[..., None]
        unlike = 1.0 - share * jnp.einsum("brsk,btsk->bsrt", a.categories, b.categories)
        of_category = jnp.where(token_a == token_b, 0.0, unlike)
        one_absent = valued_a != valued_b
        of_category = jnp.where(valued_a & valued_b, of_category, jnp.where(one_absent, 0.5, 0.0))
        away = jax.nn.softplus(self.absence(slots.descriptor))[..., None]
        return jnp.where(ordered[..., None], of_order, of_category) + jnp.where(one_absent, away, 0.0)


class Guess(nnx.Module):
    """Predicts hyperparameters from statistics of the known trials.

    The network outputs unbounded numbers: logarithms of weights, amplitude and noise, and the mean, all relative to
    typical values for the expert and the prefix.
    """

    def __init__(self, width: int, lengths: tuple[float, ...], *, rng: Rng):
        count = len(lengths)
        self.lengths = lengths
        self.slot_in = Affine(width + SLOT_FACTS, HIDDEN, rng=rng)
        self.slot_hidden = Affine(2 * HIDDEN + STUDY_FACTS, HIDDEN, rng=rng)
        self.weights = Affine(HIDDEN, count, rng=rng, gain=0.01)
        self.study_hidden = Affine(2 * HIDDEN + STUDY_FACTS, HIDDEN, rng=rng)
        self.study_out = Affine(HIDDEN, 3 * count, rng=rng, gain=0.01)

    def __call__(self, facts: Facts, slots: SlotContext) -> tuple[Hyperparameters, Array, Array]:
        """Unbounded hyperparameters, and the hidden states of slots [B, D, HIDDEN] and of studies [B, HIDDEN]."""
        mask = slots.mask[..., None]
        hidden = jax.nn.gelu(self.slot_in(jnp.concatenate([slots.descriptor, facts.slots], axis=-1)))
        hidden = jnp.where(mask, hidden, 0.0)
        mean = hidden.sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)
        top = jnp.where(mask, hidden, -1.0).max(axis=1)
        of_study = jax.nn.gelu(self.study_hidden(jnp.concatenate([mean, top, facts.studies], axis=-1)))
        shared = jnp.concatenate([mean, facts.studies], axis=-1)[:, None]
        shared = jnp.broadcast_to(shared, (*hidden.shape[:2], shared.shape[-1]))
        of_slots = jax.nn.gelu(self.slot_hidden(jnp.concatenate([hidden, shared], axis=-1)))
        weights = jnp.swapaxes(self.weights(of_slots), 1, 2)
        return Hyperparameters(weights, *jnp.split(self.study_out(of_study), 3, axis=-1)), of_slots, of_study

    def bounded(self, raw: Hyperparameters, facts: Facts, slots: SlotContext) -> Hyperparameters:
        """Maps unbounded hyperparameters to bounded ones; weights of padding are 0."""
        variance = facts.variance[:, None]
        lengths = np.asarray(self.lengths, np.float32)[None, :, None]
        slot_count = jnp.maximum(slots.mask.sum(axis=-1), 1)[:, None, None]
        weights = jnp.exp(_within(raw.weights, 7.0)) / (jnp.square(lengths) * slot_count)
        return Hyperparameters(
            weights=jnp.where(slots.mask[:, None], weights, 0.0),
            amplitude=variance * jnp.exp(_within(raw.amplitude, 3.0)),
            noise=variance * jnp.exp(_within(raw.noise, 5.0) - 4.0) + LEAST_NOISE,
            mean=facts.center[:, None] + jnp.sqrt(variance) * _within(raw.mean, 3.0),
        )


class Refinement(nnx.Module):
    """A learned step on the hyperparameters, given the gradient of the log density of the known trials."""

    def __init__(self, count: int, *, rng: Rng):
        hidden = HIDDEN // 2
        self.sizes = nnx.Param(jnp.asarray([0.5, 0.2, 0.3, 0.2], jnp.float32))
        self.slot_hidden = Affine(HIDDEN + 4, hidden, rng=rng)
        self.slot_out = Affine(hidden, 1, rng=rng, gain=0.0)
        self.study_hidden = Affine(HIDDEN + 9 * count + 1, hidden, rng=rng)
        self.study_out = Affine(hidden, 3 * count, rng=rng, gain=0.0)

    def __call__(
        self,
        raw: Hyperparameters,
        slopes: Hyperparameters,
        of_slots: Float[Array, "batch slot hidden"],
        of_study: Float[Array, "batch hidden"],
        facts: Facts,
    ) -> Hyperparameters:
        """The next unbounded hyperparameters; `slopes` are the derivatives of the log density by each of them."""
        trials = facts.known[:, None] + 1.0
        per_trial = slopes.weights / trials[..., None]
        per_root = slopes.weights / jnp.sqrt(trials)[..., None]
        columns = [_squash(slopes.weights), _squash(per_root), per_trial, raw.weights / 3]
        seen = jnp.clip(jnp.stack(columns, axis=-1), -5.0, 5.0)  # [B, H, D, 4]
        wide = jnp.broadcast_to(of_slots[:, None], (*seen.shape[:-1], of_slots.shape[-1]))
        of_weights = self.slot_out(jax.nn.gelu(self.slot_hidden(jnp.concatenate([wide, seen], axis=-1))))[..., 0]
        flat = jnp.concatenate(slopes[1:], axis=-1)
        of_study = jnp.concatenate(
            [of_study, _squash(flat), jnp.clip(flat / jnp.sqrt(trials), -5.0, 5.0), *raw[1:], jnp.log(trials) / 2],
            axis=-1,
        )
        of_others = self.study_out(jax.nn.gelu(self.study_hidden(of_study)))
        learned = (of_weights, *jnp.split(of_others, 3, axis=-1))
        plain = [size * _squash(slope) for size, slope in zip(unstack(self.sizes[...], axis=0), slopes, strict=True)]
        return Hyperparameters(*(before + step + more for before, step, more in zip(raw, plain, learned, strict=True)))


@full_precision
def prefix_facts(
    squared: Float[Array, "batch slot trial trial"],
    y: Float[Array, "batch trial"],
    known: Bool[Array, "batch trial"],
    slots: SlotContext,
) -> Facts:
    """Statistics of the known trials and of the slots; independent of the order of trials.

    For each slot and distance bin: half of the mean squared difference of y relative to the variance, and the number of
    pairs of trials at that distance.
    """
    count = known.sum(axis=-1).astype(jnp.float32)
    center = (jnp.where(known, y, 0.0).sum(axis=-1) - 0.3) / (count + 1)
    variance = (jnp.where(known, jnp.square(y - center[:, None]), 0.0).sum(axis=-1) + 0.8) / (count + 1)
    pair = (known[:, :, None] & known[:, None, :] & np.tri(y.shape[1], k=-1, dtype=bool)[None]).astype(jnp.float32)
    difference = pair * jnp.square(y[:, :, None] - y[:, None, :]) / (2 * variance[:, None, None])
    both = jnp.stack([difference, pair], axis=1)
    sums = [jnp.einsum("bkij,bsij->kbs", both, (squared < edge**2).astype(jnp.float32)) for edge in EDGES]
    everywhere = jnp.broadcast_to(both.sum(axis=(-2, -1)).T[..., None], sums[0].shape)
    columns = []
    for nearer, within in zip([jnp.zeros_like(everywhere), *sums], [*sums, everywhere], strict=True):
        total, number = within - nearer
        columns += [jnp.log((total + 3.0) / (number + 3.0)), jnp.log1p(number) / 4 - 1.0]
    slot_count = jnp.log(jnp.maximum(slots.mask.sum(axis=-1), 1))
    log_known = jnp.log1p(count) / 2 - 1.0
    of_all = [jnp.broadcast_to(value[:, None], slots.kinds.shape) for value in (log_known, slot_count)]
    ordered = ordered_kind(slots.kinds).astype(jnp.float32)
    of_slots = jnp.stack([*columns, ordered, jnp.log(jnp.maximum(slots.levels, 1)) / 4, *of_all], axis=-1)
    return Facts(count, center, variance, of_slots, jnp.stack([log_known, slot_count, jnp.log(variance)], axis=-1))


def prediction_features(prediction: Prediction) -> Float[Array, "batch row feature"]:
    """Features for the function head: means, log deviations, the evidence of each expert, and the number of known
    trials."""
    mean, variance, evidence, known = prediction
    known = known[..., None]
    best = evidence.max(axis=-1, keepdims=True)
    columns = [
        jnp.clip(mean, -4.0, 4.0),
        0.5 * jnp.log(variance) + 1.5,
        jnp.clip(evidence / (known + 1.0), -4.0, 4.0),
        jnp.clip((evidence - best) / 5, -4.0, 0.0),
        jnp.log1p(known) / 2 - 1.0,
    ]
    return jnp.concatenate(columns, axis=-1)


def _within(x: Array, bound: float) -> Array:
    return bound * jnp.tanh(x / bound)


def _squash(x: Array) -> Array:
    return x / (1.0 + jnp.abs(x))
