"""Earlier studies in the prior: which trial belongs where, what carries loss, and how much the studies resemble."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from optformer.data.prior import PriorConfig, spaces
from optformer.data.prior import task as tasks
from optformer.data.prior.draws import Draws
from optformer.data.prior.earlier import Earlier, at_hand, sample_earlier, with_slots
from optformer.data.prior.sample import Record, draw_record
from optformer.serialization import prior_studies, tokens
from optformer.serialization.batch import BatchShape, StudyBatch

pytestmark = pytest.mark.integration

STUDIES = 128
SHAPE = BatchShape(trials=24, slots=6, text=96, policy_trials=5)
# One parameter matters in each study, so that the slots of earlier studies do not, and all begin with the centre.
PLAIN = PriorConfig(
    features=16,
    families=(("gaussian_process", 1.0),),
    combination_rate=0.0,
    behaviours=(("random_search", 1.0), ("local_search", 1.0), ("gaussian_process", 1.0)),
    irrelevant_rate=1.0,
    noise_rate=0.0,
    outlier_rate=0.0,
    infeasible_rate=0.0,
    center_rate=1.0,
    default_rate=0.0,
    rerun_rate=0.3,
    pending_rate=0.5,
    lost_rate=0.3,
)
CONFIG = dataclasses.replace(PLAIN, earlier_rate=0.7, flipped_rate=0.5)


def _drawn(config: PriorConfig) -> tuple[StudyBatch, Record]:
    draw = jax.jit(functools.partial(draw_record, config=config, batch_size=STUDIES, shape=SHAPE))
    return jax.tree.map(np.asarray, draw(jax.random.key(2)))


@pytest.fixture(scope="module")
def drawn() -> tuple[StudyBatch, Record]:
    return _drawn(CONFIG)


def test_a_share_of_the_studies_has_them_and_the_others_stay_what_they_were(drawn: tuple[StudyBatch, Record]) -> None:
    batch, record = drawn
    without = record.earlier.studies == 0
    assert 0.15 < without.mean() < 0.45
    plain, _ = _drawn(PLAIN)
    for name in StudyBatch._fields:
        np.testing.assert_array_equal(getattr(batch, name)[without], getattr(plain, name)[without], err_msg=name)
        assert getattr(batch, name).dtype == getattr(plain, name).dtype


def test_each_trial_has_the_level_of_its_study_whatever_was_proposed(drawn: tuple[StudyBatch, Record]) -> None:
    batch, record = drawn
    for study in range(STUDIES):
        earlier = jax.tree.map(lambda leaf, study=study: leaf[study], record.earlier)
        slots = np.flatnonzero(earlier.slots)
        parameters = (batch.slot_kinds[study] > 0).sum() - len(slots)
        np.testing.assert_array_equal(slots, parameters + np.arange(earlier.studies))
        assert parameters > 0
        assert (batch.slot_kinds[study][slots] == prior_studies.KIND).all()
        assert (batch.slot_levels[study][slots] == prior_studies.LEVELS).all()
        mask = batch.trial_mask[study]
        levels = earlier.study[:, None] == np.arange(len(slots))[None, :]
        np.testing.assert_array_equal(batch.x_tokens[study][mask][:, slots], levels[mask])
        assert not levels[earlier.trials :].any()
        segments = batch.text_segments[study]
        for slot in slots:
            np.testing.assert_array_equal(batch.text_tokens[study][segments == slot + 1], prior_studies.clause())


def test_trials_of_earlier_studies_are_known_and_carry_no_loss(drawn: tuple[StudyBatch, Record]) -> None:
    batch, record = drawn
    before = record.earlier.trials[:, None]
    early = np.arange(SHAPE.trials)[None, :] < before
    assert batch.trial_mask[early].all()
    assert (batch.y_tokens[early] != tokens.PENDING).all()
    assert (batch.y_tokens == tokens.PENDING).any()
    assert not batch.function_weights[early].any()
    assert not batch.policy_weights[np.take_along_axis(early, batch.policy_trials, axis=1)].any()
    assert not batch.policy_weights.transpose(0, 2, 1)[record.earlier.slots].any()
    own = batch.prefix_length - before[:, 0]
    assert (own >= 0).all()
    assert (batch.prefix_length < batch.trial_mask.sum(1)).all(), "something is left to predict"
    has = before[:, 0] > 0
    assert 0.05 < (own[has] == 0).mean() < 0.3
    assert (own[~has] > 0).all()
    assert (batch.policy_weights[has].max(axis=(1, 2)) > 0).all()


def test_a_study_that_is_not_moved_is_the_same_and_one_that_is_flipped_its_negative(
    drawn: tuple[StudyBatch, Record],
) -> None:
    """All studies run the centre first, and no slot of an earlier study matters here."""
    signs, moved = [], []
    for trials, earlier in zip(_studies(drawn[1].trials), _studies(drawn[1].earlier), strict=True):
        own = int(earlier.trials)
        for study in range(earlier.studies):
            first = int(np.argmax(earlier.study == study))
            parameters = ~earlier.slots
            if trials.stopped[own] or (trials.q[first] != trials.q[own])[parameters].any():
                continue
            sign = -1.0 if earlier.flipped[first] else 1.0
            same = trials.y[first] == pytest.approx(sign * trials.y[own], rel=1e-4, abs=1e-4)
            if earlier.moves[study].any():
                moved.append(same)
            else:
                assert same
                signs.append(sign)
    assert set(signs) == {-1.0, 1.0}
    assert np.mean(moved) < 0.3


def _studies(tree: tuple) -> list:
    return [jax.tree.map(lambda leaf, study=study: leaf[study], tree) for study in range(STUDIES)]


@pytest.mark.parametrize(("trials", "slots", "most"), [(64, 16, 4), (14, 7, 3), (5, 4, 1), (40, 3, 2)])
def test_studies_share_the_trials_before(trials: int, slots: int, most: int) -> None:
    shape = BatchShape(trials=trials, slots=slots, policy_trials=1)
    config = PriorConfig(earlier_rate=0.8, flipped_rate=0.2)
    keys = jax.random.split(jax.random.key(0), 1000)
    drawn = jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: sample_earlier(key, config, shape)))(keys))
    assert set(drawn.studies.tolist()) == set(range(most + 1))
    assert np.mean(drawn.studies == 0) == pytest.approx(0.2, abs=0.05)
    assert np.mean(drawn.studies == most) == pytest.approx(0.8 / most, abs=0.06)
    assert (np.diff(drawn.study, axis=1) >= 0).all()
    sizes = (drawn.study[:, :, None] == np.arange(most)[None, None, :]).sum(1)
    used = np.arange(most)[None, :] < drawn.studies[:, None]
    assert (sizes[used] >= 3).all()
    np.testing.assert_array_equal((sizes * used).sum(1), drawn.trials)
    has = drawn.studies > 0
    assert (drawn.trials[has] >= max(3, trials // 8)).all()
    assert (drawn.trials[has] <= 3 * trials // 4).all()
    assert not drawn.flipped[drawn.study == drawn.studies[:, None]].any()
    if trials == 64:
        assert np.mean(drawn.trials[has]) == pytest.approx(0.45 * trials, abs=2.0)


def test_shapes_without_room_have_none() -> None:
    config = PriorConfig(earlier_rate=1.0)
    for shape in (BatchShape(slots=1), BatchShape(trials=3, policy_trials=1)):
        assert sample_earlier(jax.random.key(0), config, shape) is None
    assert sample_earlier(jax.random.key(0), PriorConfig(), BatchShape()) is None


def test_a_third_resembles_the_study_at_hand_and_a_third_has_nothing_to_do_with_it() -> None:
    """By rank correlation of the two functions over random points."""
    config = PriorConfig(
        features=32,
        families=(("gaussian_process", 0.4), ("bowl", 0.2), ("main_effects", 0.2), ("peaks", 0.2)),
        earlier_rate=1.0,
        conditional_rate=0.0,
    )
    shape = BatchShape(trials=24, slots=8, policy_trials=1)

    def values(key: jax.Array) -> tuple[jax.Array, Earlier]:
        earlier = sample_earlier(key, config, shape)
        assert earlier is not None
        draws = Draws(jax.random.fold_in(key, 0))
        space = spaces.sample_space(draws, config, shape.slots, earlier.studies)
        space, earlier = with_slots(space, earlier)
        task, _ = tasks.sample_task(draws, at_hand(space, earlier), config)
        points = draws.uniform((40, shape.slots))

        def at(t: jax.Array) -> jax.Array:
            q = jax.vmap(lambda z: spaces.quantize(space, earlier.pin(z, t)))(points)
            u = jax.vmap(lambda q: earlier.moved(space, spaces.coordinate(space, q), t))(q)
            return jax.vmap(lambda u: tasks.latent(task, config, u))(u)

        return jax.lax.map(at, jnp.argmax(earlier.study[None, :] == jnp.arange(5)[:, None], axis=1)), earlier

    keys = jax.random.split(jax.random.key(3), 150)
    f, earlier = jax.tree.map(np.asarray, jax.jit(jax.vmap(values))(keys))
    pairs = [(f[i, k], f[i, count]) for i, count in enumerate(earlier.studies) for k in range(count)]
    varied = [pair for pair in pairs if min(map(np.ptp, pair)) > 1e-6]
    assert len(varied) > 0.9 * len(pairs)
    found = np.array([stats.spearmanr(*pair).statistic for pair in varied])
    assert 0.2 < (found > 0.8).mean() < 0.5
    assert 0.2 < ((found >= 0.3) & (found <= 0.8)).mean() < 0.5
    assert 0.2 < (found < 0.3).mean() < 0.5
