"""Checkpoints by name and directory, forms of candidates, and what importing costs."""

import gc
import json
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from vizier import pyvizier as vz

import optformer
from optformer import OptFormer, facade, pretrained
from optformer.inference import compiled
from optformer.model import load_checkpoint, read_checkpoint_info, save_checkpoint
from optformer.serve import testing

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def checkpoint(weights, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints") / "mine"
    save_checkpoint(directory, weights, {"name": "mine", "steps": 7})
    return directory


def finished(problem, model, count=6):
    trials = []
    for number, suggestion in enumerate(model.suggest(problem, [], count=count), 1):
        value = testing.objective(suggestion.parameters.as_dict())
        trials.append(suggestion.to_trial(number).complete(vz.Measurement(metrics={"objective": value})))
    return trials


# Candidates.


def test_candidates_may_be_suggestions_trials_parameters_or_dictionaries(model):
    problem = testing.mixed_problem()
    trials = finished(problem, model)
    (suggestion,) = model.suggest(problem, trials)
    forms = [suggestion, suggestion.to_trial(9), suggestion.parameters, suggestion.parameters.as_dict()]
    means = model.predict(problem, trials, forms).mean
    np.testing.assert_array_equal(means, means[0])
    assert len({model.log_prob(problem, trials, form) for form in forms}) == 1


def test_candidates_of_another_kind_are_errors(model):
    problem = testing.mixed_problem()
    with pytest.raises(TypeError, match="put a single one into a list"):
        model.predict(problem, [], {"x": 1.0})
    with pytest.raises(TypeError, match="candidate 0 is not a suggestion"):
        model.predict(problem, [], [3.0])
    with pytest.raises(ValueError, match="'dropout'"):
        model.predict(problem, [], [{"dropout": 7.0}])


def test_threads_may_share_a_model(model):
    problem = testing.mixed_problem()
    trials = finished(problem, model)
    alone = model.suggest(problem, trials)[0].parameters
    found = []
    threads = [threading.Thread(target=lambda: found.append(model.suggest(problem, trials)[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [suggestion.parameters for suggestion in found] == [alone] * 3


# Checkpoints.


def test_a_checkpoint_directory_gives_the_model_that_was_saved(checkpoint, weights):
    loaded = OptFormer.from_pretrained(checkpoint)
    assert loaded.name == "mine"
    assert loaded.card["steps"] == 7
    problem = testing.mixed_problem()
    built = OptFormer(weights)
    trials = finished(problem, built, count=5)
    candidates = [trial.parameters for trial in trials]
    np.testing.assert_allclose(
        loaded.predict(problem, trials, candidates).mean, built.predict(problem, trials, candidates).mean, rtol=1e-5
    )


def test_a_training_directory_is_as_good_as_its_weights(checkpoint, weights, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="not exported weights yet"):
        OptFormer.from_pretrained(tmp_path)
    save_checkpoint(tmp_path / "export", weights, {"name": "trained"})
    assert OptFormer.from_pretrained(tmp_path).name == "trained"
    assert OptFormer.from_pretrained(str(tmp_path)).name == "trained"


def test_models_are_loaded_once_per_process(checkpoint, model):
    assert facade.load(checkpoint) is facade.load(str(checkpoint))
    assert facade.load(model) is model


def test_a_model_whose_files_have_changed_replaces_the_old_one(weights, tmp_path):
    save_checkpoint(tmp_path / "mine", weights, {})
    old = weakref.ref(facade.load(tmp_path / "mine"))
    os.utime(tmp_path / "mine" / "config.json", ns=(1, 1))
    new = facade.load(tmp_path / "mine")
    assert facade.load(tmp_path / "mine") is new
    gc.collect()
    assert old() is None


def test_shipped_checkpoints_go_by_name(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"no checkpoint 'huge': name a shipped one \(this release ships none\)"):
        OptFormer.from_pretrained("huge")
    (tmp_path / "mine").symlink_to(checkpoint)
    assert pretrained.pretrained_names() == ["mine"]
    assert OptFormer.from_pretrained("mine").name == "mine"
    with pytest.raises(ValueError, match="no checkpoint 'default'"):
        OptFormer.from_pretrained("default")
    for name in ("nano-2", "nano-10", "x-large"):
        (tmp_path / name).symlink_to(checkpoint)
    assert pretrained.aliases() == {"nano": "nano-10", "default": "nano-10"}
    assert pretrained.checkpoint_path("nano") == pretrained.checkpoint_path("default") == tmp_path / "nano-10"
    assert pretrained.checkpoint_path("nano-2") == tmp_path / "nano-2"
    (tmp_path / "small-1").symlink_to(checkpoint)
    assert pretrained.checkpoint_path("default") == tmp_path / "small-1"
    with pytest.raises(ValueError, match=r"shipped: mine, nano-10, nano-2, small-1, x-large"):
        OptFormer.from_pretrained("huge")


@pytest.mark.parametrize("name", pretrained.pretrained_names())
def test_what_ships_is_whole_and_says_its_own_name(name):
    folder = pretrained.checkpoint_path(name)
    info = read_checkpoint_info(folder)
    assert info.card["name"] == name
    assert info.checksums.keys() == info.files.keys() == {path.name for path in (folder / "weights").iterdir()}
    assert f"# `{name}`" in (folder / "README.md").read_text()
    load_checkpoint(folder)


def test_broken_checkpoints_are_errors_that_name_them(checkpoint, weights, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        OptFormer.from_pretrained(tmp_path / "empty")
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(ValueError, match="incomplete"):
        OptFormer.from_pretrained(half)
    other = tmp_path / "other"
    save_checkpoint(other, weights, {})
    config = json.loads((other / "config.json").read_text())
    config["model"]["feed_forward"] *= 2
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit"):
        OptFormer.from_pretrained(other)


def test_the_card_decides_how_many_trials_are_read(weights):
    settings = OptFormer(weights, {"train_config": {"shape": {"trials": 20}}})._settings
    assert (settings.policy_trials, settings.max_trials) == (20, 60)


# Importing.


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_else_and_takes_no_time():
    code = (
        "import time; start = time.perf_counter(); import optformer; optformer.__version__; "
        "took = time.perf_counter() - start; import sys; "
        "print(took, *[m for m in ('jax', 'vizier', 'numpy', 'tensorflow', 'optuna') if m in sys.modules])"
    )
    run_python(code)
    took, *loaded = run_python(code).split()
    assert loaded == []
    assert float(took) < 1.0


def test_names_of_the_package():
    assert {"OptFormer", "Prediction", "__version__"} <= set(dir(optformer))
    assert optformer.Prediction.__name__ == "Prediction"
    assert optformer.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'Optformer'"):
        _ = optformer.Optformer


# The cache of compiled functions.


def test_the_compilation_cache_can_be_turned_off_moved_and_is_left_alone(monkeypatch, tmp_path):
    import jax

    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv(compiled.CACHE_VARIABLE, "off")
        assert compiled.cache_compilations() is None
        monkeypatch.setenv(compiled.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
        (tmp_path / "file").write_text("in the way")
        assert compiled.cache_compilations() is None
        monkeypatch.delenv(compiled.CACHE_VARIABLE)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert compiled.cache_compilations() == tmp_path / "xdg" / "optformer" / "jax"
        monkeypatch.setenv(compiled.CACHE_VARIABLE, str(tmp_path / "elsewhere"))
        assert compiled.cache_compilations() is None  # chosen already
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "xdg" / "optformer" / "jax")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_the_same_weights_with_other_settings(model):
    other = model.with_settings(rounds=0, max_trials=9)
    assert other.name == model.name
    assert (other._settings.rounds, other._settings.max_trials) == (0, 9)
    assert model._settings.max_trials == 128
    with pytest.raises(TypeError, match="turns"):
        model.with_settings(turns=3)
    with pytest.raises(ValueError, match="max_trials must be at least 1"):
        model.with_settings(max_trials=0)


def test_a_warm_up_leaves_nothing_to_compile(weights):
    model = OptFormer(weights)
    assert model.warm_up(parameters=4, trials=12) > 0.0
    compiled = model._model._functions
    sizes = {name: function.func._cache_size() for name, function in compiled.items()}
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("a", 0.0, 1.0)
    problem.search_space.root.add_int_param("b", 1, 5000)
    problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    trials = [
        vz.Trial(id=k + 1, parameters={"a": k / 10, "b": k + 1}).complete(vz.Measurement(metrics={"y": float(k)}))
        for k in range(9)
    ]
    model.suggest(problem, trials, count=2)
    assert {name: function.func._cache_size() for name, function in compiled.items()} == sizes


def test_algorithms_that_a_checkpoint_does_not_know(weights):
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("a", 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    knowing = OptFormer(weights, {"name": "wise", "algorithms": ["tpe", "gp_ucb"]})
    for ask in (
        lambda name: knowing.suggest(problem, [], algorithm=name),
        lambda name: knowing.predict(problem, [], [{"a": 0.5}], algorithm=name),
        lambda name: knowing.log_prob(problem, [], {"a": 0.5}, algorithm=name),
    ):
        with pytest.raises(ValueError, match="unknown algorithm 'tpee'; wise knows tpe, gp_ucb"):
            ask("tpee")
        ask("tpe")
        ask(None)
    assert OptFormer(weights).check_algorithm("anything") == "anything"
    assert "eagle_strategy" in read_checkpoint_info(pretrained.checkpoint_path("nano")).card["algorithms"]
