"""A run that begins with the weights of a checkpoint."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from optformer import pretrained
from optformer.commands.train import main
from optformer.model import ModelConfig, build_model, load_checkpoint, save_checkpoint
from optformer.model.config import REMOVED
from optformer.train.config import ConfigError
from optformer.train.initial import gains, initial_model, with_initial_model
from optformer.train.loop import train
from optformer.train.mesh import make_mesh
from optformer.train.metrics import read_metrics
from optformer.train.step import TRAINING, make_steps

pytestmark = pytest.mark.integration


@pytest.fixture
def checkpoint(config, monkeypatch, tmp_path):
    """A model of its own sizes, which ships as `mine`."""
    model = build_model(dataclasses.replace(config.model, slot_feed_forward=24), seed=7)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "shipped")
    save_checkpoint(tmp_path / "shipped" / "mine", model, {"name": "mine"}, dtype="bfloat16")
    return model


@pytest.fixture
def tuned(config, checkpoint):
    """Two steps that hardly move."""
    optimizer = dataclasses.replace(
        config.optimizer, learning_rate=1e-9, matrix_learning_rate=1e-9, warmup_steps=0, weight_decay=0.0
    )
    return dataclasses.replace(config, init="mine", model=ModelConfig.nano(), steps=2, optimizer=optimizer)


def test_it_takes_over_sizes_and_weights(tuned, checkpoint, tmp_path, capsys):
    result = train(tuned, tmp_path / "run")
    exported, card = load_checkpoint(result.export)
    assert exported.config == checkpoint.config
    for (path, given), (_, trained) in zip(
        nnx.to_flat_state(nnx.state(checkpoint, nnx.Param)),
        nnx.to_flat_state(nnx.state(exported, nnx.Param)),
        strict=True,
    ):
        np.testing.assert_allclose(trained.get_value(), given.get_value(), rtol=1e-2, atol=1e-6, err_msg=str(path))
    # Before and after, on the held-out studies and on the prior, in the log, the card and on the terminal.
    for kind in ("validation_corpus", "validation_prior"):
        lines = read_metrics(tmp_path / "run" / "metrics.jsonl", kind)
        assert [line["step"] for line in lines] == [0, 2]
        assert card["metrics_before"][f"{kind}/function_density"] == lines[0]["function_density"]
    assert card["init"] == "mine"
    assert card["train_config"]["corpus"] == Path(tuned.corpus).name, "the folder does not travel with the weights"
    said = capsys.readouterr().err
    assert "on held-out studies of the corpus: function density" in said
    assert "on the prior: function density" in said
    assert "2 steps of fine-tuning hardly change a model: train 50 or more" in said


def test_it_resumes_as_any_other_run(tuned, tmp_path):
    train(tuned, tmp_path / "whole")
    train(dataclasses.replace(tuned, max_minutes=1e-6), tmp_path / "parts")
    train(tuned, tmp_path / "parts")
    whole, parts = (read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts"))
    assert [line["loss"] for line in parts] == [line["loss"] for line in whole]
    assert load_checkpoint(tmp_path / "parts" / "export")[1]["metrics_before"]


def test_a_run_of_a_release_with_other_fields_is_continued(config, tmp_path):
    first = train(dataclasses.replace(config, max_minutes=1e-6), tmp_path)
    recorded = json.loads((tmp_path / "config.json").read_text())
    del recorded["init"]
    recorded["model"] |= REMOVED
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    assert train(dataclasses.replace(config, max_minutes=1e-6), tmp_path).step == first.step + 1


def test_without_init_nothing_changes(config):
    assert with_initial_model(config) is config
    assert initial_model(config) is None


def test_mistakes_name_the_checkpoint(config, checkpoint, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"init=huge: no checkpoint 'huge': name a shipped one \(shipped: mine\)"):
        with_initial_model(dataclasses.replace(config, init="huge"))
    with pytest.raises(ConfigError, match="init=mine determines the model"):
        with_initial_model(dataclasses.replace(config, init="mine"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is empty"):
        with_initial_model(dataclasses.replace(config, init=str(tmp_path / "empty"), model=ModelConfig.nano()))
    changes = [word for change in ("init=huge", "corpus=none", "corpus_fraction=0") for word in ("--set", change)]
    assert main(["finetune", "--workdir", str(tmp_path / "run"), *changes]) == 2
    assert "no checkpoint 'huge'" in capsys.readouterr().err


def test_gains_are_told_for_the_sources_that_were_validated():
    before = {"validation_prior/function_density": 1.5, "validation_prior/policy_loss": 5.0}
    after = {"validation_prior/function_density": 1.25, "validation_prior/policy_loss": 5.5}
    assert gains(before, after) == [
        "on the prior: function density +1.500 before, +1.250 after; policy loss 5.000 before, 5.500 after"
    ]
    assert gains({}, after) == []


def test_a_checkpoint_is_given_what_it_lacks(config, checkpoint):
    asked = dataclasses.replace(config, init="mine", model=dataclasses.replace(ModelConfig.nano(), policy_recall=True))
    grown = with_initial_model(asked)
    assert grown.model == dataclasses.replace(checkpoint.config, policy_recall=True)
    model = initial_model(grown)
    given = dict(nnx.to_flat_state(nnx.state(checkpoint, nnx.Param)))
    found = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    assert {path[1] for path in found.keys() - given.keys()} == {"recall", "pointer"}
    for path, leaf in given.items():
        np.testing.assert_allclose(found[path].get_value(), leaf.get_value(), rtol=1e-2, atol=1e-6, err_msg=str(path))
    assert not with_initial_model(dataclasses.replace(grown, model=ModelConfig.nano())).model.policy_recall


def test_experts_are_given_and_trained_with_the_head_alone(config, checkpoint, monkeypatch, tmp_path):
    parts = ("experts", "function_head", "norm")
    model = dataclasses.replace(ModelConfig.nano(), experts=2)
    asked = dataclasses.replace(config, init="mine", model=model, steps=3, train_only=parts, eval_every=0)
    grown = with_initial_model(asked)
    assert grown.model == dataclasses.replace(checkpoint.config, experts=2)
    result = train(asked, tmp_path / "run")
    exported, _ = load_checkpoint(result.export)
    started = dict(nnx.to_flat_state(nnx.state(initial_model(grown), nnx.Param)))
    trained = dict(nnx.to_flat_state(nnx.state(exported, nnx.Param)))
    moved = {path for path, leaf in started.items() if not np.array_equal(leaf.get_value(), trained[path].get_value())}
    assert {path[0] for path in moved} == set(parts)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl", "train")
    assert all(np.isfinite(line["experts_loss"]) for line in lines)
    assert with_initial_model(dataclasses.replace(asked, init=str(result.export))).model.experts == 2
    other = dataclasses.replace(asked, init=str(result.export), model=dataclasses.replace(model, experts=3))
    with pytest.raises(ConfigError, match="determines the model"):
        with_initial_model(other)


def test_what_is_given_to_a_model_that_recalls_changes_nothing_at_first(config, monkeypatch, tmp_path):
    recalling = build_model(dataclasses.replace(config.model, policy_recall=True), seed=7)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "shipped")
    save_checkpoint(tmp_path / "shipped" / "mine", recalling, {"name": "mine"}, dtype="float32")
    given = {"policy_succession": True, "policy_header": True}
    asked = dataclasses.replace(ModelConfig.nano(), policy_recall=True, **given)
    grown = with_initial_model(dataclasses.replace(config, init="mine", model=asked))
    assert grown.model == dataclasses.replace(recalling.config, **given)
    batch = make_steps(config, make_mesh(config.mesh)).draw_prior(TRAINING, 0)
    before, after = nnx.jit(recalling)(batch), nnx.jit(initial_model(grown))(batch)
    np.testing.assert_allclose(after.policy, before.policy, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(after.function, before.function)


def test_a_part_can_be_trained_alone(config, checkpoint, tmp_path):
    asked = dataclasses.replace(
        config, init="mine", model=ModelConfig.nano(), steps=3, train_only=("policy",), eval_every=0
    )
    exported, _ = load_checkpoint(train(asked, tmp_path / "run").export)
    started, _ = load_checkpoint(tmp_path / "shipped" / "mine")
    trained = dict(nnx.to_flat_state(nnx.state(exported, nnx.Param)))
    moved = {
        path
        for path, leaf in nnx.to_flat_state(nnx.state(started, nnx.Param))
        if not np.array_equal(leaf.get_value(), trained[path].get_value())
    }
    assert {path[0] for path in moved} == {"policy"}
    assert len(moved) > 5
    policy = [line["policy_loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl", "train")]
    assert np.isfinite(policy).all()
    # Earlier releases trained one part at most, and wrote its name alone.
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(recorded | {"train_only": "policy"}))
    assert train(asked, tmp_path / "run").step == 3


def test_a_part_is_trained_alone_only_of_a_model_that_is_there(config, checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="train_only=policy keeps the other weights of a checkpoint"):
        train(dataclasses.replace(config, train_only=("policy",)), tmp_path / "run")
    with pytest.raises(ConfigError, match="train_only must be names of parts"):
        dataclasses.replace(config, train_only="policy")
    asked = dataclasses.replace(config, init="mine", model=ModelConfig.nano(), train_only=("policy", "function"))
    with pytest.raises(ConfigError, match=r"train_only=policy,function must name parts of the model: .*function_head"):
        train(asked, tmp_path / "run")
