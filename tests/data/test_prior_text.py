"""The prior's metadata is, token for token, what the Python serializer writes for the same study."""

import jax
import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.prior import PriorConfig, sample_batch
from optformer.data.shapes import BatchShape
from optformer.serialization import tokens
from optformer.serialization.metadata import MetadataOptions, metadata_segments, tokenize
from optformer.serialization.space import StudySchema
from optformer.serialization.vocabulary import Vocabulary

SHAPE = BatchShape(trials=8, slots=6, text=200, policy_trials=2)


def _field(text: str, keyword: str) -> str | None:
    """The text after a keyword, up to the next one."""
    if f"<{keyword}>" not in text:
        return None
    return text.split(f"<{keyword}>", 1)[1].split("<", 1)[0]


def _problem(header: str, clauses: list[str], kinds: np.ndarray, levels: np.ndarray) -> vz.ProblemStatement:
    """A problem whose metadata must be these words; kinds and levels come from the batch, not from the words."""
    problem = vz.ProblemStatement()
    goal = vz.ObjectiveMetricGoal.MINIMIZE if "<minimize>" in header else vz.ObjectiveMetricGoal.MAXIMIZE
    problem.metric_information.append(vz.MetricInformation("objective", goal=goal))
    root = problem.search_space.root
    for index, (clause, kind, count) in enumerate(zip(clauses, kinds.tolist(), levels.tolist(), strict=True)):
        name = _field(clause, "name") or f"parameter_{index}"
        scale = vz.ScaleType.LOG if "<log>" in clause else vz.ScaleType.LINEAR
        if kind == tokens.CONTINUOUS:
            root.add_float_param(name, 0.5, 20.0, scale_type=scale)
        elif kind == tokens.INTEGER:
            root.add_int_param(name, 1, count, scale_type=scale)
        elif kind == tokens.DISCRETE:
            root.add_discrete_param(name, [0.5 * value for value in range(count)])
        else:
            root.add_categorical_param(name, [f"v{value}" for value in range(count)])
    return problem


@pytest.mark.parametrize("names_rate", [0.0, 1.0])
def test_tokens_equal_the_serializers(names_rate: float) -> None:
    config = PriorConfig(features=8, names_rate=names_rate, algorithm_rate=0.5, single_kind_rate=0.2, slots_mean=5.0)
    batch = jax.tree.map(np.asarray, sample_batch(jax.random.key(5), config, 24, SHAPE))
    vocabulary = Vocabulary.default()
    seen: set[int] = set()
    algorithms: set[str | None] = set()
    for study in range(24):
        active = int((batch.slot_kinds[study] > 0).sum())
        kinds, levels = batch.slot_kinds[study][:active], batch.slot_levels[study][:active]
        text, segments = batch.text_tokens[study], batch.text_segments[study]
        words = [vocabulary.decode(text[segments == segment]) for segment in range(active + 1)]
        schema = StudySchema(_problem(words[0], words[1:], kinds, levels))
        np.testing.assert_array_equal(schema.slot_kinds, kinds)
        np.testing.assert_array_equal(schema.slot_levels, levels)

        algorithm = _field(words[0], "algorithm")
        goal = "<minimize>" in words[0] or "<maximize>" in words[0]
        options = MetadataOptions(
            title=False, description=False, metric=False, goal=goal, names=names_rate > 0, ranges=False
        )
        expected = tokenize(metadata_segments(schema, algorithm, options))
        for field, want in expected._asdict().items():
            np.testing.assert_array_equal(getattr(batch, field)[study][: len(want)], want, err_msg=str(words))
        assert (segments[len(expected.text_tokens) :] == -1).all()
        seen |= set(kinds.tolist())
        algorithms.add(algorithm)
    assert seen == {tokens.CONTINUOUS, tokens.INTEGER, tokens.DISCRETE, tokens.CATEGORICAL}
    assert None in algorithms
    assert len(algorithms) > 2
