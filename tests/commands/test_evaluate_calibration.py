"""`optformer evaluate calibration` end to end, its report, and the mistakes it tells of."""

import json

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.cli import main
from optformer.commands import evaluate_calibration as command
from optformer.data.sources import write_studies
from optformer.evaluate.calibration import prediction, vizier_process
from optformer.evaluate.calibration.forecasts import SampleForecast
from optformer.evaluate.calibration.prediction import MODEL, cut_study, marginal_forecast, score_study
from optformer.evaluate.optimization import real_suites
from optformer.evaluate.report import new_figure, write_json
from optformer.page import Report, Table

pytestmark = pytest.mark.integration


def study(name: str, trials: int, constant: bool = False) -> vz.ProblemAndTrials:
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    problem.search_space.root.add_categorical_param("kind", ["a", "b"])
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    problem.metadata.ns("optformer")["study_id"] = name
    rng = np.random.default_rng(len(name) + trials)
    made = []
    for i in range(trials):
        x = float(rng.uniform())
        trial = vz.Trial({"x": x, "kind": "ab"[i % 2]}, id=i + 1)
        trial.complete(vz.Measurement({"loss": 1.0 if constant else float(np.sin(5 * x) + (i % 2))}))
        made.append(trial)
    return vz.ProblemAndTrials(problem, made)


@pytest.fixture
def log(tmp_path) -> str:
    path = tmp_path / "log.jsonl"
    write_studies(path, [study("one", 14), study("second", 12), study("short", 4), study("flat", 12, constant=True)])
    return str(path)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["evaluate", "calibration", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_end_to_end(capsys, checkpoint, log, tmp_path, monkeypatch):
    monkeypatch.setitem(command.BUDGETS, "small", command.Budget(prior=0, bbob=2, yahpo=0, per_group=6, predicted=4))
    out = tmp_path / "report"
    code, printed, errors = run(
        capsys, "--checkpoint", checkpoint, "--data", "bbob,wild,yahpo", "--wild", log, "--out", str(out),
        "--histories", "3,6", "--baselines", "uniform,marginal,gp,gp_warped,gp_averaged",
    )  # fmt: skip
    assert code == 0, errors
    assert "GP, averaged" in printed
    assert "yahpo was left out" in printed
    assert "--yahpo-dir" in printed
    assert "wild: 2 of 4 studies were left out at 6 known trials" in printed
    result = json.loads((out / "calibration.json").read_text())
    assert result["checkpoint"] == "random-tiny"
    assert [(s["data_set"], s["history"], s["studies"]) for s in result["summaries"]] == [
        ("bbob", 3, 2),
        ("bbob", 6, 2),
        ("wild", 3, 3),
        ("wild", 6, 2),
    ]
    for summary in result["summaries"]:
        assert set(summary["predictors"]) == {MODEL, "uniform", "marginal", "gp", "gp_warped", "gp_averaged"}
        assert summary["predictors"]["uniform"]["relative"]["value"] == pytest.approx(0.0, abs=1e-9)
        assert sum(summary["predictors"][MODEL]["pit_histogram"]) == pytest.approx(1.0)
        assert set(summary["against"]) == set(summary["predictors"]) - {MODEL}
        assert 0 <= summary["against"]["gp"]["share_ahead"]["value"] <= 1
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {"log-density.png", "reliability-bbob.png", "reliability-wild.png", "pit.png", "coverage.png"}
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures)
    assert 'src="http' not in page
    assert "random-tiny" in page


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "prior,mars"], "--data names 'mars'; known are prior, bbob, wild, yahpo"),
        (["--data", ""], "--data names no data set"),
        (["--budget", "huge"], "--budget is 'huge'; known are small, large"),
        (["--histories", "1,5"], "at least 2"),
        (["--histories", "five"], "invalid"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--wild", "nowhere.jsonl"], "--wild nowhere.jsonl: no such file"),
        (["--yahpo-dir", "nowhere"], "nowhere: no such folder"),
        (["--baselines", "gp,oracle"], "--baselines names 'oracle'"),
        (["--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, tmp_path, arguments, message):
    code, _, errors = run(capsys, *arguments, "--out", str(tmp_path / "out"))
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_suite_has_studies_on_its_own_problems_and_bars(capsys, checkpoint, log, tmp_path, monkeypatch):
    problems = [real_suites.BBOBFunction(name, 5) for name in ("Sphere", "Discus")]
    monkeypatch.setattr(real_suites, "suite", lambda *arguments: problems)
    out, suite = tmp_path / "out", ["--suite", "real", "--yahpo-dir", str(tmp_path), "--tables", str(tmp_path)]
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "model.onnx").write_bytes(b"")
    code, printed, errors = run(
        capsys, *suite, "--checkpoint", checkpoint, "--data", "bbob,wild", "--wild", log, "--histories", "5",
        "--out", str(out),
    )  # fmt: skip
    assert code == 0, errors
    assert "of 16 cells (here" in printed
    result = json.loads((out / "calibration.json").read_text())
    assert result["budget"] == "real"
    assert [(s["data_set"], s["studies"]) for s in result["summaries"]] == [("bbob", 2), ("wild", 2)]
    assert set(result["summaries"][0]["predictors"]) == {MODEL, "uniform", "marginal", "gp_averaged"}

    code, _, errors = run(capsys, *suite, "--budget", "large", "--out", str(tmp_path / "none"))
    assert code == 2
    assert "--suite determines --budget: leave it out" in errors


def test_no_study_at_all_is_a_mistake(capsys, checkpoint, log, tmp_path):
    code, _, errors = run(
        capsys, "--checkpoint", checkpoint, "--data", "wild", "--wild", log, "--histories", "50", "--out", str(tmp_path)
    )
    assert code == 2
    assert "nothing could be measured: " in errors
    assert "4 of 4 studies" in errors


# --- Cuts ---


class Blind:
    """Predicts the known objectives' distribution, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def predict(self, problem, trials, candidates):
        self.asked.append((len(trials), len(candidates)))
        y = np.array([trial.final_measurement.metrics["loss"].value for trial in trials])
        return marginal_forecast(y, len(candidates))


def test_later_trials_are_predicted_at_once_or_one_by_one():
    at_once, rolled = Blind(), Blind()
    first = score_study(at_once, study("s", 14), 5, ["uniform", "marginal"], 6)
    second = score_study(rolled, study("s", 14), 5, ["uniform", "marginal"], 6, roll_forward=True)
    assert at_once.asked == [(5, 6)]
    assert rolled.asked == [(5, 1), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1)]
    np.testing.assert_array_equal(first.observed, second.observed)
    assert first.scored[MODEL].log_density[0] == second.scored[MODEL].log_density[0]
    np.testing.assert_array_equal(first.scored[MODEL].log_density, first.scored["marginal"].log_density)
    np.testing.assert_allclose(first.scored["uniform"].log_density, -np.log(first.span))


def test_what_cannot_be_cut_is_none():
    assert cut_study(study("s", 5), 5, 3) is None, "nothing to predict"
    assert cut_study(study("s", 9, constant=True), 5, 3) is None, "nothing to learn"
    cut = cut_study(study("s", 9), 5, 3)
    assert (len(cut.known), len(cut.later), len(cut.y), len(cut.y_new)) == (5, 3, 5, 3)


def test_marginal_is_the_student_of_a_normal_sample():
    from scipy import stats

    y = np.random.default_rng(0).normal(3.0, 2.0, 400)
    y_new = np.linspace(-2, 8, 9)
    np.testing.assert_allclose(marginal_forecast(y, 9).log_prob(y_new), stats.norm(3, 2).logpdf(y_new), atol=0.15)


# --- Vizier's process, which is not installed here: the part that is ours ---


def test_viziers_process_is_asked_for_samples_in_the_objectives_units(monkeypatch):
    class Designer:
        @classmethod
        def from_problem(cls, problem, seed):
            return cls()

        def update(self, completed, active):
            self.known = len(completed.trials)

        def sample(self, suggestions, num_samples):
            return np.random.default_rng(0).normal(self.known, 0.5, (num_samples, len(suggestions)))

    class Module:
        VizierGPBandit = Designer

    monkeypatch.setattr(vizier_process.importlib, "import_module", lambda name: Module)
    assert vizier_process.vizier_is_installed()
    score = score_study(Blind(), study("s", 9), 5, ["vizier_gp"], 3)
    assert set(score.scored) == {MODEL, "vizier_gp"}
    np.testing.assert_allclose(score.scored["vizier_gp"].median, 5.0, atol=0.1)
    assert isinstance(
        vizier_process.vizier_process_forecast(study("s", 9).problem, [], study("s", 2).trials), SampleForecast
    )


def test_missing_packages_are_told(capsys, checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(prediction, "vizier_is_installed", lambda: False)
    code, _, errors = run(capsys, "--baselines", "vizier_gp", "--checkpoint", checkpoint, "--out", str(tmp_path / "o"))
    assert code == 2
    assert "baseline 'vizier_gp' needs packages that are not installed" in errors


# --- The report ---


def test_a_report_escapes_what_it_shows_and_inlines_pictures(tmp_path):
    report = Report("Of <things>", tmp_path / "made")
    report.heading("A & B")
    report.paragraph("1 < 2")
    report.table(Table("T", ["name", "x"], [["<b>", "1"], ["c", "2"]], emphasized=[1]))
    figure, axes = new_figure()
    axes.plot([0, 1])
    picture = report.picture("line", figure, 'a "quoted" caption')
    page = report.write().read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    for expected in ("Of &lt;things&gt;", "A &amp; B", "1 &lt; 2", "&lt;b&gt;", "class=emphasis", "&quot;quoted&quot;"):
        assert expected in page
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["line.png", "report.html"]


def test_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {0.5: [np.float64(1.0), np.nan, np.inf, -np.inf], "a": np.arange(2)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"0.5": [1.0, None, "inf", "-inf"], "a": [0, 1]}
