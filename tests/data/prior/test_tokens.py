"""Token for token, a batch of the prior is what the host writes for the same studies."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.prior import PriorConfig
from optformer.data.prior.sample import Record, draw_record
from optformer.data.prior.text import words
from optformer.serialization import objective, tokens
from optformer.serialization.batch import BatchShape, StudyBatch
from optformer.serialization.metadata import MetadataOptions
from optformer.serialization.objective import Scaling
from optformer.serialization.space import StudySchema

pytestmark = pytest.mark.integration

SHAPE = BatchShape(trials=14, slots=7, text=220, policy_trials=5)
CONFIG = PriorConfig(
    families=(("bowl", 1.0),),
    behaviours=(("random_search", 1.0), ("grid_search", 1.0)),
    slots_mean=5.0,
    single_kind_rate=0.1,
    kind_weights=(0.4, 0.2, 0.15, 0.25),
    conditional_rate=0.6,
    noise_rate=0.0,
    outlier_rate=0.0,
    infeasible_rate=0.3,
    pending_rate=0.3,
    stopped_rate=0.3,
    lost_rate=0.3,
    rerun_rate=0.2,
    single_prefix_rate=0.1,
    blind_rate=0.1,
    earlier_rate=0.4,
    flipped_rate=0.3,
    partial_rate=0.5,
    names_rate=0.5,
    title_rate=0.5,
    algorithm_rate=0.5,
    metric_rate=0.5,
)
STUDIES = 300


@pytest.fixture(scope="module")
def drawn() -> tuple[StudyBatch, Record]:
    draw = jax.jit(functools.partial(draw_record, config=CONFIG, batch_size=STUDIES, shape=SHAPE))
    return jax.tree.map(np.asarray, draw(jax.random.key(6)))


def _problem(record: Record, named: bool) -> vz.ProblemStatement:
    """The search space, built level by level with Vizier's own calls, and the words of the header."""
    space, wording = record.space, record.wording
    problem = vz.ProblemStatement()
    metadata = problem.metadata.ns("optformer")
    metadata["title"] = words()["titles"][wording.title]
    metadata["algorithm"] = words()["algorithms"][wording.algorithm]
    goal = vz.ObjectiveMetricGoal.MINIMIZE if wording.goal == 1 else vz.ObjectiveMetricGoal.MAXIMIZE
    problem.metric_information.append(vz.MetricInformation(words()["metrics"][wording.metric], goal=goal))

    def add(selector: vz.SearchSpaceSelector, slot: int) -> None:
        name, count = _name(record, slot, named), int(space.levels[slot])
        scale = vz.ScaleType.LOG if space.log_scale[slot] else vz.ScaleType.LINEAR
        if space.kinds[slot] == tokens.CONTINUOUS:
            added = selector.add_float_param(name, 0.5, 20.0, scale_type=scale)
        elif space.kinds[slot] == tokens.INTEGER:
            added = selector.add_int_param(name, 1, count, scale_type=scale)
        elif space.kinds[slot] == tokens.DISCRETE:
            added = selector.add_discrete_param(name, _values(record, slot))
        else:
            added = selector.add_categorical_param(name, _values(record, slot))
        for child in np.flatnonzero(space.parents == slot).tolist():
            levels = np.flatnonzero(space.active_when[child][:count]).tolist()
            assert 0 < len(levels) < count
            add(added.select_values([_values(record, slot)[level] for level in levels]), child)

    for slot in np.flatnonzero((space.parents < 0) & _is_parameter(record)).tolist():
        add(problem.search_space.root, slot)
    return problem


def _is_parameter(record: Record) -> np.ndarray:
    """bool [D], without the slots of earlier studies and of the budget."""
    return (record.space.kinds > 0) & ~record.earlier.slots & ~record.rows.slot


def _name(record: Record, slot: int, named: bool) -> str:
    return words()["names"][record.wording.names[slot]] if named else f"parameter_{slot}"


def _values(record: Record, slot: int) -> list:
    """What the levels of a slot stand for, in the spaces that `_problem` builds."""
    count = int(record.space.levels[slot])
    kind = record.space.kinds[slot]
    if kind == tokens.CONTINUOUS:
        z = np.arange(count) / (count - 1)
        return (0.5 * 40.0**z if record.space.log_scale[slot] else 0.5 + 19.5 * z).clip(0.5, 20.0).tolist()
    if kind == tokens.INTEGER:
        return list(range(1, count + 1))
    if kind == tokens.DISCRETE:
        return [0.5 * value for value in range(count)]
    return [f"v{value:02d}" for value in range(count)]


def _trials(record: Record, problem: vz.ProblemStatement, chosen: list[int], named: bool) -> list[vz.Trial]:
    metric = problem.metric_information.item()
    sign = -1.0 if metric.goal.is_minimize else 1.0
    slots = np.flatnonzero(_is_parameter(record)).tolist()
    values = {slot: _values(record, slot) for slot in slots}
    trials = []
    for t in chosen:
        parameters = {
            _name(record, slot, named): values[slot][record.trials.q[t, slot]]
            for slot in values
            if record.trials.on[t, slot] and not record.lost[t, slot]
        }
        trial = vz.Trial(id=t + 1, parameters=parameters)
        if record.pending[t]:
            pass
        elif record.trials.infeasible[t]:
            trial.complete(vz.Measurement(), infeasibility_reason="failed")
        elif record.trials.stopped[t]:
            trial.stopping_reason = "stopped early"
        else:
            trial.complete(vz.Measurement(metrics={metric.name: sign * float(record.trials.y[t])}))
        trials.append(trial)
    return trials


def _written(
    reference: Callable[..., tuple[StudyBatch, Scaling]], batch: StudyBatch, record: Record
) -> tuple[StudyBatch, Scaling]:
    """The study as the host writes it from problem and trials, given only what it cannot know."""
    wording = record.wording
    named = bool(wording.with_names)
    problem = _problem(record, named)
    schema = StudySchema(problem)
    slots = len(schema)
    by_name = {slot.name: slot.index for slot in schema.slots}
    options = MetadataOptions(
        title=bool(wording.with_title),
        description=False,
        algorithm=bool(wording.with_algorithm),
        metric=bool(wording.with_metric),
        goal=bool(wording.with_goal),
        names=named,
        ranges=False,
    )
    carrying = batch.policy_weights.max(axis=1) > 0
    before, count = int(record.earlier.trials), int(batch.trial_mask.sum())
    studies = [np.flatnonzero(record.earlier.study == study).tolist() for study in range(record.earlier.studies)]
    expected, scaling = reference(
        problem,
        _trials(record, problem, list(range(before, count)), named),
        SHAPE,
        options=options,
        prefix_length=int(batch.prefix_length) - before,
        order_free=bool(batch.order_free),
        slot_order=[by_name[_name(record, slot, named)] for slot in range(slots)],
        identities=batch.slot_identities[:slots],
        policy_trials=batch.policy_trials[carrying] - before,
        earlier=[_trials(record, problem, study, named) for study in studies],
        left=record.rows.left[before:count] if record.rows.slot.any() else None,
    )
    # Any identities will do for further slots, as long as all are distinct.
    total = slots + len(studies) + int(record.rows.slot.any())
    assert len(set(batch.slot_identities[:total].tolist())) == total
    expected.slot_identities[0, slots:total] = batch.slot_identities[slots:total]
    return expected, scaling


def _one(tree: tuple, study: int) -> tuple:
    return jax.tree.map(lambda leaf: leaf[study], tree)


@pytest.fixture(scope="module")
def written(drawn: tuple[StudyBatch, Record], reference: Callable[..., Any]) -> tuple[StudyBatch, list[Scaling]]:
    each = [_written(reference, _one(drawn[0], study), _one(drawn[1], study)) for study in range(STUDIES)]
    batches, scalings = zip(*each, strict=True)
    return StudyBatch(*(np.concatenate(field) for field in zip(*batches, strict=True))), list(scalings)


@pytest.mark.parametrize(
    "field",
    [
        *("text_tokens", "text_segments", "text_positions", "slot_kinds", "slot_levels", "slot_identities"),
        *("x_tokens", "trial_mask", "prefix_length", "order_free"),
    ],
)
def test_equal_to_the_hosts(
    drawn: tuple[StudyBatch, Record], written: tuple[StudyBatch, list[Scaling]], field: str
) -> None:
    ours, theirs = getattr(drawn[0], field), getattr(written[0], field)
    assert ours.dtype == theirs.dtype or field == "prefix_length"
    np.testing.assert_array_equal(ours, theirs)


def test_objective_tokens_equal(drawn: tuple[StudyBatch, Record], written: tuple[StudyBatch, list[Scaling]]) -> None:
    """The device computes in single precision: a bin may differ by one where its edge is within rounding."""
    (batch, record), (expected, scalings) = drawn, written
    values = record.trials.y.astype(float)
    for study in np.flatnonzero((batch.y_tokens != expected.y_tokens).any(axis=1)).tolist():
        ours, theirs = batch.y_tokens[study], expected.y_tokens[study]
        different = ours != theirs
        assert (np.maximum(ours, theirs)[different] < tokens.NUM_LEVELS).all()
        # One for all trials, or one for each.
        scaling = Scaling(*(np.resize(part, SHAPE.trials)[different] for part in scalings[study]))
        place = (tokens.NUM_LEVELS - 1) * objective.to_unit(values[study][different], scaling)
        known = values[study][batch.trial_mask[study]]
        rounding = 1e-2 + 5e3 * np.finfo(np.float32).eps * np.abs(known[np.isfinite(known)]).max() / scaling.scale
        assert (np.abs(np.abs(place - np.floor(place)) - 0.5) < rounding).all()
        assert (np.abs(ours - theirs)[different] <= 1.0 + 2.0 * rounding).all()
    assert (batch.y_tokens != expected.y_tokens).mean() < 2e-3


def test_loss_weights_equal(drawn: tuple[StudyBatch, Record], written: tuple[StudyBatch, list[Scaling]]) -> None:
    (batch, record), expected = drawn, written[0]
    np.testing.assert_array_equal(batch.function_weights, expected.function_weights)
    # Without a known value bins mean nothing, and carry no weight.
    t, before = np.arange(SHAPE.trials)[None, :], record.earlier.trials[:, None]
    blind = batch.prefix_length[:, None] == before
    in_prefix = (t >= before) & (t < batch.prefix_length[:, None])
    values = (batch.y_tokens < tokens.NUM_LEVELS) & (t >= before) & batch.trial_mask
    assert (blind & (before == 0)).any()
    assert (blind & (before > 0)).any()
    # Behind earlier studies only the first one of a study without a known trial.
    first = t == before
    assert batch.function_weights[blind & values & ((before == 0) | first)].all()
    assert not batch.function_weights[blind & (before > 0) & ~first].any()
    unscaled = values & ~blind & ~in_prefix & ~(values & in_prefix).any(axis=1, keepdims=True)
    assert unscaled.any()
    assert not batch.function_weights[unscaled].any()

    for study in range(STUDIES):
        carrying = batch.policy_weights[study].max(axis=1) > 0
        count = carrying.sum()
        np.testing.assert_array_equal(batch.policy_trials[study][carrying], expected.policy_trials[study][:count])
        weight = batch.policy_weights[study].max(initial=0.0)
        assert weight in (0.0, 1.0, np.float32(CONFIG.undirected_policy_weight))
        np.testing.assert_array_equal(
            batch.policy_weights[study][carrying], weight * expected.policy_weights[study][:count]
        )


def test_everything_occurs(drawn: tuple[StudyBatch, Record]) -> None:
    batch, record = drawn
    for status in (tokens.INACTIVE, tokens.MISSING):
        assert (batch.x_tokens == status).sum() > 50
    for status in (tokens.INFEASIBLE, tokens.PENDING, tokens.MISSING):
        assert (batch.y_tokens == status).sum() > 20
    assert set(batch.slot_kinds.ravel().tolist()) == {0, 1, 2, 3, 4}
    assert (batch.prefix_length == 1).sum() > 10
    assert set(record.earlier.studies.tolist()) == {0, 1, 2, 3}
    assert 0.1 < record.earlier.flipped[record.earlier.study < record.earlier.studies[:, None]].mean() < 0.5
    curves = record.rows.slot.any(axis=1)
    assert 0.2 < curves.mean() < 0.4
    left, known = record.rows.left[curves], np.arange(SHAPE.trials) < batch.prefix_length[curves, None]
    assert 0.2 < (left[known] > 0).mean() < 0.8
    assert 0.02 < (left[~known] > 0).mean() < 0.3
    assert len(set(record.behaviour.tolist())) == len(CONFIG.behaviours)

    parents = record.space.parents
    depth = (parents >= 0).astype(int)
    depth += (np.take_along_axis(parents, np.maximum(parents, 0), axis=1) >= 0) & (parents >= 0)
    assert (depth == 2).sum() > 10
    kinds = np.take_along_axis(record.space.kinds, np.maximum(parents, 0), axis=1)[parents >= 0]
    assert set(kinds.tolist()) == {tokens.INTEGER, tokens.DISCRETE, tokens.CATEGORICAL}
    several = record.space.active_when[parents >= 0].sum(axis=1)
    assert (several == 1).any()
    assert (several > 1).any()
    for field in ("with_title", "with_algorithm", "with_metric", "with_goal", "with_names"):
        assert 0.1 < getattr(record.wording, field).mean() < 0.9


def test_parameters_that_are_off_do_not_influence_the_objective(drawn: tuple[StudyBatch, Record]) -> None:
    """Trials of one study that differ only in parameters that are off have one objective (there is no noise)."""
    trials = drawn[1].trials
    pairs = 0
    excluded = trials.infeasible | (drawn[1].rows.left > 0)
    for q, on, y, failed in zip(trials.q, trials.on, trials.y, excluded, strict=True):
        shown = np.where(on, q, -1)
        same = (shown[:, None] == shown[None, :]).all(2) & (q[:, None] != q[None, :]).any(2)
        for one, other in np.argwhere(np.tril(same)).tolist():
            if not failed[one] and not failed[other]:
                pairs += 1
                assert y[one] == pytest.approx(y[other], rel=1e-5, abs=1e-5)
    assert pairs > 20
