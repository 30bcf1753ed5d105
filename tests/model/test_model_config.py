"""Sizes, their parameter counts, and the config as JSON."""

import dataclasses
import json

import pytest

from optformer.model import ModelConfig, abstract_model, build_model, count_parameters
from optformer.model.config import REMOVED
from optformer.serialization import tokens

COUNTS = {
    "tiny": 244_006,
    "nano": 1_956_748,
    "small": 9_504_536,
    "base": 25_754_322,
    "paper": 249_150_720,
}


@pytest.mark.parametrize("size", COUNTS)
def test_parameter_counts(size):
    """By shapes alone: no weights are made."""
    assert count_parameters(abstract_model(getattr(ModelConfig, size)())) == COUNTS[size]


def test_paper_is_t5_1_1_base_with_the_table_of_2022():
    width, inner, hidden, layers, heads, rows, buckets = 768, 12 * 64, 2048, 12, 12, 33_152, 32
    attention, feed_forward = 4 * width * inner, 3 * width * hidden
    encoder = layers * (attention + feed_forward + 2 * width) + width + buckets * heads
    decoder = layers * (2 * attention + feed_forward + 3 * width) + width + buckets * heads
    embedding_and_logits = 2 * rows * width
    assert encoder + decoder + embedding_and_logits == COUNTS["paper"]
    assert ModelConfig.paper().layout == "flat"


def test_real_and_abstract_models_have_the_same_parameters(models):
    for model in models.values():
        assert count_parameters(model) == count_parameters(abstract_model(model.config))


def test_same_seed_same_weights():
    first, second, other = (build_model(ModelConfig.tiny(), seed=seed) for seed in (3, 3, 4))
    assert (first.start[...] == second.start[...]).all()
    assert (first.start[...] != other.start[...]).any()


@pytest.mark.parametrize("size", COUNTS)
def test_json_round_trip(size):
    config = getattr(ModelConfig, size)()
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_missing_fields_keep_their_defaults():
    assert ModelConfig.from_dict({"width": 64}) == dataclasses.replace(ModelConfig(), width=64)


def test_removed_fields_may_say_what_is_left():
    assert ModelConfig.from_dict({"width": 64, **REMOVED}) == dataclasses.replace(ModelConfig(), width=64)
    assert not REMOVED.keys() & ModelConfig().to_dict().keys()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"widht": 3}, "Unknown field.*widht.*later release.*Known: layout, width"),
        ({"width": 0}, "width must be at least 1"),
        ({"width": "96"}, "width must be an integer"),
        ({"width": True}, "width must be an integer"),
        ({"z_loss": "x"}, "z_loss must be a number"),
        ({"numeric_features": 1}, "numeric_features must be true or false"),
        ({"layout": "stacked"}, "layout must be one of"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"policy_heads": 3}, "does not divide policy_width"),
        ({"relative_buckets": 30}, "multiple of 4"),
        ({"relative_max_distance": 16}, "must exceed half"),
        ({"z_loss": -0.1}, "must not be negative"),
        ({"function_label_sigma": 0.002}, "function_label_sigma was removed: 0.002 is no longer supported, only 0.0"),
        ({"slot_pooling": "attention"}, "slot_pooling was removed: 'attention' is no longer supported, only 'sum'"),
        ({"objective_weight": 1.5}, r"must lie in \[0, 1\]"),
        ({"shared_vocabulary": 5000}, "needs layout='flat'"),
        (
            {
                "shared_vocabulary": 3000,
                "layout": "flat",
                "numeric_features": False,
                "cross_attention": "metadata",
            },
            "must hold text_vocabulary = 2048",
        ),
        ({"shared_vocabulary": 4000, "layout": "flat", "numeric_features": False}, "cross_attention='metadata'"),
        ({"cross_attention": "clauses"}, "cross_attention must be one of"),
        ({"policy_succession": True}, "policy_succession needs policy_recall=True"),
        ({"policy_header": True}, "policy_header needs policy_recall=True"),
    ],
)
def test_bad_configs_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(fields)


def test_outputs_cover_what_the_decoder_can_emit(models, run):
    batch = run.study(0)
    logits = run.forward(models["pooled"], batch)
    assert logits.function.shape == (2, 7, tokens.NUM_OUTPUTS)
    assert logits.policy.shape == (2, 7, 4, tokens.NUM_OUTPUTS)
