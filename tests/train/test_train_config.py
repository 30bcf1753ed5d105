"""Config files, names and typed overrides: what a user may write, and what a mistake says."""

import dataclasses
import json

import pytest

from optformer.model import ModelConfig
from optformer.train.config import (
    ConfigError,
    TrainConfig,
    flatten,
    load_config,
    may_change,
    shipped_configs,
    to_dict,
)
from optformer.train.overrides import apply_overrides


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_config_loads_and_says_how_to_run_it(name):
    assert isinstance(load_config(name), TrainConfig)
    import importlib

    module = importlib.import_module(f"optformer.configs.{name}")
    text = (module.__doc__ or "") + (module.get_config.__doc__ or "")
    for word in (f"optformer train {name}", "Hardware", "Time", "Score"):
        assert word in text


def test_overrides_are_read_by_the_type_of_their_field():
    config = apply_overrides(
        TrainConfig(),
        [
            "steps=7",
            "optimizer.learning_rate=1e-4",
            "corpus=logs.jsonl",
            "max_minutes=2",
            "model=small",
            "model.width=64",
            "model.numeric_features=false",
            "model.layout=flat",
            "prior.noise_range=0.01, 0.2",
            "prior.behaviours=random_search:1,quasi_random:0.5",
            "shape.trials=16",
        ],
    )
    assert config.steps == 7
    assert config.optimizer.learning_rate == 1e-4
    assert config.corpus == "logs.jsonl"
    assert config.max_minutes == 2.0
    assert config.model == dataclasses.replace(ModelConfig.small(), width=64, numeric_features=False, layout="flat")
    assert config.prior.noise_range == (0.01, 0.2)
    assert config.prior.behaviours == (("random_search", 1.0), ("quasi_random", 0.5))
    assert config.shape.trials == 16
    assert apply_overrides(config, ["corpus=none", "max_minutes=none"]).corpus is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rat=1", "did you mean optimizer.learning_rate"),
        ("learning_rate=1", "did you mean optimizer.learning_rate"),
        ("stpes=1", "did you mean steps"),
        ("steps.more=1", "unknown config key 'steps.more'"),
        ("steps", "write steps=VALUE"),
        ("steps=1.5", "steps takes a whole number, not '1.5'"),
        ("steps=many", "steps takes a whole number"),
        ("ema_decay=high", "ema_decay takes a number"),
        ("max_minutes=soon", "max_minutes takes a number or none"),
        ("model.numeric_features=1", "takes true or false"),
        ("model.layout=round", "one of pooled, flat"),
        ("model=huge", "one of tiny, nano, small, base, paper"),
        ("optimizer=sgd", "its fields one by one: optimizer.matrices, optimizer.matrix_learning_rate"),
        ("prior.noise_range=1", "2 values separated by commas"),
        ("prior.behaviours=random_search", "pairs written name:weight"),
        ("steps=0", "steps must be positive, not 0"),
        ("model.width=0", "ModelConfig.width must be at least 1"),
        ("prior.log_rate=2", "PriorConfig.log_rate is 2.0"),
        ("corpus_fraction=1.5", "between 0 and 1"),
    ],
)
def test_a_wrong_override_says_what_is_right(override, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        apply_overrides(TrainConfig(), [override])


def test_counts_are_positive():
    names = "prior_steps batch_size accumulate steps checkpoint_every keep log_every eval_batches"
    for name in names.split():
        with pytest.raises(ConfigError, match=f"{name} must be positive, not 0"):
            dataclasses.replace(TrainConfig(), **{name: 0})
    assert dataclasses.replace(TrainConfig(), seed=0, eval_every=0).eval_every == 0


def test_a_config_file_is_found_by_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from optformer.train.config import TrainConfig\ndef get_config():\n  return TrainConfig(steps=3)\n"
    )
    assert load_config(str(path)) == TrainConfig(steps=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no function get_config"),
        ("import no_such_module_of_anyone", "fails on import: ModuleNotFoundError"),
        ("def get_config(): return {}", "returned dict, not"),
        ("def get_config(): raise KeyError('lost')", r"fails: KeyError: 'lost'"),
        ("def get_config(:", "fails on import: SyntaxError"),
    ],
)
def test_a_config_file_with_a_mistake_is_named(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_log", "did you mean tiny_logs"),
        ("nowhere/x.py", "no config file nowhere/x.py"),
        ("zzz", "shipped configs: "),
    ],
)
def test_a_missing_config_lists_what_there_is(name, message):
    with pytest.raises(ConfigError, match=message):
        load_config(name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpus_fraction=0.5"], "add --set corpus=FILE"),
        (["corpus=x"], "corpus_fraction is 0"),
        (["corpus=x", "corpus_fraction=0.001"], "less than half a study"),
        (["steps=5", "optimizer.warmup_steps=6"], "never reach its peak"),
        (["model.layout=flat", "prior.blind_rate=0.1"], "for the pooled layout"),
        (["model.layout=flat", "augmentation.earlier_rate=0.1"], "earlier_rate is for the pooled layout"),
    ],
)
def test_parts_that_do_not_fit_together(overrides, message):
    with pytest.raises(ConfigError, match=message):
        apply_overrides(TrainConfig(), overrides).check_runnable()


def test_json_form_holds_every_field():
    flat = flatten(to_dict(TrainConfig()))
    assert json.loads(json.dumps(flat)) == flat
    assert flat["model.width"] == ModelConfig.nano().width


def test_a_resumed_run_may_change_how_it_is_carried_out_and_nothing_else():
    changeable = {key for key in flatten(to_dict(TrainConfig())) if may_change(key)}
    run = {"checkpoint_every", "checkpoint_minutes", "keep", "log_every", "eval_every", "eval_batches", "max_minutes"}
    step = {"accumulate", "remat", "products"}
    assert changeable == run | step | {"corpus", "mesh.data", "mesh.fsdp", "mesh.tensor", "steps"}
    assert not may_change("corpus_fingerprint")


def test_configs_that_differ_in_how_they_are_run_compile_the_same():
    config = TrainConfig(seed=3, accumulate=4, remat=True, steps=7)
    run = ["keep=9", "log_every=1", "eval_every=0", "max_minutes=1", "corpus=elsewhere", "mesh.fsdp=2"]
    assert apply_overrides(config, run).compiled() == config.compiled() == config
    for other in ("steps=8", "accumulate=2", "remat=false", "seed=4", "corpus_fraction=0.5", "model.width=64"):
        assert apply_overrides(config, [other]).compiled() != config.compiled()
