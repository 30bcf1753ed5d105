"""The command line: answers on stdout, a mistake is one line on stderr and exit code 2."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time

import optuna
import pytest

from optformer.cli import main
from optformer.commands import doctor

pytestmark = pytest.mark.integration

optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(trial: optuna.Trial) -> float:
    x, n = trial.suggest_float("x", 0.0, 1.0), trial.suggest_int("n", 1, 8)
    return x + n + len(trial.suggest_categorical("kind", ["a", "bb"]))


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("studies") / "log.db"
    for name in ("first", "second"):
        study = optuna.create_study(
            storage=f"sqlite:///{path}", study_name=name, sampler=optuna.samplers.RandomSampler(seed=len(name))
        )
        study.optimize(objective, n_trials=8)
    return str(path)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_suggestions_as_json(capsys, database, checkpoint):
    code, out, _ = run(
        capsys, "suggest", database, "--study", "first", "--checkpoint", checkpoint, "--count", "2", "--json"
    )
    assert code == 0
    answer = json.loads(out)
    assert (answer["study"], answer["trials"], answer["checkpoint"]) == ("first", 8, "random-tiny")
    assert len(answer["suggestions"]) == 2
    for suggestion in answer["suggestions"]:
        assert set(suggestion["parameters"]) == {"x", "n", "kind"}
        assert isinstance(suggestion["parameters"]["n"], int)
        assert suggestion["reason"]["source"] == "ei"


def test_earlier_studies_are_named_on_the_command_line(capsys, database, checkpoint, tmp_path):
    other = optuna.create_study(storage=f"sqlite:///{tmp_path}/other.db", study_name="like it")
    other.optimize(lambda trial: trial.suggest_float("x", 0.0, 2.0), n_trials=5)
    unlike = optuna.create_study(storage=f"sqlite:///{tmp_path}/other.db", study_name="unlike it")
    unlike.optimize(lambda trial: trial.suggest_float("y", 0.0, 2.0), n_trials=5)
    asked = ("suggest", database, "--study", "first", "--checkpoint", checkpoint, "--json")
    alone = json.loads(run(capsys, *asked)[1])
    assert alone["prior_studies"] == []
    code, out, _ = run(capsys, *asked, "--prior", f"{tmp_path}/other.db", "--prior", database, "--explain")
    assert code == 0
    told = json.loads(out)
    assert told["prior_studies"] == ["like it", "second"]
    assert told["suggestions"][0]["reason"] != alone["suggestions"][0]["reason"]
    assert run(capsys, *asked, "--prior", f"{tmp_path}/other.db", "--prior", database, "--explain")[1] == out
    code, out, _ = run(capsys, *asked[:-1], "--prior", f"{database}::second")
    assert code == 0
    assert "1 earlier study" in out
    for prior, message in (
        (f"{tmp_path}/other.db::third", "no study 'third'"),
        (f"{database}::first", "this is the new study itself"),
        ("nowhere.db", "nowhere.db: no such file"),
    ):
        code, _, err = run(capsys, *asked, "--prior", prior)
        assert (code, message in err) == (2, True), err
    unlike_asked = ("suggest", f"{tmp_path}/other.db", "--study", "unlike it", "--checkpoint", checkpoint)
    code, _, err = run(capsys, *unlike_asked, "--prior", database)
    assert (code, "no other study in this file shares a parameter with 'unlike it'" in err) == (2, True), err


def test_a_belief_is_read_from_a_file(capsys, database, checkpoint, tmp_path):
    path = tmp_path / "belief.json"
    asked = ["suggest", database, "--study", "first", "--checkpoint", checkpoint, "--json", "--belief", str(path)]
    path.write_text('{"x": ["normal", 0.5, 0.1]}')
    code, out, _ = run(capsys, *asked)
    assert code == 0
    assert 0 < float(json.loads(out)["suggestions"][0]["reason"]["belief"]) <= 1
    for text, said in (("{", "belief.json"), ('{"x": ["normal", 0.5, 0]}', "parameter 'x': the stddev is 0")):
        path.write_text(text)
        code, _, err = run(capsys, *asked)
        assert code != 0
        assert said in err


def test_a_cost_is_an_attribute_a_metric_or_the_duration(capsys, checkpoint, tmp_path):
    storage = f"sqlite:///{tmp_path}/dear.db"
    study = optuna.create_study(storage=storage, study_name="dear", sampler=optuna.samplers.RandomSampler(0))
    for number in range(5):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0.0, 1.0)})
        trial.set_user_attr("dollars", 2.0 + number)
        trial.set_user_attr("note", "cheap")
        study.tell(trial, trial.params["x"])
    asked = ["suggest", f"{tmp_path}/dear.db", "--checkpoint", checkpoint]
    for cost, least, most in (("dollars", 2.0, 6.0), ("duration", 0.0, 60.0)):
        code, out, err = run(capsys, *asked, "--json", "--cost", cost)
        assert code == 0, err
        assert least <= float(json.loads(out)["suggestions"][0]["reason"]["cost"]) <= most
    code, out, _ = run(capsys, *asked, "--cost", "dollars", "--explain")
    assert (code, "cost" in out) == (0, True)
    for arguments, said in (
        (["--cost", "euros"], "--cost euros: no finished trial of study 'dear' has a metric or user attribute"),
        (["--cost", "note"], "--cost note: no finished trial of study 'dear' has a metric or user attribute"),
        (["--cost", "dollars", "--acquisition", "ucb"], "a cost needs the acquisition"),
    ):
        code, _, err = run(capsys, *asked, *arguments)
        assert (code, said in err) == (2, True), err


def test_suggestions_as_a_table(capsys, database, checkpoint):
    code, out, _ = run(capsys, "suggest", database, "--study", "second", "--checkpoint", checkpoint)
    assert code == 0
    for told in ("second", "random-tiny", "suggestion 1", "kind", "quantile 50"):
        assert told in out


def test_suggestions_are_explained(capsys, database, checkpoint):
    arguments = ("suggest", database, "--study", "first", "--checkpoint", checkpoint, "--explain")
    code, out, _ = run(capsys, *arguments, "--count", "2")
    assert code == 0
    assert out.count("Found as the highest expected improvement of all candidates.") == 2
    assert out.count("away: ") == 6
    code, out, _ = run(capsys, *arguments)
    table, sentences = out.split("\nsuggestion 1\n")
    figures = re.findall(r"│ \w+: (.+?) +│ +(.+?) +│", table)
    assert [what for what, _ in figures] == ["expected", "90 % between", "best so far", "better with", "fails with"]
    assert all(f"{what} {figure}" in sentences for what, figure in figures)
    code, out, _ = run(capsys, *arguments, "--json")
    (suggestion,) = json.loads(out)["suggestions"]
    explanation = suggestion["explanation"]
    assert explanation["expectations"][0]["median"] == pytest.approx(
        float(suggestion["reason"]["quantile_50"]), rel=1e-3
    )
    assert len(explanation["neighbours"]) == 3


def test_a_corpus_is_imported_described_and_suggested_from(capsys, database, checkpoint, tmp_path):
    corpus = str(tmp_path / "corpus.jsonl")
    code, out, _ = run(capsys, "corpus", "import", database, "--out", corpus)
    assert code == 0
    assert "2 studies" in out
    assert run(capsys, "corpus", "info", corpus)[0] == 0
    arguments = ("suggest", corpus, "--study", "first", "--checkpoint", checkpoint, "--json")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert json.loads(out)["trials"] == 8


def test_doctor_reports_versions_checkpoint_and_times(capsys, checkpoint):
    code, out, _ = run(capsys, "doctor", "--checkpoint", checkpoint)
    assert code == 0
    for told in (
        "jax",
        "google-vizier",
        "cpu",
        "random-tiny",
        "steps: 0",
        "cold:",
        "warm:",
        "8 parameters are ready",
        "at its highest",
    ):
        assert told in out


def test_doctor_examines_the_checkpoint_that_suggestions_use(capsys, checkpoint, tmp_path, monkeypatch):
    for name in ("nano-1", "nano-2"):
        (tmp_path / name).symlink_to(checkpoint, target_is_directory=True)
    monkeypatch.setattr("optformer.pretrained.FOLDER", tmp_path)
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert f"checkpoint random-tiny in {tmp_path / 'nano-2'}\n" in out


def test_doctor_says_which_extra_a_backend_lacks(capsys, checkpoint, monkeypatch):
    monkeypatch.setitem(doctor.USES, "Optuna", (("no_such_module",), "optuna"))
    _, out, _ = run(capsys, "doctor", "--checkpoint", checkpoint)
    assert "Optuna             no: pip install 'optformer[optuna]'" in out
    assert "JSON over HTTP     can be used" in out


def test_version_and_help(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("optformer ")
    code, out, _ = run(capsys, "suggest", "--help")
    assert code == 0
    assert "--acquisition" in out


MISTAKES = {
    "unknown command": (["tune"], "invalid choice: 'tune'"),
    "missing argument": (["suggest"], "required: STUDY"),
    "no such study file": (["suggest", "nowhere.db"], "nowhere.db: no such file"),
    "no study store": (["suggest", "{text}"], "no study store"),
    "several studies": (["suggest", "{database}"], "several studies"),
    "unknown study": (["suggest", "{database}", "--study", "third"], "no study 'third'"),
    "no such checkpoint": (
        ["suggest", "{database}", "--study", "first", "--checkpoint", "nowhere"],
        "no checkpoint 'nowhere'",
    ),
    "empty checkpoint": (["suggest", "{database}", "--study", "first", "--checkpoint", "{empty}"], "is empty"),
    "unknown acquisition": (
        ["suggest", "{database}", "--study", "first", "--checkpoint", "{checkpoint}", "--acquisition", "best"],
        "unknown acquisition 'best'",
    ),
    "no suggestions": (["suggest", "{database}", "--count", "0"], "--count must be from 1 to 1000, not 0"),
    "too many suggestions": (["report", "{database}", "--count", "1001"], "--count must be from 0 to 1000, not 1001"),
    "negative seed": (["suggest", "{database}", "--seed", "-1"], "--seed must not be negative"),
    "an objective as cost": (
        ["suggest", "{database}", "--study", "first", "--cost", "objective"],
        "study 'first': the cost 'objective' has the name of an objective",
    ),
    "count is not a number": (["suggest", "{database}", "--count", "many"], "invalid int value: 'many'"),
    "doctor without its checkpoint": (["doctor", "--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
    "no such corpus": (["corpus", "info", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
    "no such mapping": (["corpus", "info", "{database}", "--mapping", "nowhere.json"], "nowhere.json: no such file"),
    "no such input": (["corpus", "import", "nowhere.db", "--out", "{out}"], "nowhere.db: no such file"),
    "unknown format": (["corpus", "import", "{database}", "--out", "{out}", "--format", "csv"], "'csv'"),
    "no such config": (["train", "nowhere.py", "--workdir", "{out}"], "nowhere.py"),
    "unknown config key": (["train", "tiny_logs", "--workdir", "{out}", "--set", "stepps=3"], "stepps"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, database, checkpoint, tmp_path, name):
    (tmp_path / "text.txt").write_text("not a database\n")
    (tmp_path / "empty").mkdir()
    places = {
        "database": database,
        "checkpoint": checkpoint,
        "text": tmp_path / "text.txt",
        "empty": tmp_path / "empty",
        "out": tmp_path / "out",
    }
    arguments, message = MISTAKES[name]
    code, out, err = run(capsys, *(argument.format(**places) for argument in arguments))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    assert out == "" or arguments[0] == "doctor"  # which says first what it found


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="no such file"):
        main(["--debug", "suggest", "nowhere.db"])


def test_without_a_command_it_shows_its_help(capsys):
    code, out, _ = run(capsys)
    assert code == 2
    assert "suggest" in out


def test_mistyped_arguments_are_answered_at_once():
    command = [sys.executable, "-m", "optformer.cli", "suggest", "--cuont", "3"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert time.perf_counter() - started < 2.0
    code = "import sys; from optformer.cli import main; main(['--version']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_letters_that_the_terminal_lacks(tmp_path):
    storage = f"sqlite:///{tmp_path}/log.db"
    optuna.create_study(storage=storage, study_name="größer").optimize(objective, n_trials=1)
    command = [sys.executable, "-m", "optformer.cli", "studies", str(tmp_path / "log.db")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0
    assert "gr\\xf6\\xdfer" in done.stdout


def test_an_interrupt_within_a_callback_is_not_lost(monkeypatch):
    """Python only prints what such a callback raises; jax has one, which takes a while."""

    def slow(phase, info):
        gc.callbacks.remove(slow)
        raise KeyboardInterrupt

    def command(arguments):
        gc.callbacks.append(slow)
        gc.collect()
        time.sleep(1.0)
        return 0

    monkeypatch.setattr(doctor, "run", command)
    hook = sys.unraisablehook
    # A shell may start programs in the background with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["doctor"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert sys.unraisablehook is hook


def test_a_terminal_obeys_no_name(capsys, tmp_path, checkpoint):
    """Names come from files of others: what would clear the screen is shown, not done."""
    storage, name = f"sqlite:///{tmp_path}/log.db", "study \x1b[2J"
    study = optuna.create_study(storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("x \x1b[31m", 0.0, 1.0), n_trials=4)
    optuna.create_study(storage=storage, study_name="other \x1b[2J")
    path = str(tmp_path / "log.db")
    code, out, _ = run(capsys, "suggest", path, "--study", name, "--checkpoint", checkpoint, "--explain")
    assert code == 0
    assert "x \\x1b[31m" in out
    code, _, err = run(capsys, "suggest", path, "--study", "missing \x1b[2J", "--checkpoint", checkpoint)
    assert code == 2
    assert "\\x1b[2J" in err
    assert "\x1b" not in out + err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--lease", "0"], "--lease must be more than 0 seconds, not 0"),
        (["--lease", "nan"], "--lease must be more than 0 seconds"),
        (["--lease", "60", "--pythia-for", "localhost:1"], "give --lease to that server"),
        (["--port", "65536"], "--port must be from 0 to 65535, not 65536"),
        (["--http", "--http-port", "-1"], "--http-port must be from 0 to 65535, not -1"),
        (["--metrics-port", "99999"], "--metrics-port must be from 0 to 65535, not 99999"),
        (["--database-url", "sqlite://", "--acquisition", "best"], "unknown acquisition 'best'"),
    ],
)
def test_settings_of_a_server_that_make_no_sense(capsys, arguments, said):
    code, _, err = run(capsys, "serve", *arguments)
    assert code == 2
    assert said in err


@pytest.mark.parametrize("command", ["studies", pytest.param("report", marks=pytest.mark.slow)])
def test_a_pipe_that_is_closed_early_is_no_failure(database, checkpoint, tmp_path, command):
    arguments = [command, database]
    if command == "report":
        arguments += ["--study", "first", "--checkpoint", checkpoint, "--count", "1", "--html", f"{tmp_path}/page.html"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command_line = [sys.executable, "-m", "optformer.cli", *arguments]
        ended = subprocess.run(command_line, stdout=writing, stderr=-1, text=True)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
    if command == "report":
        assert (tmp_path / "page.html").read_text().rstrip().endswith("</html>")


def test_the_page_of_a_study_with_a_very_long_name(capsys, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(storage="sqlite:///log.db", study_name="\u5b66" * 400)
    study.optimize(objective, n_trials=1)
    code, out, _ = run(capsys, "report", "log.db", "--checkpoint", checkpoint, "--count", "0", "--html")
    assert code == 0
    (page,) = tmp_path.glob("*.html")
    assert f"Page: {page.name}" in out
