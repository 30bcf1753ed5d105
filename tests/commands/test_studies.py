"""`optformer studies` and `optformer report`: how studies stand, what the model makes of them, what comes next."""

import html
import json
import re

import optuna
import pytest

from optformer.cli import main

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.CRITICAL)

ESCAPE = "\x1b[31mred"


def tuned(trial: optuna.Trial) -> float:
    rate, layers = trial.suggest_float("rate", 1e-4, 1.0, log=True), trial.suggest_int("layers", 1, 8)
    trial.suggest_categorical("kind", ["a", "b"])
    trial.report(7.5, 3)
    if trial.number == 4:
        raise optuna.TrialPruned
    if trial.number == 6:
        raise RuntimeError("out of memory")
    return rate + layers


def two(trial: optuna.Trial) -> tuple[float, float]:
    x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
    return x, x * y


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("studies") / "log.db"

    def create(name: str, **options):
        sampler = optuna.samplers.RandomSampler(seed=0)
        return optuna.create_study(storage=f"sqlite:///{path}", study_name=name, sampler=sampler, **options)

    study = create("tuned & tested")
    study.optimize(tuned, n_trials=10, catch=(RuntimeError,))
    study.ask({"rate": optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)})
    create("two", directions=["minimize", "maximize"]).optimize(two, n_trials=8)
    create(ESCAPE).optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    create("empty")
    return str(path)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_studies_with_their_trials_and_best_values(database, capsys):
    code, out, err = run(capsys, "studies", database)
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")] for line in out.splitlines() if "│" in line]
    by_name = {row[0]: row for row in rows}
    best = min(
        trial.value
        for trial in optuna.load_study(study_name="tuned & tested", storage=f"sqlite:///{database}").get_trials(
            states=(optuna.trial.TrialState.COMPLETE,)
        )
    )
    # trials, finished, running, stopped, failed
    assert by_name["tuned & tested"][1:8] == ["minimize objective", "11", "8", "1", "1", "1", f"{best:.6g}"]
    assert by_name["two"][2:7] == ["8", "8", "0", "0", "0"]
    assert by_name["\\x1b[31mred"][2] == "3"
    assert "\x1b" not in out + err
    assert err == "left out: study empty: no trials\n"
    code, out, _ = run(capsys, "studies", database, "--json")
    tuned_one, other, _ = json.loads(out)
    assert tuned_one["states"] == {"finished": 8, "running": 1, "stopped": 1, "failed": 1}
    assert tuned_one["objectives"][0]["best"] == best
    assert [each["goal"] for each in other["objectives"]] == ["minimize", "maximize"]


def test_a_file_without_a_study(tmp_path, capsys):
    optuna.create_study(storage=f"sqlite:///{tmp_path}/s.db", study_name="empty")
    code, _, err = run(capsys, "studies", f"{tmp_path}/s.db")
    assert (code, err) == (1, "left out: study empty: no trials\n")
    (tmp_path / "other").write_text("text")
    code, _, err = run(capsys, "studies", f"{tmp_path}/other")
    assert code == 2
    assert "other: no study store" in err


def test_of_a_study_that_cannot_be_used_no_single_trials_are_listed(tmp_path, capsys):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/s.db", study_name="constant")
    study.optimize(lambda trial: 1.0, n_trials=3)
    _, _, err = run(capsys, "studies", f"{tmp_path}/s.db")
    assert err == "left out: study constant: no parameters: no trial suggested one before it ended\n"


def test_a_report_is_one_page_that_needs_no_other_file(database, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("report", database, "--study", "tuned & tested", "--checkpoint", checkpoint, "--count", "2")
    code, out, _ = run(capsys, *arguments, "--html")
    assert code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["tuned-tested.html"]
    page = (tmp_path / "tuned-tested.html").read_text()
    assert "<title>Study tuned &amp; tested</title>" in page
    assert page.count('<img alt="') == page.count('src="data:image/png;base64,') == 4
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    text = html.unescape(re.sub(r"<[^>]+>", "|", page))
    for row in (
        "11||8||1||1||1",  # trials by state
        "4||stopped||pruned||objective 7.5 (step 3)",
        "6||failed||failed",
    ):
        assert row in text
    # The same reasons and numbers on the terminal and on the page.
    sentences = [line.strip() for line in out.splitlines() if "away: " in line or "90 % between" in line]
    assert len(sentences) == 2 + 2 * 3
    assert all(sentence in text for sentence in sentences)
    assert "Found as the highest expected improvement" in text
    code, again, _ = run(capsys, *arguments)
    assert again == out[: out.index("Page: ")]


def test_a_report_of_several_objectives(database, checkpoint, tmp_path, capsys):
    page = tmp_path / "folder" / "two.html"
    code, out, _ = run(capsys, "report", database, "--study", "two", "--checkpoint", checkpoint, "--html", str(page))
    assert code == 0
    content = page.read_text()
    assert content.count('<img alt="') == 8
    assert "objective_0 (minimize)" in content
    assert "objective_1 (maximize)" in content
    # Of the trials in the table none is better than another in both.
    table = out[out.index("no other trial beats") : out.index("Importance")]
    values = [tuple(map(float, line.split("│")[1:3])) for line in table.splitlines() if "│" in line]
    assert values
    assert not any(a != b and a[0] <= b[0] and a[1] >= b[1] for a in values for b in values)


def test_constraints_on_outcomes_of_a_logged_study(checkpoint, tmp_path, capsys):
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.set_constraint("heat", 0.6 - x)
        return x

    database = f"{tmp_path}/s.db"
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(storage=f"sqlite:///{database}", study_name="s", sampler=sampler)
    study.optimize(objective, n_trials=12)
    too_hot = [trial for trial in study.trials if trial.constraints["heat"] > 0]
    assert min(study.trials, key=lambda trial: trial.value) in too_hot
    best = min(trial.value for trial in study.trials if trial not in too_hot)
    code, out, _ = run(capsys, "studies", database, "--json")
    assert (code, json.loads(out)[0]["objectives"][0]["best"]) == (0, best)
    page = tmp_path / "s.html"
    code, out, _ = run(capsys, "report", database, "--checkpoint", checkpoint, "--html", str(page))
    assert code == 0
    assert "break a constraint" in out
    assert "constraint heat: meets its threshold with" in out
    text = html.unescape(re.sub(r"<[^>]+>", "|", page.read_text()))
    assert f"12||12||0||0||0||{len(too_hot)}" in text
    listed = text[text.index("Trials that break a constraint") :]
    for trial in too_hot:
        assert f"{trial.number}||{trial.value:.6g}||{trial.constraints['heat']:.6g}||" in listed
    code, out, _ = run(capsys, "suggest", database, "--study", "s", "--checkpoint", checkpoint, "--json")
    assert code == 0
    assert {"constraints_hold", "holds:constraint heat"} <= json.loads(out)["suggestions"][0]["reason"].keys()


def test_a_report_of_failures_alone_has_no_pictures(checkpoint, tmp_path, capsys):
    def fails(trial):
        trial.suggest_float("x", 0, 1)
        raise RuntimeError

    storage = f"sqlite:///{tmp_path}/s.db"
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(fails, n_trials=3, catch=(RuntimeError,))
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, "report", f"{tmp_path}/s.db", "--checkpoint", checkpoint, "--html", str(page))
    assert code == 0
    assert "<img" not in page.read_text()
    assert "fails with" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--html", "{db}"), "the name of a page must end in .html"),
        (("--study", "none"), "no study 'none' that can be used; `optformer studies {db}` lists all studies"),
        ((), "; name one (--study NAME on the command line)"),
        (("--count", "-1"), "--count must be from 0 to 1000"),
    ],
)
def test_mistakes(arguments, message, database, capsys):
    code, _, err = run(capsys, "report", database, *(each.format(db=database) for each in arguments))
    assert code == 2
    assert message.format(db=database) in err
