"""Studies of a corpus some of whose trials are stopped, and whose reports are shown."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.data.corpus import Augmentation, Corpus, building
from optformer.data.corpus.curves import draw_rows
from optformer.serialization import objective, partial_trials, tokens
from optformer.serialization.batch import BatchShape
from optformer.serialization.partial_trials import Reports

SHAPE = BatchShape(trials=24, slots=4, text=120, policy_trials=4)
ALWAYS = Augmentation(partial_rate=1.0, flip_goal=0.0, pending_rate=0.0)
STEPS = 8


def study(name: str, curves: bool, trials: int = 20) -> vz.ProblemAndTrials:
    """The loss after s steps is x + 1 / s; every seventh trial was stopped after two."""
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    facts = problem.metadata.ns("optformer")
    facts["study_id"], facts["repo"] = name, name
    made = []
    for number in range(trials):
        x, stopped = (0.618 * number) % 1.0, curves and number % 7 == 6
        trial = vz.Trial({"x": x}, id=number + 1)
        for step in range(1, (2 if stopped else STEPS) + 1) if curves else ():
            trial.measurements.append(vz.Measurement({"loss": x + 1 / step}, steps=step))
        if stopped:
            trial.stopping_reason = "pruned"
        made.append(trial.complete(vz.Measurement({} if stopped else {"loss": x + 1 / STEPS})))
    return vz.ProblemAndTrials(problem=problem, trials=made)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    directory = tmp_path_factory.mktemp("curves") / "cache"
    building.build([study("with", True), study("without", False)], directory)
    return Corpus.open(directory)


def test_reports_are_rows_of_their_trials(corpus):
    batch = corpus.batch(0, 0, 64, SHAPE, ALWAYS)
    shown = (batch.slot_kinds[:, 1] == partial_trials.KIND) & (batch.slot_levels[:, 1] == partial_trials.LEVELS)
    assert 0.3 < shown.mean() < 0.7, "one study of two"
    assert (batch.slot_kinds[~shown, 1] == 0).all()
    levels = partial_trials.level(np.arange(1, STEPS + 1) / STEPS)
    known = np.arange(SHAPE.trials)[None] < batch.prefix_length[:, None]
    left, finals, running = [], 0, 0
    for row in np.flatnonzero(shown).tolist():
        count = int(batch.trial_mask[row].sum())
        x, own = batch.x_tokens[row, :count, 0], batch.x_tokens[row, :count, 1]
        left += own.tolist()
        assert set(own.tolist()) <= {0, 1, *levels.tolist()}
        finals += int((own[batch.function_weights[row, :count] > 0] == 0).sum())
        reported = set(x[known[row, :count] & (own > 0)].tolist())
        running += sum(place in reported for place in x[~known[row, :count] & (own == 0)].tolist())
        # Every value is that of its trial at that level, on one scale.
        y = batch.y_tokens[row, :count]
        value = -(x / 999 + 1 / np.array([_step(level, levels) for level in own.tolist()]))
        scaled_on = objective.to_scale_on(known[row, :count], own == 0)
        if scaled_on.any():
            wanted = objective.to_bins(value, objective.fit(value, scaled_on))
            there = y < tokens.NUM_LEVELS
            assert (np.abs(wanted - y)[there] <= 12).all(), "x has a thousand levels, and the good range may be small"
    assert np.mean(np.array(left) > 0) > 0.2
    assert finals > 50
    assert running > 20


def _step(level: int, levels: np.ndarray) -> int:
    return STEPS if level <= 1 else int(np.flatnonzero(levels == level)[0]) + 1


def test_the_policy_learns_new_trials_alone(corpus):
    batch = corpus.batch(0, 1, 64, SHAPE, ALWAYS)
    shown = batch.slot_kinds[:, 1] == partial_trials.KIND
    carrying = batch.policy_weights.max(axis=2) > 0
    assert carrying[shown].any()
    for row in np.flatnonzero(shown).tolist():
        for trial in batch.policy_trials[row][carrying[row]].tolist():
            assert trial >= batch.prefix_length[row]
            assert batch.x_tokens[row, trial, 1] == 0
            assert batch.x_tokens[row, trial, 0] not in batch.x_tokens[row, : batch.prefix_length[row], 0]
    assert not batch.policy_weights[shown, :, 1].any()


def test_without_a_rate_nothing_changes(corpus):
    plain = corpus.batch(0, 2, 16, SHAPE, dataclasses.replace(ALWAYS, partial_rate=0.0))
    assert (plain.slot_kinds[:, 1] == 0).all()
    assert (plain.trial_mask.sum(axis=1) == 20).all()


def test_a_study_without_a_free_slot_shows_none(corpus):
    batch = corpus.batch(0, 0, 16, BatchShape(trials=24, slots=1, text=120, policy_trials=4), ALWAYS)
    assert (batch.slot_kinds == tokens.CONTINUOUS).all()


@given(st.integers(0, 2**31), st.integers(2, 24), st.data())
def test_rows_keep_their_promises(seed, most, data):
    rng = np.random.default_rng(seed)
    count = data.draw(st.integers(1, most))
    known = data.draw(st.integers(0, count))
    values, statuses = rng.normal(size=count), np.full(count, tokens.MISSING)
    gone = rng.random(count)
    statuses[gone < 0.2] = tokens.INFEASIBLE
    values[gone < 0.4] = np.nan
    reports = []
    for _ in range(count):
        levels = np.sort(rng.choice(np.arange(1, 1000), int(rng.integers(0, 5)), replace=False))[::-1]
        reports.append(Reports(levels.astype(np.int32), rng.normal(size=len(levels))))
    rows = draw_rows(rng, values, statuses, reports, known, most)
    assert known <= rows.known <= len(rows.trials) <= most
    assert set(rows.trials[: rows.known].tolist()) == set(range(known)), "each known trial is there, and no other"
    assert not rows.new[: rows.known].any()
    pairs = list(zip(rows.trials.tolist(), rows.left.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs), "nothing is shown twice"
    for (trial, left), value, status in zip(pairs, rows.values, rows.statuses, strict=True):
        if left == 0:
            np.testing.assert_equal(value, values[trial])
            assert status == statuses[trial]
        else:
            (place,) = np.flatnonzero(reports[trial].levels == left)
            assert value == reports[trial].values[place]
