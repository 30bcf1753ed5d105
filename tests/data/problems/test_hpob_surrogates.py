"""HPO-B's surrogates: the published files, read as HPO-B's own handler reads them, and corpora of them."""

import json

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.generation import generate_corpus, generate_study
from optformer.data.generation.plan import Plan, schedule
from optformer.data.problems import registry
from optformer.data.problems.hpob_surrogates import HELD_OUT, METRIC, STARTS, Archive, HPOBExperimenter
from optformer.data.sources import read

xgboost = pytest.importorskip("xgboost")
# Which imports xgboost.
from vizier._src.benchmarks.experimenters.hpob.handler import HPOBHandler  # noqa: E402

SPACES = {"5860": 2, "9999": 3}
NAMES = {"5860": ["alpha", "lambda"]}
DATA_SETS = {"5860": ["31", "9976"], "9999": ["7"]}  # 5860/9976 belongs to the test split
ROWS = 40


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Surrogates of two search spaces, trained here, in the layout of HPO-B's two archives."""
    folder = tmp_path_factory.mktemp("hpob")
    surrogates, data = folder / "saved-surrogates", folder / "hpob-data"
    surrogates.mkdir()
    data.mkdir()
    rng = np.random.default_rng(0)
    statistics, rows, starts = {}, {}, {}
    for space, width in SPACES.items():
        for data_set in DATA_SETS[space]:
            x = rng.uniform(0, 1, (ROWS, width))
            y = 0.5 + 0.4 * x[:, 0] - 0.3 * (x[:, 1] - 0.3) ** 2 + rng.normal(0, 0.02, ROWS)
            parameters = {"max_depth": 3, "eta": 0.3, "objective": "reg:squarederror", "nthread": 1}
            booster = xgboost.train(parameters, xgboost.DMatrix(x, label=y), 20)
            name = f"surrogate-{space}-{data_set}"
            booster.save_model(str(surrogates / f"{name}.json"))
            # A little inside, so that something is clipped.
            statistics[name] = {"y_min": float(np.quantile(y, 0.1)), "y_max": float(np.quantile(y, 0.9))}
            rows.setdefault(space, {})[data_set] = {"X": x.tolist(), "y": y[:, None].tolist()}
            chosen = {start: [int(row) for row in rng.choice(ROWS, 5, replace=False)] for start in STARTS}
            starts.setdefault(space, {})[data_set] = chosen
    (surrogates / "summary-stats.json").write_text(json.dumps(statistics))
    (data / "meta-test-dataset.json").write_text(json.dumps(rows))
    (data / "bo-initializations.json").write_text(json.dumps(starts))
    descriptors = {space: {"variables_order": names} for space, names in NAMES.items()}
    (data / "meta-dataset-descriptors.json").write_text(json.dumps(descriptors))
    return folder


@pytest.fixture
def copy(published, tmp_path):
    """All files in one folder, to be damaged."""
    for path in published.rglob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


class Recorder:
    """An optimizer in the handler's terms, which notes what it is shown."""

    def __init__(self, points):
        self.points, self.shown = list(points), []

    def observe_and_suggest(self, x, y, pending=None):
        self.shown = (np.array(x), np.array(y)[:, 0])
        return self.points.pop(0)


@pytest.mark.parametrize(("space", "data_set"), [("5860", "9976"), ("9999", "7")])
def test_starts_and_predictions_are_those_of_the_benchmarks_own_handler(published, space, data_set):
    points = np.random.default_rng(1).uniform(0, 1, (7, SPACES[space]))
    recorder = Recorder(points)
    handler = HPOBHandler(f"{published}/hpob-data/", "v3-test", f"{published}/saved-surrogates/")
    handler.evaluate_continuous(recorder, space, data_set, "test3", n_trials=7)
    x, y = recorder.shown  # before the last of the points is evaluated

    experimenter = HPOBExperimenter(Archive(published), space, data_set)
    names = NAMES.get(space, [f"x{index}" for index in range(SPACES[space])])
    problem = experimenter.problem_statement()
    assert [(p.name, p.type.name, p.bounds) for p in problem.search_space.parameters] == [
        (name, "DOUBLE", (0.0, 1.0)) for name in names
    ]
    assert problem.metric_information.item().goal == vz.ObjectiveMetricGoal.MAXIMIZE
    trials = experimenter.start("test3")
    assert len(trials) == 5
    suggested = [vz.Trial(dict(zip(names, point.tolist(), strict=True))) for point in points[:6]]
    experimenter.evaluate(suggested)
    trials += suggested
    np.testing.assert_allclose([[trial.parameters[name].value for name in names] for trial in trials], x)
    observed = [trial.final_measurement.metrics[METRIC].value for trial in trials]
    np.testing.assert_allclose(observed, y, rtol=1e-6)
    assert min(observed) >= 0.0
    assert max(observed) <= 1.0


def test_objectives_may_be_as_the_surrogate_gives_them(published):
    archive = Archive(published)
    points = np.random.default_rng(2).uniform(0, 1, (30, 2))
    raw = HPOBExperimenter(archive, "5860", "31", normalized=False)
    booster = xgboost.Booster(model_file=str(archive.models["5860", "31"]))
    np.testing.assert_allclose(raw.values(points), booster.predict(xgboost.DMatrix(points)), rtol=1e-6)
    low, high = archive.range_of("5860", "31")
    expected = np.clip((raw.values(points) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(HPOBExperimenter(archive, "5860", "31").values(points), expected)
    assert 0.0 in expected
    raw.evaluate([])


def test_wrong_names_are_refused(published):
    archive = Archive(published)
    with pytest.raises(ValueError, match="no surrogate of search space 5860 on data set 8"):
        HPOBExperimenter(archive, "5860", "8")
    with pytest.raises(ValueError, match=r"no start 'test9'.*known are test0, test1"):
        HPOBExperimenter(archive, "5860", "31").start("test9")


def test_what_is_missing_or_damaged_is_named(copy):
    assert set(Archive(copy).models) == {("5860", "31"), ("5860", "9976"), ("9999", "7")}
    statistics = json.loads((copy / "summary-stats.json").read_text())
    statistics["surrogate-5860-31"] = {"y_min": 0.5, "y_max": 0.5}
    (copy / "summary-stats.json").write_text(json.dumps(statistics))
    with pytest.raises(ValueError, match=r"no range .* for surrogate-5860-31"):
        HPOBExperimenter(Archive(copy), "5860", "31")
    HPOBExperimenter(Archive(copy), "5860", "31", normalized=False)
    (copy / "summary-stats.json").write_text("[")
    with pytest.raises(ValueError, match=r"summary-stats.json: not JSON"):
        HPOBExperimenter(Archive(copy), "5860", "9976")

    starts = json.loads((copy / "bo-initializations.json").read_text())
    starts["5860"]["31"]["test0"] = [0, 1, 2, 3, ROWS]
    (copy / "bo-initializations.json").write_text(json.dumps(starts))
    with pytest.raises(ValueError, match=r"meta-test-dataset.json: 5860/31: lacks rows"):
        _ = Archive(copy).starts
    whole = (copy / "meta-test-dataset.json").read_text()
    (copy / "meta-test-dataset.json").write_text(whole[:100])
    with pytest.raises(ValueError, match=r"meta-test-dataset.json: .*(expected|delimiter)"):
        _ = Archive(copy).starts
    (copy / "meta-test-dataset.json").unlink()
    with pytest.raises(ValueError, match="no meta-dataset has the rows"):
        _ = Archive(copy).starts
    (copy / "bo-initializations.json").unlink()
    with pytest.raises(ValueError, match=r"no bo-initializations.json"):
        _ = Archive(copy).starts

    (copy / "surrogate-9999-7.json").write_text("{}")
    with pytest.raises(ValueError, match=r"surrogate-9999-7.json: cannot be loaded"):
        HPOBExperimenter(Archive(copy), "9999", "7", normalized=False)
    (copy / "surrogate-5860-9976.json").write_bytes((copy / "surrogate-5860-31.json").read_bytes())
    (copy / "meta-dataset-descriptors.json").write_text(json.dumps({"5860": {"variables_order": ["a", "b", "c"]}}))
    with pytest.raises(ValueError, match="takes 2 parameters, search space 5860 has 3"):
        HPOBExperimenter(Archive(copy), "5860", "9976", normalized=False)
    for path in copy.glob("surrogate-*"):
        path.unlink()
    with pytest.raises(ValueError, match="no surrogate in it"):
        Archive(copy)
    with pytest.raises(ValueError, match="no such folder"):
        Archive(copy / "nowhere")


def test_the_test_split_is_held_out(published):
    settings = registry.Settings(hpob_dir=str(published))
    assert {problem.name for problem in registry.problems("hpob", settings)} == {"5860/31", "9999/7"}
    (held_out,) = registry.problems("hpob-held-out", settings)
    assert (held_out.name, held_out.parameters, held_out.conditional) == ("5860/9976", 2, False)
    assert len(HELD_OUT) == 16
    assert sum(map(len, HELD_OUT.values())) == 86
    with pytest.raises(ValueError, match="--hpob-dir"):
        registry.problems("hpob")


def test_studies_may_begin_with_the_given_starts(published, tmp_path):
    plan = Plan(
        problems=("hpob", "hpob-held-out"),
        teachers=("random_search", "shuffled_grid_search", "hill_climb", "eagle_strategy", "tpe"),
        studies=20,
        trials=(7, 7),
        hpob_dir=str(published),
        hpob_starts=True,
        infeasible_rate=0.3,
    )
    summary = generate_corpus(plan, tmp_path / "one.jsonl")
    generate_corpus(plan, tmp_path / "two.jsonl", processes=2)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert summary.failed == 0
    studies = list(read(tmp_path / "one.jsonl"))
    assert len(studies) == 20
    began = set()
    for study in studies:
        facts = study.problem.metadata.ns("optformer")
        space, data_set = facts["problem"].split("/")
        began.add(facts["start"])
        start = HPOBExperimenter(Archive(published), space, data_set).start(facts["start"])
        assert [trial.parameters for trial in study.trials[:5]] == [trial.parameters for trial in start]
        for trial, given in zip(study.trials, start, strict=False):
            assert trial.infeasible or trial.final_measurement.metrics == given.final_measurement.metrics
    assert len(began) > 2
    assert any(trial.infeasible for study in studies for trial in study.trials[:5])
    assert "search space 5860 on OpenML task" in "".join(
        study.problem.metadata.ns("optformer")["description"] for study in studies
    )


def test_problems_without_a_given_start_begin_without(copy, tmp_path_factory):
    starts = json.loads((copy / "bo-initializations.json").read_text())
    del starts["9999"]
    (copy / "bo-initializations.json").write_text(json.dumps(starts))
    (copy / "unrelated.json").write_text("{")
    plan = Plan(problems=("hpob",), studies=4, trials=(6, 6), hpob_dir=str(copy), hpob_starts=True)
    assert schedule(plan).left_out == ("hpob: 1 of 2 problems have no starts",)
    generate_corpus(plan, tmp_path_factory.mktemp("out") / "c.jsonl")
    studies = [generate_study(plan, index) for index in range(4)]
    facts = [study.problem.metadata.ns("optformer") for study in studies]
    assert {(each["problem"], "start" in each) for each in facts} == {("5860/31", True), ("9999/7", False)}


def test_files_that_have_changed_are_another_plan(copy, tmp_path_factory):
    plan = Plan(problems=("hpob",), teachers=("random_search",), studies=3, trials=(2, 2), hpob_dir=str(copy))
    out = tmp_path_factory.mktemp("out") / "c.jsonl"

    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_corpus(plan, out, progress=stop)
    (copy / "summary-stats.json").write_text((copy / "summary-stats.json").read_text() + " ")
    with pytest.raises(ValueError, match="the files of its problems have changed"):
        generate_corpus(plan, out)
