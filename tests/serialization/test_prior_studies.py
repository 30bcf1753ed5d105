"""Trials of earlier studies in the context of a study: how they are matched, chosen, scaled and joined."""

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.batch import BatchShape, blank_batch, write_row
from optformer.serialization.objective import objective_tokens
from optformer.serialization.prior_studies import (
    MOST_STUDIES,
    PriorTrials,
    agreement,
    clause,
    joined,
    matched,
    shares,
)
from optformer.serialization.space import StudySchema
from optformer.serialization.study import EncodedStudy

MAXIMIZE, MINIMIZE = vz.ObjectiveMetricGoal.MAXIMIZE, vz.ObjectiveMetricGoal.MINIMIZE


def problem(goal=MINIMIZE, metric="loss", low=1e-4, kinds=("sgd", "adam"), extra=()) -> vz.ProblemStatement:
    statement = vz.ProblemStatement()
    root = statement.search_space.root
    root.add_float_param("rate", low, 1.0, scale_type=vz.ScaleType.LOG)
    kind = root.add_categorical_param("kind", list(kinds))
    kind.select_values(["sgd"]).add_float_param("momentum", 0.0, 1.0)
    for name in extra:
        root.add_float_param(name, 0.0, 1.0)
    statement.metric_information.append(vz.MetricInformation(metric, goal=goal))
    return statement


def study(statement: vz.ProblemStatement, rows: list[tuple[dict, float | None]]) -> vz.ProblemAndTrials:
    """A value of None: the trial failed."""
    metric, trials = statement.metric_information.item().name, []
    for number, (parameters, value) in enumerate(rows, 1):
        trial = vz.Trial(parameters, id=number)
        if value is None:
            trial.complete(vz.Measurement(), infeasibility_reason="diverged")
        else:
            trial.complete(vz.Measurement({metric: value}))
        trials.append(trial)
    return vz.ProblemAndTrials(problem=statement, trials=trials)


def rates(values, **of_problem) -> vz.ProblemAndTrials:
    """Trials of one rate after the other."""
    rows = [({"rate": 10 ** -(1 + k / 4), "kind": "adam"}, value) for k, value in enumerate(values)]
    return study(problem(**of_problem), rows)


def alone(schema: StudySchema, earlier, metric: vz.MetricInformation) -> list[PriorTrials]:
    """Of a study without trials of its own."""
    return matched(schema, earlier, metric, np.zeros((0, len(schema)), np.int32), np.zeros(0))


def shown(present: vz.ProblemStatement, *earlier: vz.ProblemAndTrials) -> list[PriorTrials]:
    schema = StudySchema(present)
    return alone(schema, earlier, schema.metrics[0])


def test_parameters_are_matched_by_name_and_unit():
    rows = [
        ({"rate": 0.1, "kind": "sgd", "momentum": 0.5, "depth": 0.2}, 1.0),
        ({"rate": 1e-3, "kind": "rmsprop", "depth": 0.4}, 2.0),  # a category that is not feasible now
        ({"rate": 1e-6, "kind": "adam", "depth": 0.4}, 3.0),  # a rate below the present range
        ({"rate": 1e-6, "kind": "rmsprop", "depth": 0.4}, 4.0),  # both: nothing is known that counts here
    ]
    wider = problem(low=1e-7, kinds=("sgd", "adam", "rmsprop"), extra=("depth",))
    (found,) = shown(problem(), study(wider, rows))
    schema = StudySchema(problem())
    (expected,) = schema.encode([{"rate": 0.1, "kind": "sgd", "momentum": 0.5}])
    ((rate, adam, _),) = schema.encode([{"rate": 1e-3, "kind": "adam"}])
    assert found.x_tokens.tolist() == [
        expected.tolist(),
        [rate, tokens.MISSING, tokens.MISSING],
        [tokens.MISSING, adam, tokens.INACTIVE],
    ]


def test_trials_that_share_too_little_are_left_out():
    far = problem(low=1e-7, kinds=("lion",) * 1 + ("sgd",), extra=())
    assert shown(problem(extra=("a", "b", "c")), study(far, [({"rate": 0.1, "kind": "lion"}, 1.0)])) == []
    assert shown(problem(), vz.ProblemAndTrials(problem=problem(), trials=[])) == []
    assert shown(problem(), rates([None, None])) == [], "no value, no scale"


def test_every_study_has_its_own_scale_and_goal():
    one, other = shown(problem(), rates([3.0, 2.0, 1.0]), rates([-300.0, -200.0, -100.0], goal=MAXIMIZE))
    assert one.y_tokens.tolist() == other.y_tokens.tolist()
    assert np.diff(one.y_tokens).min() > 0, "larger is better"
    values = -np.array([3.0, 2.0, 1.0])
    assert one.y_tokens.tolist() == objective_tokens(values, np.zeros(3, int), np.ones(3, bool)).tokens.tolist()
    (failed,) = shown(problem(), rates([1.0, None, 2.0]))
    assert failed.y_tokens[1] == tokens.INFEASIBLE


def test_a_metric_of_another_name_counts_where_both_have_one():
    assert len(shown(problem(metric="loss"), rates([1.0, 2.0], metric="error"))) == 1
    two = problem()
    two.metric_information.append(vz.MetricInformation("speed", goal=MAXIMIZE))
    schema = StudySchema(two)
    assert alone(schema, [rates([1.0, 2.0], metric="error")], schema.metrics[0]) == []
    assert len(alone(schema, [rates([1.0, 2.0], metric="loss")], schema.metrics[0])) == 1


def test_pending_and_stopped_trials_are_left_out():
    earlier = rates([1.0, 2.0, 3.0])
    earlier.trials[1] = vz.Trial(earlier.trials[1].parameters, id=2)
    (found,) = shown(problem(), earlier)
    assert len(found) == 2


def test_of_many_studies_those_with_most_values():
    found = shown(problem(), *(rates(range(2 + count)) for count in [0, 5, 3, 6, 1, 4]))
    assert [len(each) for each in found] == [7, 5, 8, 6]
    assert len(found) == MOST_STUDIES


def test_of_many_studies_those_that_order_the_trials_alike():
    """Six that rise with the rate but for two that fall; the study at hand falls."""
    values = list(range(12))
    rising, falling = rates([-value for value in values]), rates(values)
    earlier = [rising, falling, rising, rising, falling, rising]
    present = EncodedStudy(problem(), rates(values[:8]).trials, earlier)
    found = present.earlier(0, 400)
    assert len(found) == MOST_STUDIES
    best = [int(each.y_tokens.argmax()) for each in found]
    assert best.count(0) == 2, "both of those that fall"
    fresh = EncodedStudy(problem(), rates(values[:4]).trials, earlier)
    assert [int(each.y_tokens.argmax()) for each in fresh.earlier(0, 400)].count(0) == 1, "too few trials to tell"


def test_agreement_is_a_rank_correlation():
    x = np.arange(0, 1000, 50, dtype=np.int32)[:, None]
    levels = np.array([1000], np.int32)
    y = np.linspace(0, 999, len(x)).astype(np.int32)
    earlier = PriorTrials(x, y)
    values = np.linspace(-3.0, 5.0, len(x))
    assert agreement(earlier, x, values, levels) > 0.98
    assert agreement(earlier, x, values**3, levels) == pytest.approx(agreement(earlier, x, values, levels))
    assert agreement(earlier, x, -values, levels) < -0.98
    assert agreement(earlier, x[:4], values[:4], levels) == 0.0
    assert agreement(earlier, x, np.ones(len(x)), levels) == 0.0
    assert agreement(PriorTrials(x, np.full_like(y, tokens.INFEASIBLE)), x, values, levels) == 0.0
    gone = np.where(np.arange(len(x)) % 3 == 0, np.nan, values)
    assert agreement(earlier, x, gone, levels) > 0.98


def test_some_trials_hold_the_best_and_cover_the_space():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.integers(400, 600, (40, 2)), [[0, 0], [999, 999], [0, 999], [999, 0]]]).astype(np.int32)
    y = np.concatenate([np.arange(40), np.full(4, tokens.INFEASIBLE)]).astype(np.int32)
    whole = PriorTrials(x, y)
    some = whole.some(12, np.array([1000, 1000], np.int32))
    assert len(some) == 12
    assert {36, 37, 38, 39} <= set(some.y_tokens.tolist())
    assert (some.y_tokens == tokens.INFEASIBLE).sum() == 4, "the corners are far from the rest"
    assert whole.some(100, np.array([1000, 1000], np.int32)) is whole
    assert whole.best(2).tolist() == x[[39, 38]].tolist()


def test_joined_row():
    """Golden: two earlier studies of two trials and one, before two trials of the study itself."""
    trials = rates([5.0, 6.0]).trials
    present = EncodedStudy(problem(), trials, [rates([1.0, 2.0]), rates([7.0])])
    own = present.row(present.x_tokens, np.array([310, 699], np.int32), order_free=True)
    row = present.row(present.x_tokens, np.array([310, 699], np.int32), order_free=True, earlier=64)
    assert row.x_tokens[:, 3:].tolist() == [[1, 0], [1, 0], [0, 1], [0, 0], [0, 0]]
    assert row.x_tokens[3:, :3].tolist() == present.x_tokens.tolist()
    assert row.y_tokens[3:].tolist() == [310, 699]
    assert row.y_tokens[0] > row.y_tokens[1], "the goal is to minimize"
    assert (row.prefix_length, row.order_free) == (5, True)
    assert row.slot_kinds[3:].tolist() == [tokens.CATEGORICAL] * 2
    assert row.slot_levels[3:].tolist() == [2, 2]
    assert len(set(row.slot_identities.tolist())) == 5
    words = clause()
    assert row.text_tokens[len(own.text_tokens) :].tolist() == words * 2
    assert row.text_segments[len(own.text_tokens) :].tolist() == [4] * len(words) + [5] * len(words)
    assert row.text_positions[len(own.text_tokens) :].tolist() == list(range(len(words))) * 2
    batch = blank_batch(1, BatchShape(trials=8, slots=6, text=128, policy_trials=1))
    write_row(batch, 0, row)
    assert batch.trial_mask.sum() == 5


def test_without_earlier_studies_nothing_changes():
    trials = rates([5.0, 6.0]).trials
    y_tokens = np.array([310, 699], np.int32)
    rows = []
    for prior in ([], [rates([None])]):
        present = EncodedStudy(problem(), trials, prior)
        rows.append(present.row(present.x_tokens, y_tokens, earlier=64))
    for one, other in zip(*rows, strict=True):
        np.testing.assert_array_equal(one, other)
    assert joined(rows[0], []) is rows[0]


@pytest.mark.parametrize(("trials", "earlier"), [(0, 48), (10, 46), (30, 26), (60, 16), (500, 16)])
def test_earlier_studies_give_way_as_a_study_grows(trials, earlier):
    assert shares(64, trials) == (earlier, 64 - earlier)


@pytest.mark.parametrize(
    ("name", "earlier", "reason"),
    [
        ("no trial", study(problem(), []), "it has no trial"),
        ("failures", rates([None, None]), "none of its trials has a finite value of 'loss'"),
        ("unlike", study(problem(extra=("depth",)), [({"depth": 0.5}, 1.0)]), "it shares no parameter"),
        ("far", study(problem(low=1e-9), [({"rate": 1e-8}, 1.0)]), "too few values that are feasible in"),
    ],
)
def test_a_study_that_tells_nothing_is_left_out_and_one_line_says_why(caplog, name, earlier, reason):
    earlier.problem.metadata.ns("optformer")["title"] = name
    for _ in range(3):
        assert len(shown(problem(), rates([1.0, 2.0]), earlier)) == 1
    (record,) = caplog.records
    assert f"earlier study 2 ({name!r}) is left out: " in record.getMessage()
    assert reason in record.getMessage()


def test_a_study_without_the_metric_is_left_out(caplog):
    present = problem()
    present.metric_information.append(vz.MetricInformation("size", goal=MINIMIZE))
    schema = StudySchema(present)
    assert alone(schema, [rates([1.0], metric="other")], schema.metrics[1]) == []
    assert "it has no metric 'size'" in caplog.text
