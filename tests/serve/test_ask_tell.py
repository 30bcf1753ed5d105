"""The plain loop: the shared conformance suite, spaces from dictionaries, and mistakes."""

import json

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer import LinearConstraint
from optformer.inference import costs
from optformer.serialization.space import StudySchema
from optformer.serve import testing
from optformer.serve.ask_tell import AskTell, FinishedTrial

pytestmark = pytest.mark.integration

SPACE = {
    "rate": (1e-5, 1e-1, "log"),
    "dropout": (0, 0.9),
    "layers": (1, 8),
    "steps": (1, 100_000, "log"),
    "batch": [16, 64, 32],
    "optimizer": ["adam", "sgd"],
    "nesterov": [False, True],
    "device": "cpu",
}


class LoopSession:
    def __init__(self, problem, model, seed, prior_studies=(), own_points=(), **options):
        earlier = [tuner_of(each, model) for each in prior_studies]
        self.tuner = AskTell(problem, model, seed=seed, prior_studies=earlier, **options)
        for point in own_points:
            self.tuner.enqueue(point)

    def suggest(self, count):
        return [testing.Suggested(asked, asked.parameters, asked.reason) for asked in self.tuner.ask(count)]

    def complete(self, suggested, value):
        self.tuner.tell(suggested.handle, value)

    def report(self, suggested, step, value):
        self.tuner.report(suggested.handle, value, step)

    def should_stop(self, suggested):
        return self.tuner.should_stop(suggested.handle)

    def stop(self, suggested):
        self.tuner.tell(suggested.handle, "stopped")


def tuner_of(study, model):
    """A tuner with the trials of a study."""
    tuner = AskTell(study.problem, model)
    for trial in study.trials:
        value = None if trial.infeasible else trial.final_measurement.metrics["objective"].value
        tuner.add(trial.parameters.as_dict(), value)
    return tuner


class LoopBackend:
    offers = frozenset(testing.FEATURES)
    process_code = ""

    def __init__(self, model):
        self.model = model

    def start(self, problem, seed, **options):
        return LoopSession(problem, self.model, seed, **options)


# That another process suggests the same is the designer's and the sampler's to show: an interpreter takes seconds.
HERE = [check for check in testing.CHECKS if check is not testing.check_seeds_across_processes]


@pytest.mark.parametrize("check", HERE, ids=lambda check: check.__name__)
def test_conformance(check, model, reader):
    check(LoopBackend(reader if check is testing.check_stopping else model))


def test_the_table_of_the_document_says_what_is_missing(lacking):
    assert lacking("plain loop") == set(testing.FEATURES) - LoopBackend.offers


def cost(parameters) -> float:
    return parameters["layers"] + parameters["dropout"]


def test_a_loop_over_a_dictionary(model):
    tuner = AskTell(SPACE, model, seed=3)
    for _ in range(7):
        trial = tuner.ask()
        assert {name: type(value) for name, value in trial.parameters.items()} == {
            "rate": float,
            "dropout": float,
            "layers": int,
            "steps": int,
            "batch": int,
            "optimizer": str,
            "nesterov": bool,
            "device": str,
        }
        assert trial.parameters["batch"] in (16, 32, 64)
        tuner.tell(trial, cost(trial.parameters))
    assert [trial.number for trial in tuner.trials] == list(range(1, 8))
    assert tuner.best == min(tuner.trials, key=lambda trial: trial.values["objective"])
    assert cost(tuner.best.parameters) == tuner.best.values["objective"]
    running = tuner.ask(3)
    assert tuner.running == running
    assert trial.reason["source"] in ("ei", "quasi-random")
    assert tuner.predict([trial.parameters for trial in running]).mean.shape == (3,)


MIXED = {
    "features": [None, "sqrt", 1.0],
    "layers": [(16,), (32, 16)],
    "units": (10, 100, 10),
    "fraction": (0.0, 0.9, 0.3),
    "twice": [16, 32, 32],
    "pair": {0.5, 0.1},
    "nothing": None,
}


def test_spaces_have_what_optunas_have(model, tmp_path):
    kept = []
    for start in range(2):  # the second time from the journal
        with AskTell(MIXED, model, journal=tmp_path / "journal", constraints=[lambda p: p["layers"] != (16,)]) as tuner:
            assert tuner.trials == kept
            for _ in range(4 + 4 * start):
                trial = tuner.ask()
                assert trial.parameters["features"] in (None, "sqrt", 1.0)
                assert trial.parameters["layers"] == (32, 16)
                assert trial.parameters["units"] in range(10, 101, 10)
                assert type(trial.parameters["units"]) is int
                assert round(trial.parameters["fraction"], 9) in (0.0, 0.3, 0.6, 0.9)
                assert trial.parameters["twice"] in (16, 32)
                assert trial.parameters["pair"] in (0.1, 0.5)
                assert trial.parameters["nothing"] is None
                tuner.tell(trial, float(trial.parameters["units"]))
            known = vz.ParameterDict({"layers": "(32, 16)", "units": 20.0})  # the model's values
            assert len(tuner.predict([trial.parameters, known])) == 2
            kept = tuner.trials
    assert len({tuple(trial.parameters.values()) for trial in kept}) == 12
    with pytest.raises(ValueError, match=r"the point enqueued: parameter 'layers': \(1,\) is none of"):
        tuner.enqueue({"layers": (1,)})


def test_a_point_with_some_of_the_parameters_is_filled_up(model):
    tuner = AskTell(SPACE, model)
    tuner.enqueue({"rate": 0.00123456789, "optimizer": "sgd"})
    tuner.enqueue({"layers": 3})
    for _ in range(12):
        trial = tuner.ask()
        assert set(trial.parameters) == set(SPACE)
        tuner.tell(trial, cost(trial.parameters))
    first, second = tuner.trials[:2]
    assert (first.parameters["rate"], first.parameters["optimizer"]) == (0.00123456789, "sgd")
    assert second.parameters["layers"] == 3
    tuner.enqueue({"batch": 16, "nesterov": True})
    trial = tuner.ask()
    assert (trial.parameters["batch"], trial.parameters["nesterov"]) == (16, True)
    assert trial.reason["given"] == "batch, nesterov"
    assert trial.reason["source"] != "enqueued"
    with pytest.raises(ValueError, match="the point enqueued: the search space has no parameter 'depth'"):
        tuner.enqueue({"depth": 3})


def test_earlier_journals_and_tuners(model, tmp_path, told_earlier):
    space = {"rate": (1e-5, 1e-1, "log"), "layers": (1, 8), "kind": [None, "a", (1, 2)]}
    journal = tmp_path / "last month.jsonl"
    with AskTell(space, model, journal=journal, at_most={"memory": 8.0}) as before:
        before.add({"rate": 1e-3, "layers": 2, "kind": (1, 2)}, {"objective": 0.5, "memory": 4.0})
        before.add({"rate": 1e-2, "layers": 4, "kind": None}, None)
        before.ask()
        content = journal.read_bytes()
        again = AskTell(space | {"layers": (1, 3)}, model, prior_studies=[journal, before, str(journal)])
        again.ask()
    assert journal.read_bytes() == content
    assert list(tmp_path.iterdir()) == [journal]
    for study in told_earlier():
        assert [metric.name for metric in study.problem.metric_information] == ["objective", "memory"]
        assert list(study.problem.metric_information)[1].safety_threshold == 8.0
        first, failed = study.trials
        assert first.parameters.as_dict() == {"rate": 1e-3, "layers": 2, "kind": "(1, 2)"}
        assert first.final_measurement.metrics["objective"].value == 0.5
        assert failed.infeasible
        assert failed.parameters.as_dict() == {"rate": 1e-2, "layers": 4, "kind": "None"}
    alone = AskTell(space, model)
    point = {"rate": 1e-3, "layers": 2, "kind": "a"}
    assert again.predict([point]).mean != pytest.approx(alone.predict([point]).mean)


@pytest.mark.parametrize(
    ("earlier", "error", "message"),
    [
        ("own.jsonl", ValueError, "is this tuner's own journal"),
        ("text.txt", ValueError, "text.txt: is not a journal of this library"),
        ("empty.jsonl", ValueError, "empty.jsonl: is an empty file, not a journal"),
        ("nowhere.jsonl", FileNotFoundError, "nowhere.jsonl"),
        ("odd.jsonl", ValueError, "odd.jsonl, line 2: KeyError"),
        (3, TypeError, r"prior_studies\[0\] is of type int; wanted: other AskTell tuners, paths of their journals"),
    ],
)
def test_what_is_no_earlier_study_of_a_tuner_is_refused(model, tmp_path, monkeypatch, earlier, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("no journal\n")
    (tmp_path / "empty.jsonl").touch()
    head = {"study": {"parameters": {"x": ["", 0.0, 1.0, 1000]}, "metrics": {"objective": "MINIMIZE"}}}
    (tmp_path / "odd.jsonl").write_text(json.dumps(head) + '\n{"tell": 1, "values": null}\n')
    with pytest.raises(error, match=message):
        AskTell({"x": (0.0, 1.0)}, model, journal="own.jsonl", prior_studies=[earlier])
    with pytest.raises(TypeError, match=r"a list of other AskTell tuners.*, not str"):
        AskTell({"x": (0.0, 1.0)}, model, prior_studies="odd.jsonl")


NUMPYS = {
    "x": (np.float32(0), np.float64(1)),
    "n": [np.int64(1), np.int64(3), np.int64(9)],
    "b": [True, False],
    "q": (0.0, 1.0, 0.1),
}


def test_values_of_numpy_are_taken_and_come_out_plain(model, tmp_path):
    own = {"x": np.float32(0.25), "n": np.int64(3), "b": np.bool_(True), "q": np.float64(0.30000000001)}
    with AskTell(NUMPYS, model, journal=tmp_path / "tuning.jsonl") as tuner:
        tuner.enqueue(own)
        asked = tuner.ask()
        assert list(map(repr, asked.parameters.values())) == ["0.25", "3", "True", repr(3 * 0.1)]
        tuner.tell(np.int64(1), np.float32(0.5))
        added = tuner.add(own | {"n": np.float64(9), "b": 0}, np.int64(2))
        assert list(map(repr, added.parameters.values())) == ["0.25", "9", "False", repr(3 * 0.1)]
        told = tuner.trials
    with AskTell(NUMPYS, model, journal=tmp_path / "tuning.jsonl") as tuner:
        assert tuner.trials == told
        assert [config.type.name for config in tuner.problem.search_space.parameters][:2] == ["DOUBLE", "DISCRETE"]


def test_values_of_numpy_in_a_space_of_vizier(model, tmp_path):
    space = vz.SearchSpace()
    space.root.add_float_param("x", 0.0, 1.0)
    with AskTell(space, model, journal=tmp_path / "tuning.jsonl") as tuner:
        tuner.enqueue({"x": np.float32(0.25)})
        assert repr(tuner.ask().parameters["x"]) == "0.25"


def test_the_model_reads_title_and_metric(model, tmp_path):
    named = {"metric": "validation accuracy", "title": "SVC on digits", "goal": "maximize"}
    with AskTell({"x": (0.0, 1.0)}, model, **named, journal=tmp_path / "tuning.jsonl") as tuner:
        assert StudySchema(tuner.problem).study == "SVC on digits"
        tuner.tell(tuner.ask(), 0.5)
        tuner.tell(tuner.ask(), {"validation accuracy": 0.75})
        assert tuner.best.values == {"validation accuracy": 0.75}
    with pytest.raises(ValueError, match="metric 'validation accuracy' is missing now"):
        AskTell({"x": (0.0, 1.0)}, model, goal="maximize", journal=tmp_path / "tuning.jsonl")


def test_goal_and_several_objectives(model):
    tuner = AskTell({"x": (0.0, 1.0)}, model, goal="maximize")
    for value in (1.0, 3.0, 2.0):
        tuner.tell(tuner.ask(), value)
    assert tuner.best.number == 2
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    for name in ("cost", "gain"):
        problem.metric_information.append(vz.MetricInformation(name, goal=vz.ObjectiveMetricGoal.MINIMIZE))
    tuner = AskTell(problem, model)
    for _ in range(6):
        trial = tuner.ask()
        tuner.tell(trial, {"cost": trial.parameters["x"], "gain": -trial.parameters["x"]})
    with pytest.raises(ValueError, match="several objectives"):
        _ = tuner.best
    with pytest.raises(ValueError, match="the value must be a dictionary of cost, gain"):
        tuner.tell(tuner.ask(), 1.0)


def test_own_points_come_first_and_others_trials_are_taken(model):
    tuner = AskTell({"x": (0.0, 1.0), "n": (1, 5)}, model)
    tuner.enqueue({"x": 0.123456789, "n": 2})
    added = tuner.add({"x": 0.5, "n": 1}, None)
    assert added == FinishedTrial(1, {"x": 0.5, "n": 1}, None)
    first, second = tuner.ask(2)
    assert (first.parameters, first.reason) == ({"x": 0.123456789, "n": 2}, {"source": "enqueued"})
    assert second.reason["source"] == "quasi-random"
    tuner.tell(first.number, 1.5)
    assert tuner.trials == [added, FinishedTrial(2, {"x": 0.123456789, "n": 2}, {"objective": 1.5})]
    with pytest.raises(ValueError, match=r"'x'.*2\.0 is outside"):
        tuner.enqueue({"x": 2.0, "n": 2})


def test_constraints(model):
    tuner = AskTell({"a": (0.0, 1.0), "b": (0.0, 1.0)}, model, constraints=[LinearConstraint({"a": 1, "b": 1}, 0.3)])
    for _ in range(8):
        trial = tuner.ask()
        assert trial.parameters["a"] + trial.parameters["b"] <= 0.3
        tuner.tell(trial, -trial.parameters["a"])


def test_constraints_on_outcomes(model, tmp_path):
    def tuner(**limits):
        return AskTell({"x": (0.0, 1.0)}, model, journal=tmp_path / "tuning.jsonl", **limits)

    with tuner(at_most={"memory": 8}, at_least={"accuracy": 0.5}) as study:
        with pytest.raises(ValueError, match="no trial has a result yet"):
            _ = study.best
        study.tell(study.ask(), {"objective": 1.0, "memory": 9.0, "accuracy": 0.9})
        with pytest.raises(ValueError, match="no trial satisfies all constraints yet"):
            _ = study.best
        study.tell(study.ask(), {"objective": 3.0, "memory": 8.0, "accuracy": 0.5})
        study.tell(study.ask(), {"objective": 2.0, "memory": 1.0, "accuracy": 0.4})
        assert study.best.number == 2
        for _ in range(3):
            study.tell(study.ask(), {"objective": 4.0, "memory": 1.0, "accuracy": 0.6})
        asked = study.ask()
        assert {"holds:memory", "holds:accuracy", "constraints_hold"} <= asked.reason.keys()
        with pytest.raises(ValueError, match="trial 7: the value must be a dictionary of objective, memory, accuracy"):
            study.tell(asked, 1.0)
        with pytest.raises(ValueError, match="trial 7: the metric 'accuracy' is missing"):
            study.tell(asked, {"objective": 1.0, "memory": 1.0})
    with tuner(at_most={"memory": 8}, at_least={"accuracy": 0.5}) as study:
        assert study.best.values == {"objective": 3.0, "memory": 8.0, "accuracy": 0.5}
    with pytest.raises(ValueError, match="another"):
        tuner(at_most={"memory": 9}, at_least={"accuracy": 0.5})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"at_most": {"objective": 1.0}}, "metric 'objective' has a limit already, or is the objective"),
        ({"at_most": {"a": 1.0}, "at_least": {"a": 0.0}}, "metric 'a' has a limit already"),
        ({"at_most": {"a": "8 GB"}}, "'a' is '8 GB', not a number"),
        ({"at_most": {"a": float("inf")}}, "the limit of metric 'a' is inf"),
    ],
)
def test_limits_that_make_no_sense(limits, message, model):
    with pytest.raises(ValueError, match=message):
        AskTell({"x": (0.0, 1.0)}, model, **limits)
    with pytest.raises(ValueError, match="use metrics with a safety_threshold"):
        AskTell(testing.mixed_problem(), model, **limits)


def test_mistakes_are_told_and_change_nothing(model):
    tuner = AskTell({"x": (0.0, 1.0)}, model)
    with pytest.raises(ValueError, match="no trial has a result yet"):
        _ = tuner.best
    trial = tuner.ask()
    for value, message in [
        (float("nan"), "trial 1: 'objective' is nan, not a finite number; tell None for a trial that failed"),
        (float("inf"), "is inf"),
        ("0.5", "trial 1: 'objective' is '0.5', not a number"),
        ({"objective": "0.5"}, "trial 1: 'objective' is '0.5', not a number"),
        ({"objective": None}, "trial 1: 'objective' is None, not a number"),
        ([0.5, 0.25], "not a number"),
        ({"loss": 1.0}, "trial 1: the metric 'objective' is missing"),
        ({"objective": 1.0, "loss": 1.0}, "trial 1: the study has no metric 'loss'"),
        (10**400, "not a number"),
    ]:
        with pytest.raises(ValueError, match=message):
            tuner.tell(trial, value)
    with pytest.raises(ValueError, match="trial 7: no such trial; there are 1"):
        tuner.tell(7, 1.0)
    with pytest.raises(ValueError, match="'1' is neither a trial from `ask` nor its number"):
        tuner.tell("1", 1.0)
    tuner.tell(trial, 1.0)
    with pytest.raises(ValueError, match="trial 1: already has a result"):
        tuner.tell(trial, 2.0)
    assert tuner.best.values == {"objective": 1.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1,), "neither"),
        (range(3), "neither"),
        ({"a": 1}, "neither"),
        ((0.0, 1.0, "linear"), "neither"),
        ([], "an empty list"),
        ((False, True), "for a boolean give"),
        ([1e-5, 1e-1], r"is the range \(1e-05, 0.1\) meant.*give the set \{1e-05, 0.1\}"),
        ([0, 0.5], r"is the range \(0, 0.5\) meant"),
        ({"a", "b"}, "a set, whose order is not fixed"),
        ((5, 1), r"\(5, 1\) is reversed: 5 is more than 1"),
        ((0.5, 0.1, "log"), "is reversed"),
        ((0, float("inf")), "not a range of finite numbers"),
        ((float("nan"), 1.0), "not a range of finite numbers"),
        ((0, 8, "log"), "a logarithmic range needs positive values"),
        ((0, 100, -10), "the step must be positive"),
        ((0, 10**400), "too large"),
    ],
)
def test_spaces_that_cannot_be_read(values, message, model):
    with pytest.raises(ValueError, match=f"parameter 'p': .*{message}"):
        AskTell({"q": (0.0, 1.0), "p": values}, model)
    with pytest.raises(ValueError, match="goal must be 'minimize' or 'maximize', not 'min'"):
        AskTell({"q": (0.0, 1.0)}, model, goal="min")
    with pytest.raises(TypeError, match=r"a search space is a dictionary, .* not of type list"):
        AskTell([("p", values)], model)


def test_a_belief_about_the_values_of_the_space(model):
    space = {"rate": (1e-5, 1e-1, "log"), "batch": [16, 32, 64], "shape": [(16,), (32, 16)], "early": [None, True]}
    belief = {"rate": ("log_normal", 1e-3, 2.0), "batch": {64: 1.0}, "shape": {(32, 16): 1.0}, "early": {None: 2.0}}
    tuner = AskTell(space, model, belief=belief)
    asked = tuner.ask()
    assert asked.parameters["rate"] == pytest.approx(1e-3, rel=0.01)
    assert (asked.parameters["batch"], asked.parameters["shape"], asked.parameters["early"]) == (64, (32, 16), None)
    assert (asked.reason["source"], asked.reason["belief"]) == ("belief", "1")
    for wrong, said in (
        ({"shape": {(8,): 1.0}}, "parameter 'shape': a belief: .*is none of"),
        ({"shape": ("normal", 0, 1)}, "parameter 'shape': it is categorical"),
        ({"width": {(8,): 1.0}}, "the belief names 'width', which is not a parameter"),
        ({"rate": ("log_normal", 1e-3, 0.5)}, "parameter 'rate': the factor is 0.5"),
    ):
        with pytest.raises(ValueError, match=said):
            AskTell(space, model, belief=wrong)


def test_costs_are_told_beside_the_objective(model, tmp_path):
    space, path = {"x": (0.0, 1.0), "y": (0.0, 1.0)}, tmp_path / "journal"
    with AskTell(space, model, journal=path, cost="seconds") as tuner:
        for number in range(4):
            trial = tuner.ask()
            tuner.tell(trial, {"objective": trial.parameters["x"], "seconds": 2.0 + number})
        tuner.tell(tuner.ask(), 0.5)
        trial = tuner.ask()
        for bad in (0.0, -1.0):
            with pytest.raises(ValueError, match=f"trial {trial.number}: its cost 'seconds' is {bad}"):
                tuner.tell(trial, {"objective": 1.0, "seconds": bad})
        assert 2.0 <= float(trial.reason["cost"]) <= 5.0
        assert tuner.trials[1].values["seconds"] == 3.0
    with AskTell(space, model, journal=path, cost="seconds") as again:
        assert 2.0 <= float(again.ask().reason["cost"]) <= 5.0
    other = AskTell(space, model)
    trial = other.ask()
    with pytest.raises(ValueError, match="has no metric 'seconds'"):
        other.tell(trial, {"objective": 1.0, "seconds": 1.0})
    with pytest.raises(ValueError, match="a cost needs the acquisition"):
        AskTell(space, model, cost="seconds", acquisition="ucb")


def test_the_cost_that_a_problem_names_can_be_told(model):
    problem = testing.mixed_problem()
    costs.attach(problem, "seconds")
    tuner = AskTell(problem, model)
    point = {"learning_rate": 0.1, "dropout": 0.5, "layers": 3, "batch_size": 16, "optimizer": "adam"}
    added = tuner.add(point, {"objective": 1.0, "seconds": 2.0})
    assert added.values == {"objective": 1.0, "seconds": 2.0}
    with pytest.raises(ValueError, match="its cost 'seconds' is 0"):
        tuner.add(point, {"objective": 1.0, "seconds": 0.0})
