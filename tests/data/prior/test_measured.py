"""What `PriorConfig.measured` adds to the prior: grids, disordered values, steps, plateaus, corners that fail."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from optformer.data.prior import PriorConfig, spaces, warps
from optformer.data.prior.draws import Draws
from optformer.data.prior.run import Study, Trials, run
from optformer.serialization import tokens
from optformer.serialization.batch import BatchShape

pytestmark = pytest.mark.integration

STUDIES, SLOTS = 6000, 6
# One family and one behaviour, so that it compiles fast.
LIGHT = PriorConfig(
    features=16,
    families=(("gaussian_process", 1.0),),
    combination_rate=0.0,
    behaviours=(("random_search", 1.0),),
    center_rate=0.0,
    default_rate=0.0,
    stopped_rate=0.0,
    outlier_rate=0.0,
    conditional_rate=0.0,
    slots_mean=1e6,
    uniform_slots_rate=0.0,
)


GRIDS = dataclasses.replace(
    LIGHT,
    grid_rate=0.5,
    values_power=2.0,
    max_categories=24,
    max_discrete=16,
    disorder_rate=0.3,
    single_kind_rate=0.0,
    kind_weights=(1.0, 0.0, 0.0, 0.0),
)


@pytest.fixture(scope="module")
def grids() -> spaces.Space:
    """Spaces of `GRIDS`, those with all `SLOTS` parameters."""

    @jax.jit
    def drawn() -> spaces.Space:
        keys = jax.random.split(jax.random.key(1), STUDIES)
        return jax.vmap(lambda key: spaces.sample_space(Draws(key, block=512), GRIDS, SLOTS))(keys)

    space = jax.tree.map(np.asarray, drawn())
    full = space.kinds[:, -1] > 0
    assert full.sum() > 900
    return spaces.Space(*(leaf[full] for leaf in space))


@functools.partial(jax.jit, static_argnames="config")
def play(config: PriorConfig) -> tuple[Study, Trials]:
    return run(jax.random.split(jax.random.key(3), 128), config, BatchShape(40, 3, 16, 2))


def test_grids_are_as_many_as_asked_for(grids: spaces.Space) -> None:
    grid = (grids.kinds >= tokens.DISCRETE).all(1)
    assert (grids.kinds[~grid] == tokens.CONTINUOUS).all()
    assert abs(grid.mean() - GRIDS.grid_rate) < 0.05
    # Any number of the six parameters is discrete as often as any other.
    discrete = (grids.kinds[grid] == tokens.DISCRETE).sum(1)
    np.testing.assert_allclose(np.bincount(discrete, minlength=7) / len(discrete), 1 / 7, atol=0.05)


@pytest.mark.parametrize(("kind", "most"), [(tokens.DISCRETE, 16), (tokens.CATEGORICAL, 24)])
def test_numbers_of_values_follow_their_distribution(grids: spaces.Space, kind: int, most: int) -> None:
    levels = grids.levels[grids.kinds == kind]
    # P(L <= n) = P(2 ((most + 1) / 2) ** u^2 < n + 1), u uniform
    for n in (2, 3, 5, 10, 15):
        assert abs((levels <= n).mean() - np.sqrt(np.log((n + 1) / 2) / np.log((most + 1) / 2))) < 0.04
    assert levels.max() == most


def test_disordered_values_lie_anywhere_and_ordered_ones_in_order(grids: spaces.Space) -> None:
    discrete, places = grids.kinds == tokens.DISCRETE, grids.locations
    used = (np.arange(places.shape[2]) < grids.levels[..., None]) & discrete[..., None]
    assert (places[used] >= 0).all()
    assert (places[used] <= 1).all()
    rising = ((np.diff(places, axis=2) >= 0) | ~used[..., 1:]).all(2)
    # With six or more values at a degree of disorder between 0 and 1, four in five have lost their order.
    many = discrete & (grids.levels >= 6)
    assert abs((~rising[many]).mean() - 0.8 * GRIDS.disorder_rate) < 0.07
    disordered = ~rising.all(1)
    assert rising[~disordered].all()
    assert (~rising)[many & disordered[:, None]].mean() > 0.75


def test_stepped_inputs_take_as_many_values_as_they_have_steps() -> None:
    warp = warps.InputWarp(jnp.asarray([1.0, 2.0, 0.5]), jnp.asarray([1.0, 0.5, 2.0]), jnp.asarray([4.0, 0.0, 2.0]))
    u = jnp.linspace(0.0, 1.0, 401)
    warped = np.asarray(jax.vmap(lambda value: warps.warp_input(warp, jnp.full((3,), value)))(u))
    np.testing.assert_allclose(np.unique(warped[:, 0]), [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    np.testing.assert_array_equal(np.unique(warped[:, 2]), [0, 1])
    np.testing.assert_allclose(warped[:, 1], 1 - np.sqrt(1 - np.asarray(u) ** 2), atol=1e-3)
    assert (np.diff(warped, axis=0) >= 0).all()
    np.testing.assert_allclose(np.bincount((3 * warped[:, 0]).round().astype(int)) / 401, 0.25, atol=0.01)
    np.testing.assert_array_equal(warps.warp_input(warp, jnp.full((3,), 1.4)), np.full(3, np.float32(1.4)))


def test_categories_have_no_steps() -> None:
    config = dataclasses.replace(LIGHT, step_rate=1.0)
    kinds = jnp.asarray([tokens.CONTINUOUS, tokens.CATEGORICAL, tokens.DISCRETE, tokens.CONTINUOUS])
    keys = jax.random.split(jax.random.key(0), 1000)
    steps = np.asarray(jax.vmap(lambda key: warps.sample_input_warp(Draws(key, block=64), kinds, config).steps)(keys))
    assert (steps[:, 1] == 0).all()
    assert abs((steps[:, [0, 2, 3]] > 0).mean() - 0.5) < 0.03
    assert set(np.unique(steps[:, [0, 2, 3]])) == {0, *range(2, 13)}


def test_plateaus_give_ties_on_their_side() -> None:
    warps = (("floored", 1.0), ("capped", 1.0))
    config = dataclasses.replace(LIGHT, output_warps=warps, noise_rate=0.0, infeasible_rate=0.0, single_kind_rate=1.0)
    studies, trials = play(config)
    y, capped = np.asarray(trials.y), np.asarray(studies.task.output_warp.choice) == 1
    best, worst = (y == y.max(1, keepdims=True)).mean(1), (y == y.min(1, keepdims=True)).mean(1)
    # The plateau begins at 1.2 - a or a - .8 standard deviations, a log-normal around .8 +- .5.
    a = 0.8 * np.exp(0.5 * np.random.default_rng(0).standard_normal(100_000))
    assert abs(worst[~capped].mean() - stats.norm.cdf(1.2 - a).mean()) < 0.1
    assert abs(best[capped].mean() - stats.norm.cdf(0.8 - a).mean()) < 0.1
    assert np.median(best[~capped]) <= 2 / 40
    assert np.median(worst[capped]) <= 2 / 40


def test_corners_fail_in_the_share_that_was_asked_for_and_are_boxes() -> None:
    config = dataclasses.replace(
        LIGHT,
        infeasible_rate=1.0,
        failures=(("corner", 1.0),),
        failing_range=(0.1, 0.25),
        irrelevant_rate=0.0,
        single_kind_rate=1.0,
        input_warp_rate=0.0,
    )
    studies, trials = play(config)
    failed = np.asarray(trials.infeasible)
    assert abs(failed.mean() - 0.175) < 0.03
    # Whatever lies between failed trials fails, and so some parameters tell failures exactly.
    u = np.asarray(trials.q) / 999
    for points, fails, used in zip(u, failed, np.asarray(studies.space.kinds) > 0, strict=True):
        if fails.any():
            points = points[:, used]
            low, high = points[fails].min(0), points[fails].max(0)
            assert fails[((points >= low) & (points <= high)).all(1)].all()


def test_corners_of_few_values_fail_somewhere() -> None:
    config = dataclasses.replace(
        LIGHT,
        infeasible_rate=1.0,
        failures=(("corner", 1.0),),
        failing_range=(0.05, 0.2),
        irrelevant_rate=0.0,
        grid_rate=1.0,
        max_discrete=4,
        max_categories=4,
    )
    failed = np.asarray(play(config)[1].infeasible).mean(1)
    assert (failed > 0).mean() > 0.8
    assert failed.max() < 0.75


def test_bad_ranges_are_errors() -> None:
    with pytest.raises(ValueError, match=r"failing_range is \(0\.3, 0\.1\)"):
        PriorConfig(failing_range=(0.3, 0.1))
    with pytest.raises(ValueError, match=r"values_power is 0"):
        PriorConfig(values_power=0.0)
    with pytest.raises(ValueError, match=r"grid_rate is -0\.1"):
        PriorConfig(grid_rate=-0.1)


def test_repeats_agree_as_often_as_asked_for() -> None:
    config = PriorConfig.measured()
    light = dataclasses.replace(LIGHT, rerun_rate=1.0, noise_rate=1.0, repeatable_rate=config.repeatable_rate)
    _, trials = play(light)
    agree = []
    for q, y, on, gone in zip(*map(np.asarray, (trials.q, trials.y, trials.on, trials.infeasible)), strict=True):
        where = {}
        for point, value in zip(np.where(on, q, -1)[~gone], y[~gone], strict=True):
            where.setdefault(tuple(point), []).append(value)
        repeats = [values for values in where.values() if len(values) > 1]
        if repeats:
            agree.append(all(len(set(values)) == 1 for values in repeats))
    assert abs(np.mean(agree) - config.repeatable_rate) < 0.13
