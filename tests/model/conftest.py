"""Tiny models of all arrangements, small random studies, and the model's methods compiled once per shape."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from optformer.model import ModelConfig, build_model, loss
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch

TINY = dataclasses.replace(ModelConfig.tiny(), text_vocabulary=128)
FLAT = dataclasses.replace(TINY, layout="flat")
CONFIGS = {
    "pooled": TINY,
    "recall": dataclasses.replace(TINY, policy_recall=True),
    "succession": dataclasses.replace(TINY, policy_recall=True, policy_succession=True),
    "header": dataclasses.replace(TINY, policy_recall=True, policy_succession=True, policy_header=True),
    "experts": dataclasses.replace(TINY, experts=4),
    "flat": FLAT,
    "plain": dataclasses.replace(FLAT, shared_vocabulary=1200, numeric_features=False, cross_attention="metadata"),
}


def random_study(
    seed: int, studies: int = 2, trials: int = 7, slots: int = 4, text: int = 14, order_free: bool = False
) -> StudyBatch:
    """Mixed kinds of slot, clauses of random length (the last study's last slot is padding), prefix of 3 trials."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(tokens.CONTINUOUS, tokens.NUM_SLOT_KINDS, (studies, slots))
    kinds[0] = [tokens.CONTINUOUS, tokens.CATEGORICAL, tokens.INTEGER, tokens.DISCRETE][:slots]
    levels = np.where(kinds == tokens.CONTINUOUS, tokens.NUM_LEVELS, rng.integers(2, 9, kinds.shape))
    if studies > 1:
        kinds[-1, -1], levels[-1, -1] = tokens.NO_SLOT, 0
    clauses = slots + 1 - (kinds == tokens.NO_SLOT).sum(axis=1, keepdims=True)
    segments = np.sort(rng.integers(0, clauses, (studies, text)), axis=1)
    segments[:, -2:] = -1
    positions = np.zeros_like(segments)
    for column in range(1, text):
        same = segments[:, column] == segments[:, column - 1]
        positions[:, column] = np.where(same, positions[:, column - 1] + 1, 0)
    x = rng.integers(0, np.maximum(levels, 1)[:, None], (studies, trials, slots))
    x = np.where(levels[:, None] > 0, x, tokens.PAD)
    y = rng.integers(0, tokens.NUM_LEVELS, (studies, trials))
    y[0, 1], y[0, 4] = tokens.INFEASIBLE, tokens.PENDING
    function_weights = (np.arange(trials) >= 3) & (y != tokens.PENDING)
    batch = StudyBatch(
        text_tokens=np.where(segments >= 0, rng.integers(1, 128, segments.shape), 0),
        text_segments=segments,
        text_positions=np.where(segments >= 0, positions, 0),
        slot_kinds=kinds,
        slot_levels=levels,
        slot_identities=np.argsort(rng.random((studies, tokens.NUM_SLOT_IDENTITIES)), axis=1)[:, :slots],
        x_tokens=x,
        y_tokens=y,
        trial_mask=np.ones((studies, trials), bool),
        prefix_length=np.full(studies, 3),
        order_free=np.full(studies, order_free),
        function_weights=function_weights.astype(np.float32),
        policy_trials=np.broadcast_to(np.arange(trials), (studies, trials)),
        policy_weights=np.broadcast_to((levels > 0)[:, None], x.shape).astype(np.float32),
    )
    return StudyBatch(*(np.asarray(f, np.int32) if np.asarray(f).dtype == np.int64 else np.asarray(f) for f in batch))


def known(batch: StudyBatch, trials: int) -> StudyBatch:
    """The same study with only its first trials known."""
    return batch._replace(
        trial_mask=np.broadcast_to(np.arange(batch.y_tokens.shape[1]) < trials, batch.y_tokens.shape),
        prefix_length=np.full_like(batch.prefix_length, min(trials, int(batch.prefix_length[0]))),
    )


@pytest.fixture(scope="session")
def models() -> dict:
    """By arrangement; norm scales are made uneven and zeros filled, so that forgetting one would show."""
    built = {}
    for name, config in CONFIGS.items():
        model = build_model(config, seed=1)
        rng = np.random.default_rng(5)
        for path, node in nnx.iter_graph(model):
            if isinstance(node, nnx.Param) and path[-1] == "scale":
                node.set_value(node[...] * rng.uniform(0.5, 1.5, node.shape).astype(np.float32))
            if isinstance(node, nnx.Param) and {"succession", "header"} & set(path):
                node.set_value(rng.normal(0, 0.3, node.shape).astype(np.float32))
            if isinstance(node, nnx.Param) and path[0] == "experts" and not node[...].any():
                node.set_value(rng.normal(0, 0.1, node.shape).astype(np.float32))
        built[name] = model
    return built


@pytest.fixture(scope="session")
def run() -> SimpleNamespace:
    def compiled(method, **options):
        return jax.jit(method, **options)

    return SimpleNamespace(
        study=random_study,
        known=known,
        compiled=compiled,
        forward=compiled(lambda model, batch: model(batch)),
        encode=compiled(lambda model, batch: model.encode(batch)),
        function=compiled(lambda model, history, x: model.function_logits(history, x)),
        policy=compiled(lambda model, history, x: model.policy_logits(history, x)),
        sample=compiled(
            lambda model, history, legality, key, count: model.sample(history, legality, key, count),
            static_argnums=4,
        ),
        gradient=compiled(value_and_gradient),
        loss=compiled(loss, static_argnums=2),
    )


def value_and_gradient(model, batch):
    """(total, loss), gradient."""

    def objective(model):
        result = loss(model(batch), batch, model.config)
        return result.total, result

    return nnx.value_and_grad(objective, has_aux=True)(model)
