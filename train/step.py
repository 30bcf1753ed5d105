"""One training step: generate the batch, update the weights and their average, compute metrics; all on the device.

Notation: t step (from 0), Q = 1000 objective bins.

A batch is a pure function of (seed, t): the studies of the prior are generated on the device, and the studies of the
corpus are read for that t.  So a run that resumes from the state of step t repeats exactly the numbers of an
uninterrupted run.

The prior is compiled separately from the update, and shared by training and validation, because it takes XLA much
longer to compile than the model.  A study is generated trial by trial, in many small operations, which take nearly the
same time for more studies.  So the studies of K = `prior_steps` steps are generated together, from
fold_in(key, t // K).

Accumulation.  With A parts, part a has the studies a, a + A, a + 2A, ... of the batch, so that every device has its
share of every part.  The loss is a mean over weighted tokens, and parts differ in weight.  Each part divides by the
weight of the whole batch, so gradients and losses of the parts add up to those of the whole.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, Float, Int, UInt32

from optformer.data.prior import sample_batch
from optformer.extras import from_extra
from optformer.model import Logits, Loss, Model, abstract_model, build_model, log_density, loss
from optformer.model.build import round_products
from optformer.model.layers import BLOCK
from optformer.serialization.batch import StudyBatch
from optformer.serialization.tokens import NUM_LEVELS
from optformer.train.config import TrainConfig
from optformer.train.mesh import batch_sharding, deal, part_sharding, replicated, state_shardings
from optformer.train.optimizer import is_of, learning_rate, make_optimizer, only

with from_extra("train", user="training"):
    import optax

# Random streams of the run's seed.
TRAINING, VALIDATION = 0, 1

Totals = tuple[Float[Array, ""], Float[Array, ""]]
"""Function and policy weight of a whole batch."""

Params: TypeAlias = nnx.State[str, Any]
"""Arrays of the model's parameters by their names: weights, gradients, or their shapes."""

Metrics = dict[str, Float[Array, ""]]
"""Sums over the studies of a batch, so that batches of any kind can be added up; `metrics.means` divides them."""


class TrainState(NamedTuple):
    """The state that changes from step to step.

    Attributes:
      step: int32 scalar, steps done.
      params: `nnx.State` of the model's parameters, θ.
      optimizer: Optax state.
      average: like `params`, the running average that is evaluated and exported.
    """

    step: Int[Array, ""]
    params: Params
    optimizer: optax.OptState
    average: Params


class Steps(NamedTuple):
    """The compiled functions of a run.

    Attributes:
      init: (model or none, for fresh weights) -> TrainState, placed on the mesh.
      draw_prior: (stream, t) -> studies of the prior, `TRAINING` or `VALIDATION` ones; None if a batch has none.
      train: (state, prior part, corpus part) -> (state, Metrics).  The input state is donated.
      validate: (average, batch) -> Metrics.
      abstract_state: shapes, types and placement of the state, for restoring.
      gather: parameters -> the same, replicated on every device.
      merge: parameters -> the model with them.
    """

    init: Callable[..., TrainState]
    draw_prior: Callable[[int, int], StudyBatch | None]
    train: Callable[[TrainState, StudyBatch | None, StudyBatch | None], tuple[TrainState, Metrics]]
    validate: Callable[[Params, StudyBatch], Metrics]
    abstract_state: TrainState
    gather: Callable[[Any], Any]
    merge: Callable[[Params], Model]


def make_steps(config: TrainConfig, mesh: Mesh | AbstractMesh) -> Steps:
    """The functions of a run, each of which compiles on its first call.  An abstract mesh gives shapes only.

    Equivalent configs share their functions, so a run that is resumed in the same process does not compile again.
    """
    return _make_steps(config.compiled(), mesh)


@functools.lru_cache(maxsize=4)
def _make_steps(config: TrainConfig, mesh: Mesh | AbstractMesh) -> Steps:
    on = mesh if isinstance(mesh, Mesh) else None
    abstract_params, _, forward = make_forward(config, on)
    # Validation uses float32 products, as suggestions do.
    _, merge, measured = make_forward(dataclasses.replace(config, products="float32"), on)
    optimizer = only(make_optimizer(config.optimizer, config.steps, abstract_model(config.model)), config.train_only)
    schedule = learning_rate(config.optimizer, config.steps)

    def start(params: Params) -> TrainState:
        # The average is a copy: the step donates its arguments, so the two must not share buffers.
        average = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)

    def init(model: Model | None = None) -> TrainState:
        params = nnx.state(model or build_model(config.model, seed=config.seed), nnx.Param)

        # All processes have the same weights; each places its own shards.
        def place(leaf: Array, sharding: NamedSharding) -> Array:
            values = np.asarray(leaf)
            return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

        return compiled_start(jax.tree.map(place, params, shardings.params))

    def draw(key: UInt32[Array, " word"], stream: Int[Array, ""], block: Int[Array, ""]) -> list[StudyBatch]:
        drawn = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), stream), block)
        together, count = config.prior_steps, config.prior_studies
        studies = sample_batch(drawn, config.prior, together * count, config.shape)
        split = jax.tree.map(lambda leaf: jnp.split(leaf, together), studies)
        return [StudyBatch(*(leaf[k] for leaf in split)) for k in range(together)]

    compiled_draw = jax.jit(draw, out_shardings=part_sharding(mesh, config.prior_studies))
    # An argument instead of a constant, so that one compilation serves all seeds.  On the host, so that it can be used
    # on the devices of all processes.
    key = np.asarray(jax.random.key_data(jax.random.key(config.seed)))

    @functools.lru_cache(maxsize=2)  # one block of training and one of validation
    def draw_block(stream: int, block: int) -> list[StudyBatch]:
        return compiled_draw(key, stream, block)

    def draw_prior(stream: int, t: int) -> StudyBatch | None:
        if not config.prior_studies:
            return None
        block, k = divmod(t, config.prior_steps)
        return draw_block(stream, block)[k]

    def gradient_of(params: Params, batch: StudyBatch, totals: Totals) -> tuple[Params, Metrics]:
        (_, metrics), gradient = jax.value_and_grad(forward, has_aux=True)(params, batch, totals)
        # Sharded like the parameters at once, instead of being added up on every device first.
        return jax.lax.with_sharding_constraint(gradient, shardings.params), metrics

    def accumulate(params: Params, batch: StudyBatch, totals: Totals) -> tuple[Params, Metrics]:
        def add(sums: tuple[Params, Metrics], part: StudyBatch) -> tuple[tuple[Params, Metrics], None]:
            return jax.tree.map(jnp.add, sums, gradient_of(params, part, totals)), None

        parts = deal(batch, config.accumulate, mesh)
        shapes = jax.eval_shape(gradient_of, params, jax.tree.map(lambda leaf: leaf[0], parts), totals)
        (gradient, metrics), _ = jax.lax.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes), parts)
        # In every part, these metrics are those of the whole batch.
        whole = {"steps": jnp.ones(()), "function_weight": totals[0], "policy_weight": totals[1]}
        return gradient, metrics | whole

    def train(
        state: TrainState, prior_part: StudyBatch | None, corpus_part: StudyBatch | None
    ) -> tuple[TrainState, Metrics]:
        batch = jax.lax.with_sharding_constraint(join(prior_part, corpus_part), split)
        totals = (jnp.sum(batch.function_weights), jnp.sum(batch.policy_weights))
        gradient, metrics = (accumulate if config.accumulate > 1 else gradient_of)(state.params, batch, totals)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(norm)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        # Skips updates with a gradient that is not finite: one in thousands, if a covariance is nearly singular.
        params, optimizer_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (optax.apply_updates(state.params, updates), optimizer_state),
            (state.params, state.optimizer),
        )
        # A shorter average at the start, because otherwise a short run would export mostly its initial weights.
        decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.average, params)
        metrics |= {
            "learning_rate": schedule(state.step),
            "gradient_norm": jnp.where(finite, norm, 0.0),
            "skipped_steps": 1.0 - finite,
        }
        return TrainState(state.step + 1, params, optimizer_state, average), metrics

    def validate(average: Params, batch: StudyBatch) -> Metrics:
        return measured(average, batch)[1]

    everywhere, split = replicated(mesh), batch_sharding(mesh)
    shapes = jax.eval_shape(start, abstract_params)
    shardings = state_shardings(mesh, shapes)
    compiled_start = jax.jit(start, out_shardings=shardings)
    abstract_state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )
    return Steps(
        init=init,
        draw_prior=draw_prior,
        train=jax.jit(train, donate_argnums=0, out_shardings=(shardings, everywhere)),
        validate=jax.jit(validate, out_shardings=everywhere),
        abstract_state=abstract_state,
        gather=jax.jit(lambda params: params, out_shardings=everywhere),
        merge=merge,
    )


class Forward(NamedTuple):
    """The model of a config as functions of its parameters.

    Attributes:
      abstract_params: shapes and types of the parameters; weights are made by `Steps.init`, which a resumed run never
        calls.
      merge: parameters -> the model with them.
      loss: (parameters, batch, weights of the whole batch if this is a part) -> (loss to minimize, Metrics).
    """

    abstract_params: Params
    merge: Callable[[Params], Model]
    loss: Callable[..., tuple[Float[Array, ""], Metrics]]


def make_forward(config: TrainConfig, mesh: Mesh | None = None) -> Forward:
    """The functions for the devices of a mesh; None: for one device."""
    model = abstract_model(config.model)
    round_products(model, config.products == "bfloat16")
    graph, abstract_params = nnx.split(model, nnx.Param)

    def merge(params: Params) -> Model:
        return nnx.merge(graph, params)

    def forward(params: Params, batch: StudyBatch, totals: Totals | None = None) -> tuple[Float[Array, ""], Metrics]:
        if mesh is not None:
            # Gathered before use, so that all computations are only split over studies.  Without this constraint, XLA's
            # partitioner (jax 0.10.2) gave wrong gradients on a mesh of three axes; `test_devices.py` checks this.
            params = jax.lax.with_sharding_constraint(params, replicated(mesh))
        parts = config.train_only
        if parts is not None:
            # The backward pass then skips the other parts.
            params = jax.tree_util.tree_map_with_path(
                lambda path, leaf: leaf if is_of(path, parts) else jax.lax.stop_gradient(leaf), params
            )
        logits = merge(params)(batch)
        losses = loss(logits, batch, config.model, totals)
        return losses.total, measure(logits, losses, batch)

    kept = jax.checkpoint_policies.save_only_these_names(BLOCK)
    return Forward(abstract_params, merge, jax.checkpoint(forward, policy=kept) if config.remat else forward)


def join(*parts: StudyBatch | None) -> StudyBatch:
    """One batch of the studies of all parts, in their order."""
    given = [part for part in parts if part is not None]
    if not given:
        raise ValueError("a batch needs studies of the prior or of a corpus")
    return given[0] if len(given) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *given)


def measure(logits: Logits, losses: Loss, batch: StudyBatch) -> Metrics:
    """The contributions of a batch to the running sums.

    `function_density` sums log p(bin) + log Q over the finite objectives: nats above a uniform density over the bins.
    `tokens` is trials x (slots + 3) without padding, as in the flat layout, so that both layouts can be compared.
    """
    weights = jnp.where(batch.y_tokens < NUM_LEVELS, batch.function_weights, 0.0)
    density = jnp.where(weights > 0, log_density(logits, jnp.asarray(batch.y_tokens)), 0.0)
    trials = batch.trial_mask.sum(axis=-1)
    slots = (batch.slot_kinds > 0).sum(axis=-1)
    of_experts = {} if losses.experts is None else {"experts_loss": losses.experts * losses.function_weight}
    return {
        "steps": jnp.ones(()),
        "loss": losses.total,
        "policy_loss": losses.policy * losses.policy_weight,
        "policy_weight": losses.policy_weight,
        "function_loss": losses.function * losses.function_weight,
        "function_weight": losses.function_weight,
        "function_density": (density * weights).sum(),
        "function_density_weight": weights.sum(),
        "studies": jnp.full((), trials.shape[0], jnp.float32),
        "tokens": (trials * (slots + 3)).sum().astype(jnp.float32),
        **of_experts,
    }
