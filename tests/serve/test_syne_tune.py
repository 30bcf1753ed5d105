"""The Syne Tune searcher: the shared conformance suite, every domain, points, trial states, its state, a real run."""

import builtins
import importlib
import json
import math
import sys
from pathlib import Path

import pytest
from vizier import pyvizier as vz

# With xgboost and its CUDA libraries Syne Tune takes a gigabyte: an extra of its own, not one of the developers'.
pytest.importorskip("syne_tune", reason="pip install 'optformer[syne-tune]'")

import dill
from syne_tune import StoppingCriterion, Tuner
from syne_tune import config_space as spaces
from syne_tune.backend import LocalBackend
from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.baselines import ASHA
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.asha import AsynchronousSuccessiveHalving
from syne_tune.optimizer.schedulers.ask_tell_scheduler import AskTellScheduler
from syne_tune.optimizer.schedulers.searchers.last_value_multi_fidelity_searcher import LastValueMultiFidelitySearcher
from syne_tune.optimizer.schedulers.single_objective_scheduler import SingleObjectiveScheduler

from optformer import LinearConstraint
from optformer.inference.early_stopping import THRESHOLD
from optformer.serve import testing
from optformer.serve.syne_tune import OptFormerScheduler, OptFormerSearcher


def syne_space(space: vz.SearchSpace) -> dict:
    """A flat search space as a user of Syne Tune would write it."""
    found = {}
    for config in space.parameters:
        log = config.scale_type == vz.ScaleType.LOG
        if config.type == vz.ParameterType.DOUBLE:
            found[config.name] = (spaces.loguniform if log else spaces.uniform)(*config.bounds)
        elif config.type == vz.ParameterType.INTEGER:
            found[config.name] = (spaces.lograndint if log else spaces.randint)(*config.bounds)
        elif config.type == vz.ParameterType.DISCRETE:
            found[config.name] = spaces.ordinal(list(config.feasible_values))
        else:
            found[config.name] = spaces.choice(list(config.feasible_values))
    return found


class SyneSession:
    """Through the scheduler, as the tuner does it."""

    def __init__(self, problem, model, seed, own_points=(), **options):
        goal = problem.metric_information.item().goal
        space = syne_space(problem.search_space)
        points = [dict(point) for point in own_points] or None
        searcher = OptFormerSearcher(space, points, random_seed=seed, model=model, **options)
        minimize = not goal.is_maximize
        if model.reads_reports or "cost" in options:
            threshold = THRESHOLD if model.reads_reports else 0.0
            self.scheduler = OptFormerScheduler(
                space, "objective", minimize, searcher=searcher, time_attr="epoch", threshold=threshold
            )
        else:
            self.scheduler = SingleObjectiveScheduler(space, "objective", do_minimize=minimize, searcher=searcher)
        self.count = 0

    def suggest(self, count):
        suggestions = []
        for _ in range(count):
            config = self.scheduler.suggest().config
            trial = Trial(trial_id=self.count, config=config, creation_time=None)
            self.count += 1
            suggestions.append(testing.Suggested(trial, config))
        return suggestions

    def complete(self, suggested, value):
        if value is None:
            self.scheduler.on_trial_error(suggested.handle)
            return
        result = (value if isinstance(value, dict) else {"objective": value}) | {"epoch": 4}
        self.scheduler.on_trial_result(suggested.handle, result)
        self.scheduler.on_trial_complete(suggested.handle, result)

    def report(self, suggested, step, value):
        self.decision = self.scheduler.on_trial_result(suggested.handle, {"objective": value, "epoch": step})

    def should_stop(self, suggested):
        return self.decision == SchedulerDecision.STOP

    def stop(self, suggested):
        self.scheduler.on_trial_remove(suggested.handle)


class SyneBackend:
    offers = frozenset({"prior_studies", "belief", "cost", "constraints", "own_points", "stopping"})
    process_code = ""

    def __init__(self, model):
        self.model = model

    def start(self, problem, seed, **options):
        return SyneSession(problem, self.model, seed, **options)


@pytest.mark.parametrize("check", testing.ESSENTIAL, ids=lambda check: check.__name__)
def test_conformance(check, model, reader):
    check(SyneBackend(reader if check is testing.check_stopping else model))


def test_the_table_of_the_document_says_what_is_missing(lacking):
    assert lacking("Syne Tune") == set(testing.FEATURES) - SyneBackend.offers


def run(search, count, loss=lambda config: 1.0, first=0):
    """A few trials one after the other."""
    configs = []
    for number in range(first, first + count):
        configs.append(search.suggest())
        search.on_trial_complete(number, configs[-1], loss(configs[-1]))
    return configs


# Domains.


def multiple(value, step):
    return math.isclose(value / step, round(value / step), abs_tol=1e-9)


LOGARITHMIC = spaces.logfinrange(1, 1000, 4)
ROUNDED = spaces.logfinrange(1, 8, 12, cast_int=True)
MANY = spaces.finrange(0.0, 1.0, 5001)

DOMAINS = {
    "uniform": (spaces.uniform(-1.5, 2.0), lambda v: type(v) is float and -1.5 <= v <= 2.0),
    "loguniform": (spaces.loguniform(1e-7, 10), lambda v: type(v) is float and 1e-7 <= v <= 10.0),
    "reverseloguniform": (spaces.reverseloguniform(0.0, 0.9999), lambda v: type(v) is float and 0 <= v <= 0.9999),
    "quniform": (spaces.quniform(0.1, 0.9, 0.1), lambda v: type(v) is float and 0.1 <= v <= 0.9 and multiple(v, 0.1)),
    "qloguniform": (spaces.qloguniform(0.5, 64, 0.5), lambda v: 0.5 <= v <= 64 and multiple(v, 0.5)),
    "randint": (spaces.randint(3, 5), lambda v: type(v) is int and v in (3, 4, 5)),
    "lograndint": (spaces.lograndint(1, 4096), lambda v: type(v) is int and 1 <= v <= 4096),
    "qrandint": (spaces.qrandint(2, 11, 3), lambda v: type(v) is int and v in (3, 6, 9)),
    "qlograndint": (spaces.qlograndint(8, 64, 8), lambda v: type(v) is int and v in range(8, 65, 8)),
    "choice": (spaces.choice(["adam", "sgd", ""]), lambda v: v in ("adam", "sgd", "")),
    "choice of bools": (spaces.choice([True, False]), lambda v: type(v) is bool),
    "choice of numbers": (spaces.choice([128, 16]), lambda v: type(v) is int and v in (128, 16)),
    "ordinal": (spaces.ordinal(["low", "middle", "high"]), lambda v: v in ("low", "middle", "high")),
    "ordinal, not ascending": (spaces.ordinal([3, 1, 2]), lambda v: type(v) is int and v in (1, 2, 3)),
    "ordinal, equal": (spaces.ordinal([1, 2, 64], kind="equal"), lambda v: type(v) is int and v in (1, 2, 64)),
    "ordinal, nearest": (spaces.ordinal([1.0, 2.5, 64.0], kind="nn"), lambda v: v in (1.0, 2.5, 64.0)),
    "logordinal": (spaces.logordinal([1, 10, 1000]), lambda v: type(v) is int and v in (1, 10, 1000)),
    "finrange": (spaces.finrange(0.1, 0.5, 5), lambda v: v in spaces.finrange(0.1, 0.5, 5).values),
    "finrange of many": (MANY, lambda v: type(v) is float and v in set(MANY.values)),
    "logfinrange": (LOGARITHMIC, lambda v: type(v) is float and v in LOGARITHMIC.values),
    "logfinrange of integers": (ROUNDED, lambda v: type(v) is int and v in ROUNDED.values),
    "one value": (spaces.randint(4, 4), lambda v: v == 4),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_values_are_exactly_those_of_the_domain(name, model):
    domain, holds = DOMAINS[name]
    space = {"p": domain, "other": spaces.uniform(0, 1), "epochs": 3}
    search = OptFormerSearcher(space, random_seed=0, model=model)
    for config in run(search, 12, lambda config: config["other"]):
        assert holds(config["p"]), config["p"]
        assert config["epochs"] == 3
        assert domain.cast(config["p"]) == config["p"]
        converted = search._domains["p"]
        back = converted.from_model(json.loads(json.dumps(converted.to_model(converted.own(config["p"])))))
        assert type(back) is type(config["p"])
        assert back == config["p"]


def test_a_reversed_logarithmic_range_is_dense_at_its_upper_end(model):
    search = OptFormerSearcher({"momentum": spaces.reverseloguniform(0.0, 0.9999)}, random_seed=0, model=model)
    values = [search.suggest()["momentum"] for _ in range(40)]
    assert 0.35 < sum(value > 0.99 for value in values) / 40 < 0.65  # half of its decades
    converted = search._domains["momentum"]
    assert [converted.from_model(converted.to_model(end)) for end in (0.0, 0.9999)] == [0.0, 0.9999]


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (spaces.Float(0, 1).normal(), "a normal distribution has no bounds"),
        (spaces.qrandint(4, 5, 3), r"no multiple of 3 lies in \[4, 5\]"),
        (spaces.choice([f"c{k}" for k in range(1001)]), "1001 choices; the model supports at most 1000"),
        (spaces.reverseloguniform(0.0, 0.75).quantized(0.25), "Float sampled by _ReverseLogUniform is not supported"),
        (spaces.Categorical(["a"]).grid(), "Categorical sampled by Grid is not supported"),
    ],
)
def test_domains_that_cannot_be_searched_are_refused_by_name(domain, message, model):
    with pytest.raises(ValueError, match=f"parameter 'p': .*{message}"):
        OptFormerSearcher({"p": domain, "x": spaces.uniform(0, 1)}, model=model)


# Points of one's own.

SPACE = {"x": spaces.uniform(0.0, 1.0), "n": spaces.randint(1, 8), "c": spaces.choice(["a", "b"]), "epochs": 5}


def test_points_come_first_and_as_they_are(model):
    points = [{"x": 0.12345678901234567, "n": 8, "c": "b"}, {"x": 1, "n": 1, "c": "a", "epochs": 2}]
    search = OptFormerSearcher(SPACE, points, random_seed=0, model=model)
    assert search.suggest() == points[0] | {"epochs": 5}
    second = search.suggest()
    assert second == points[1]
    assert type(second["x"]) is float
    assert search.suggest()["x"] not in (0.12345678901234567, 1.0)


def test_the_model_chooses_what_a_point_lacks(model):
    points = [{"n": 8}, {"x": 0.12345678901234567, "c": "b"}, {}]
    search = OptFormerSearcher(SPACE, points, random_seed=0, model=model)
    first, second, third = (search.suggest() for _ in range(3))
    assert first["n"] == 8
    assert second == {"x": 0.12345678901234567, "n": second["n"], "c": "b", "epochs": 5}
    for config in (first, second, third):
        assert set(config) == set(SPACE)
        assert 0.0 <= config["x"] <= 1.0
    assert len(search._study.trials) == 3
    with pytest.raises(ValueError, match="trial 9: parameter 'c' is missing"):
        search.on_trial_complete(9, {"x": 0.5, "n": 3}, 1.0)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"x": 0.5, "n": 3, "c": "a", "y": 1}, "the search space has no parameter 'y'; it has x, n, c"),
        ({"x": 2.0, "n": 3, "c": "a"}, r"parameter 'x': 2.0 is outside \[0.0, 1.0\]"),
        ({"x": 0.5, "n": 9, "c": "a"}, r"parameter 'n': 9 is no integer in \[1, 8\]"),
        ({"x": 0.5, "n": 3, "c": "z"}, r"parameter 'c': 'z' is none of \['a', 'b'\]"),
    ],
)
def test_points_outside_the_space_are_refused_by_name(point, message, model):
    with pytest.raises(ValueError, match=rf"points_to_evaluate\[1\]: {message}"):
        OptFormerSearcher(SPACE, [{"x": 0.1, "n": 1, "c": "a"}, point], model=model)


@pytest.mark.parametrize("value", [0, -3.0, 30, math.inf, None, True])
def test_a_number_that_is_none_of_an_ordinals_is_refused(value, model):
    space = {"p": spaces.logordinal([1, 10, 100])}
    with pytest.raises(ValueError, match=rf"parameter 'p': {value} is no(ne of \[1, 10, 100\]|t a finite number)"):
        OptFormerSearcher(space, [{"p": value}], model=model)


# What came of trials.


def test_states_are_told_as_what_they_are(model):
    search = OptFormerSearcher(SPACE, random_seed=0, model=model)
    configs = [search.suggest() for _ in range(5)]
    search.on_trial_error(2)  # before it told anything
    search.on_trial_result(1, configs[1], 9.0)
    search.on_trial_result(0, configs[0], 8.0)
    search.on_trial_complete(0, configs[0], 2.0)
    search.on_trial_complete(3, configs[3], math.nan)
    complete, reported, failed, not_a_number, running = search._study.pyvizier()
    assert complete.final_measurement.metrics["objective"].value == 2.0
    assert [(m.steps, m.metrics["objective"].value) for m in complete.measurements] == [(1, 8.0)]
    assert (reported.status, running.status) == (vz.TrialStatus.STOPPING, vz.TrialStatus.ACTIVE)
    assert failed.infeasible
    assert not_a_number.infeasible
    search.on_trial_error(1)
    assert search._study.pyvizier()[1].infeasible
    search.on_trial_error(17)  # the one whose number is not known
    assert search._study.pyvizier()[4].infeasible
    search.on_trial_error(18)
    assert len(search._study.trials) == 5


def test_minimizing_and_maximizing_are_mirror_images(model):
    def suggestions(minimize):
        searcher = OptFormerSearcher(SPACE, random_seed=0, model=model)
        scheduler = AskTellScheduler(SingleObjectiveScheduler(SPACE, "gain", minimize, searcher))
        configs = []
        for _ in range(8):
            trial = scheduler.ask()
            loss = trial.config["x"] + trial.config["n"]
            scheduler.tell(trial, {"gain": loss if minimize else -loss})
            configs.append(trial.config)
        return configs

    assert suggestions(True) == suggestions(False)


def test_constraints_hold_on_the_values_of_the_user(model):
    space = {"m": spaces.reverseloguniform(0.0, 0.999), "x": spaces.uniform(0, 1), "o": spaces.ordinal(["s", "l"])}
    constraints = [LinearConstraint({"m": 1.0, "x": 1.0}, upper=0.8), lambda values: values["o"] == "l"]
    search = OptFormerSearcher(space, random_seed=0, model=model, constraints=constraints)
    for config in run(search, 8):
        assert config["m"] + config["x"] <= 0.8
        assert config["o"] == "l"


# State.


def test_a_rebuilt_searcher_goes_on_as_the_old_one(model):
    def loss(config):
        return config["x"]

    old = OptFormerSearcher(SPACE, random_seed=3, model=model)
    configs = run(old, 7, loss)
    rebuilt = OptFormerSearcher(SPACE, random_seed=3, model=model)
    for number, config in enumerate(configs):
        rebuilt.on_trial_complete(number, {name: config[name] for name in ("x", "n", "c")}, loss(config))
    loaded = dill.loads(dill.dumps(old))
    assert run(rebuilt, 3, loss, first=7) == run(loaded, 3, loss, first=7) == run(old, 3, loss, first=7)
    with pytest.raises(ValueError, match=r"trial 99: parameter 'x': 7.0 is outside \[0.0, 1.0\]"):
        rebuilt.on_trial_complete(99, {"x": 7.0, "n": 1, "c": "a"}, 1.0)


def test_a_named_model_is_saved_by_name(checkpoint):
    search = OptFormerSearcher(SPACE, random_seed=0, model=checkpoint)
    run(search, 2)
    saved = dill.dumps(search)
    assert len(saved) < 20_000
    assert dill.loads(saved).suggest() == search.suggest()


def test_asha_gives_it_the_last_value_of_each_trial(model):
    searcher = LastValueMultiFidelitySearcher(
        SPACE, random_seed=0, num_init_random_draws=2, searcher=OptFormerSearcher, searcher_kwargs={"model": model}
    )
    scheduler = ASHA(SPACE, "loss", time_attr="epoch", max_t=4, random_seed=0)
    scheduler.searcher = searcher
    for number in range(6):
        trial = Trial(trial_id=number, config=scheduler.suggest().config, creation_time=None)
        scheduler.on_trial_add(trial)
        for epoch in (1, 2):
            scheduler.on_trial_result(trial, {"loss": trial.config["x"], "epoch": epoch})
    assert len(searcher.searcher._study.trials) == 6  # five told again, and the one suggested


def test_stopped_trials_count_with_what_they_would_have_come_to(model, asked):
    """ASHA tells a searcher of no end: every result is a report."""
    searcher = OptFormerSearcher(SPACE, random_seed=0, model=model)
    scheduler = AsynchronousSuccessiveHalving(SPACE, "loss", searcher=searcher, time_attr="epoch", max_t=9)
    ends, finals = [], []
    for number in range(12):
        trial = Trial(trial_id=number, config=scheduler.suggest().config, creation_time=None)
        scheduler.on_trial_add(trial)
        finals.append((trial.config["x"] - 0.3) ** 2 + 0.1 * trial.config["n"])
        for epoch in range(1, 10):
            decision = scheduler.on_trial_result(trial, {"loss": finals[-1] + math.exp(-epoch), "epoch": epoch})
            if decision == SchedulerDecision.STOP:
                break
        ends.append(epoch)
    assert len(set(ends)) > 1
    scheduler.suggest()
    told = [trial.final_measurement.metrics["objective"].value for trial in asked[-1]]
    assert told == pytest.approx([final + math.exp(-9) for final in finals])


# A real run.

SCRIPT = """
from argparse import ArgumentParser
from syne_tune import Reporter

parser = ArgumentParser()
parser.add_argument("--x", type=float)
parser.add_argument("--n", type=int)
parser.add_argument("--c", type=str)
parser.add_argument("--epochs", type=int)
known, _ = parser.parse_known_args()
if known.x == 0.75:
    raise RuntimeError("as it must")
report = Reporter()
for epoch in range(known.epochs):
    report(epoch=epoch + 1, loss=(known.x - 0.5) ** 2 + known.n + epoch)
"""


def test_a_tuner_runs_trials_at_the_same_time_and_is_loaded(model, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNETUNE_FOLDER", str(tmp_path))
    (tmp_path / "train.py").write_text(SCRIPT)
    points = [{"x": 0.75, "n": 3, "c": "a"}, {"x": 0.25, "n": 2, "c": "b"}]
    space = SPACE | {"epochs": 2}
    searcher = OptFormerSearcher(space, points, random_seed=0, model=model)
    tuner = Tuner(
        trial_backend=LocalBackend(str(tmp_path / "train.py"), rotate_gpus=False),
        scheduler=SingleObjectiveScheduler(space, "loss", searcher=searcher),
        stop_criterion=StoppingCriterion(max_num_trials_finished=5, max_wallclock_time=90),
        n_workers=2,
        sleep_time=0.1,
        wait_trial_completion_when_stopping=True,
        max_failures=3,
        tuner_name="run",
    )
    tuner.run()
    trials = tuner.trial_backend._trial_dict
    assert len(trials) >= 5
    assert [trials[number].config for number in (0, 1)] == [point | {"epochs": 2} for point in points]
    testing.assert_distinct([trial.config for trial in trials.values()])
    recorded = searcher._study.trials
    assert (recorded[0].trial_id, recorded[0].state) == (0, "failed")
    assert (recorded[1].trial_id, recorded[1].values) == (1, [0.0625 + 2 + 1])
    assert sum(trial.state == "complete" for trial in recorded) >= 4
    tuner.save()
    loaded = Tuner.load(str(tuner.tuner_path)).scheduler
    assert loaded.suggest().config == tuner.scheduler.suggest().config


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNETUNE_FOLDER", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("train.py").touch()
    text = (Path(__file__).parents[2] / "docs" / "ray-and-syne-tune.md").read_text()
    example = text.split("```python\n")[2].split("```")[0]
    assert "tuner.run()" in example
    names = {}
    exec(example.replace("tuner.run()", ""), names)
    config = names["tuner"].scheduler.suggest().config
    assert list(config) == list(names["config_space"])
    assert config["batch_size"] in (16, 32, 64, 128)
    assert config["epochs"] == 10


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"acquisition": "best"}, "unknown acquisition"),
        ({"random_seed": -1}, "random_seed must not be negative, got -1"),
        ({"model": "no-such-model"}, "no checkpoint 'no-such-model'"),
        ({"config_space": {"epochs": 3}}, "the search space has no parameter to choose"),
    ],
)
def test_mistakes(arguments, message, model):
    with pytest.raises(ValueError, match=message):
        OptFormerSearcher(**({"config_space": SPACE, "model": model} | arguments))


def test_without_syne_tune_it_says_what_to_install(monkeypatch):
    found = builtins.__import__

    def missing(name, *arguments, **keywords):
        if name.startswith("syne_tune"):
            raise ModuleNotFoundError("No module named 'syne_tune'", name="syne_tune")
        return found(name, *arguments, **keywords)

    monkeypatch.delitem(sys.modules, "optformer.serve.syne_tune")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"'syne_tune', .*pip install 'optformer\[syne-tune\]'"):
        importlib.import_module("optformer.serve.syne_tune")


def test_earlier_studies_are_told_in_the_terms_of_the_space(model, told_earlier):
    problem = vz.ProblemStatement()
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    values = {"momentum": 0.9, "size": "large", "batch": 32.0, "nesterov": "True"}
    trial = vz.Trial(values, id=1).complete(vz.Measurement({"loss": 1.0}))
    running = vz.Trial(values, id=2)
    earlier = vz.ProblemAndTrials(problem=problem, trials=[trial, running])
    space = {
        "momentum": spaces.reverseloguniform(0.5, 0.999),
        "size": spaces.ordinal(["small", "large"], kind="equal"),
        "batch": spaces.ordinal([16, 32, 64]),
        "nesterov": spaces.choice([False, True]),
    }
    searcher = dill.loads(dill.dumps(OptFormerSearcher(space, random_seed=0, model=model, prior_studies=[earlier])))
    searcher.suggest()
    ((told,),) = (study.trials for study in told_earlier())
    expected = {"momentum": pytest.approx(0.1), "size": 1, "batch": 32, "nesterov": "True"}
    assert told.parameters.as_dict() == expected
    with pytest.raises(TypeError, match="a list of studies with their trials"):
        OptFormerSearcher(space, model=model, prior_studies=earlier)
