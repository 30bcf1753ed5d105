"""Studies of a corpus that are shown others of the same search space."""

import dataclasses

import numpy as np
import pytest
from vizier import pyvizier as vz

from optformer.data.corpus import Augmentation, Corpus, building
from optformer.serialization import tokens
from optformer.serialization.batch import BatchShape

SHAPE = BatchShape(trials=24, slots=5, text=120, policy_trials=4)
ALWAYS = Augmentation(earlier_rate=1.0, flip_earlier=0.0, flip_goal=0.0, pending_rate=0.0, earlier_blind_rate=0.3)


def study(name: str, high: float, seed: int, trials: int = 20) -> vz.ProblemAndTrials:
    """The objective falls with x in all of them; `high` says which search space it is."""
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("x", 0.0, high)
    problem.search_space.root.add_categorical_param("kind", ["a", "b"])
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    facts = problem.metadata.ns("optformer")
    facts["study_id"], facts["repo"] = name, name
    rng, made = np.random.default_rng(seed), []
    for number in range(trials):
        x = float(rng.uniform(0.0, high))
        trial = vz.Trial({"x": x, "kind": "ab"[rng.integers(2)]}, id=number + 1)
        if number % 7 == 6:
            made.append(trial.complete(vz.Measurement(), infeasibility_reason="diverged"))
        else:
            made.append(trial.complete(vz.Measurement({"loss": 10.0 ** (seed % 5) * x + seed})))
    return vz.ProblemAndTrials(problem=problem, trials=made)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    directory = tmp_path_factory.mktemp("earlier") / "cache"
    alike = [study(f"s{seed}", 1.0, seed) for seed in range(6)]
    building.build([*alike, study("alone", 3.0, 9)], directory)
    return Corpus.open(directory)


def drawn(corpus: Corpus, augmentation: Augmentation = ALWAYS, count: int = 64):
    return corpus.batch(0, 0, count, SHAPE, augmentation)


@pytest.mark.parametrize("trials", [5, 8, 12])
def test_short_batches_keep_the_trials_of_the_policy_loss(corpus, trials):
    shape = dataclasses.replace(SHAPE, trials=trials, slots=8)
    batch = corpus.batch(0, 0, 64, shape, ALWAYS)
    belongs = (batch.x_tokens[:, :, 2:] == 1) & batch.trial_mask[:, :, None]
    count = belongs.any(axis=2).sum(axis=1)
    assert (trials - count >= SHAPE.policy_trials).all()
    assert (count > 0).any() == (trials > 6)


def test_trials_of_others_come_first_and_carry_no_loss(corpus):
    batch = drawn(corpus)
    belongs = batch.x_tokens[:, :, 2:]
    earlier = ((belongs == 1) & batch.trial_mask[:, :, None]).any(axis=2)
    count = earlier.sum(axis=1)
    assert (count > 0).mean() > 0.7, "all but the study that is alone in its search space"
    first = np.arange(SHAPE.trials)[None] < count[:, None]
    np.testing.assert_array_equal(earlier, first)
    assert (batch.prefix_length >= count).all()
    assert not batch.function_weights[first].any()
    blind = (batch.prefix_length == count) & (count > 0)
    assert 0.1 < blind.sum() / (count > 0).sum() < 0.6
    assert batch.function_weights[blind].any(axis=1).all(), "scaled on the whole study"
    assert not batch.policy_weights[:, :, 2:].any()
    trained = batch.policy_weights.any(axis=2)
    assert (batch.policy_trials >= count[:, None])[trained].all()
    assert (batch.policy_trials < SHAPE.trials).all()
    # Own trials and padding belong to no earlier study.
    slots = np.arange(SHAPE.slots)[None, None] >= 2
    used = (batch.slot_levels > 0)[:, None] & batch.trial_mask[:, :, None] & slots
    assert set(np.unique(batch.x_tokens[used]).tolist()) == {0, 1}


def test_each_study_is_on_its_own_scale(corpus):
    """Units differ by powers of ten; tokens fall with x in every study all the same."""
    plain = dataclasses.replace(ALWAYS, permute_slots=False)
    batch = drawn(corpus, plain)
    compared = 0
    for row in range(len(batch.y_tokens)):
        for k in range(2, SHAPE.slots):
            of_study = (batch.x_tokens[row, :, k] == 1) & batch.trial_mask[row]
            told = (
                of_study & (batch.y_tokens[row] < tokens.NUM_LEVELS) & (batch.x_tokens[row, :, 0] < tokens.NUM_LEVELS)
            )
            if told.sum() < 3:
                continue
            x, y = batch.x_tokens[row, told, 0], batch.y_tokens[row, told]
            assert (np.diff(y[np.argsort(x)]) <= 0).all()
            assert y.max() - y.min() > 200
            compared += 1
    assert compared > 50


def test_negated_ones_mislead(corpus):
    plain = dataclasses.replace(ALWAYS, permute_slots=False, flip_earlier=1.0)
    batch, signs = drawn(corpus, plain), []
    for row in range(len(batch.y_tokens)):
        for earlier in (True, False):
            told = (batch.x_tokens[row, :, 2] == earlier) & (batch.y_tokens[row] < tokens.NUM_LEVELS)
            told &= batch.trial_mask[row] & (batch.x_tokens[row, :, 0] < tokens.NUM_LEVELS)
            if batch.slot_levels[row, 2] and told.sum() > 3 and batch.slot_levels[row, 3] == 0:
                signs.append((earlier, np.corrcoef(batch.x_tokens[row, told, 0], batch.y_tokens[row, told])[0, 1] > 0))
    assert {True, False} == {earlier for earlier, _ in signs}
    assert all(earlier == rising for earlier, rising in signs)


def test_rate_zero_draws_nothing(corpus):
    one, other = drawn(corpus, Augmentation()), drawn(corpus, Augmentation(flip_earlier=0.9, earlier_blind_rate=1.0))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_function_of_its_arguments(corpus):
    one, other = drawn(corpus), Corpus(corpus._store, corpus._records).batch(0, 0, 64, SHAPE, ALWAYS)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
