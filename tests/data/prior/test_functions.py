"""Functions of the prior: what every family must hold, what defines each of them, warps, noise and failures."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from optformer.data.prior import PriorConfig, functions, sample_batch, spaces, warps
from optformer.data.prior import task as tasks
from optformer.data.prior.draws import Draws
from optformer.data.prior.families import FAMILIES, Domain, sample_domain
from optformer.serialization import tokens
from optformer.serialization.batch import BatchShape

pytestmark = pytest.mark.integration

FUNCTIONS, POINTS, SLOTS = 24, 40, 20
CONFIG = PriorConfig(features=32)
KINDS = {
    "one continuous": (1, [1.0, 0.0, 0.0, 0.0]),
    "twenty mixed": (20, [0.5, 0.2, 0.15, 0.15]),
    "six categorical": (6, [0.0, 0.0, 0.0, 1.0]),
}


def _space(draws: Draws, config: PriorConfig, slots: int) -> spaces.Space:
    return spaces.sample_space(draws, config, slots)


@functools.cache
def _spaces(kinds: str) -> spaces.Space:
    """FUNCTIONS spaces of these kinds, all padded to the same number of slots."""
    slots, weights = KINDS[kinds]
    config = dataclasses.replace(
        CONFIG, kind_weights=tuple(weights), single_kind_rate=0.0, conditional_rate=0.0, slots_mean=float(slots)
    )

    def draw(key: Array) -> spaces.Space:
        space = _space(Draws(key), config, slots)
        return spaces.Space(*(jnp.pad(leaf, ((0, SLOTS - slots), (0, 0))[: leaf.ndim]) for leaf in space))

    return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(5), FUNCTIONS))


@functools.cache
def _drawn_of_all_kinds(family: str) -> Any:
    def draw(key: Array, space: spaces.Space) -> tuple[Any, Domain, spaces.Space, Array, Array]:
        draws = Draws(key)
        domain = sample_domain(draws, space, CONFIG)
        member = FAMILIES[family].sample(draws, domain, CONFIG)
        q = jax.vmap(lambda z: spaces.quantize(space, z))(draws.uniform((POINTS, SLOTS)))
        u = jax.vmap(lambda q: spaces.coordinate(space, q))(q)
        return member, domain, space, u, _values(family, member, domain, u)

    keys = jax.random.split(jax.random.key(6), FUNCTIONS * len(KINDS))
    every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *map(_spaces, KINDS))
    return jax.jit(jax.vmap(draw))(keys, every)


def _drawn(family: str, kinds: str) -> tuple[Any, Domain, spaces.Space, np.ndarray, np.ndarray]:
    """FUNCTIONS functions of a family on spaces of these kinds, with POINTS points of each and the values there."""
    start = list(KINDS).index(kinds) * FUNCTIONS
    part = jax.tree.map(lambda leaf: leaf[start : start + FUNCTIONS], _drawn_of_all_kinds(family))
    return *part[:3], np.asarray(part[3]), np.asarray(part[4])


def _values(family: str, member: Any, domain: Domain, u: Array) -> Array:
    """Values of one function at points [point, slot]."""
    return jax.vmap(lambda point: FAMILIES[family].evaluate(member, point, domain.axes @ point))(u)


@functools.cache
def _compiled(family: str) -> Any:
    return jax.jit(jax.vmap(functools.partial(_values, family)))


def _at(family: str, member: Any, domain: Domain, u: np.ndarray) -> np.ndarray:
    """Values [function, point] at points [function, point, slot]."""
    return np.asarray(_compiled(family)(member, domain, jnp.asarray(u, jnp.float32)))


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_finite_and_vary_and_differ_between_keys(family: str, kinds: str) -> None:
    values = _drawn(family, kinds)[-1]
    assert np.isfinite(values).all()
    assert (np.abs(values) < 1e4).all(), "of the order of 1"
    # A tree may put its one split where the few values of a categorical space all lie on one side.
    assert (values.std(1) > 1e-3).mean() > 0.85
    assert len(np.unique(values[:, 0].round(4))) > FUNCTIONS / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_only_relevant_slots_matter(family: str) -> None:
    member, domain, space, u, values = _drawn(family, "twenty mixed")
    relevant = np.asarray(domain.relevant)[:, None, :]
    assert not (relevant[:, 0] & ~np.asarray(space.active)).any()
    assert (~relevant[:, 0] & np.asarray(space.active)).any(), "some parameters do not matter"
    other = np.random.default_rng(0).uniform(0, 1, u.shape)
    moved = _at(family, member, domain, np.where(relevant, u, other))
    np.testing.assert_allclose(moved, values, atol=1e-4 * (1 + np.abs(values).max()))
    moved = _at(family, member, domain, np.where(relevant, other, u))
    assert (np.abs(moved - values).max(1) > 1e-3).mean() > 0.9, "the others do"


def test_few_parameters_matter_most_in_many_functions() -> None:
    def importances(key: Array) -> Array:
        draws = Draws(key)
        config = dataclasses.replace(CONFIG, few_rate=1.0)
        space = _space(draws, dataclasses.replace(config, slots_mean=12.0), 12)
        return sample_domain(draws, space, config).importance

    drawn = np.asarray(jax.jit(jax.vmap(importances))(jax.random.split(jax.random.key(0), 200)))
    important = (drawn == 1.0).sum(1)
    assert set(important) == {1, 2, 3}
    assert ((drawn > 0.4) & (drawn < 1.0)).sum() == 0


# --- What defines a family ---


def _line(u: np.ndarray, domain: Domain, count: int) -> np.ndarray:
    """Points [function, count, slot] along the most important slot of each function, from its first point."""
    slot = np.asarray(domain.importance).argmax(1)
    line = np.repeat(u[:, :1], count, axis=1)
    line[np.arange(len(u)), :, slot] = np.linspace(0, 1, count)[None, :]
    return line


@pytest.mark.parametrize("family", ["trees", "steps"])
def test_plateaus_are_flat(family: str) -> None:
    member, domain, _, u, _ = _drawn(family, "one continuous")
    values = _at(family, member, domain, _line(u, domain, 800))
    changes = np.abs(np.diff(values, axis=1)) > 1e-5
    assert (changes.sum(1) > 0).mean() > 0.8
    assert changes.mean(1).max() < 0.15, "nearly all neighbours have equal values"


@pytest.mark.parametrize("family", ["gaussian_process", "main_effects"])
@pytest.mark.parametrize("additive", [True, False])
def test_additive_functions_have_no_third_order_interactions(family: str, additive: bool) -> None:
    """Main effects: no mixed second differences; Gaussian processes add functions of at most two: no third ones."""
    order = 2 if family == "main_effects" else 3
    config = dataclasses.replace(
        CONFIG,
        additive_rate=float(additive),
        bowl_rate=0.0,
        irrelevant_rate=0.0,
        single_kind_rate=1.0,
        few_rate=0.0,
        conditional_rate=0.0,
    )

    def difference(key: Array) -> tuple[Array, Array]:
        draws = Draws(key)
        space = _space(draws, dataclasses.replace(config, slots_mean=1e6), 4)
        domain = sample_domain(draws, space, config)
        member = FAMILIES[family].sample(draws, domain, config)
        low, high = draws.uniform((4,), 0.0, 0.4), draws.uniform((4,), 0.6, 1.0)
        corners = jnp.stack(jnp.meshgrid(*[jnp.arange(2.0)] * order, indexing="ij"), -1).reshape(-1, order)
        chosen = jnp.pad(corners, ((0, 0), (0, 4 - order)))
        values = _values(family, member, domain, low[None, :] + chosen * (high - low)[None, :])
        signs = (-1.0) ** (order - corners.sum(1))
        return jnp.where(space.active.sum() >= order, jnp.abs(signs @ values), jnp.nan), values.std()

    mixed, spread = jax.jit(jax.vmap(difference))(jax.random.split(jax.random.key(1), 32))
    relative = np.asarray(mixed / jnp.maximum(spread, 1e-3))
    relative = relative[np.isfinite(relative)]
    assert len(relative) > 5
    if additive:
        assert relative.max() < 1e-2
    else:
        assert np.median(relative) > 0.05


def test_axes_are_rotations_of_the_relevant_slots() -> None:
    _, domain, _, _, _ = _drawn("bowl", "twenty mixed")
    axes, importance = np.asarray(domain.axes, np.float64), np.asarray(domain.importance, np.float64)
    # R diag(a): its singular values are the importances, whatever the rotation, and so are a bowl's eigenvalues.
    np.testing.assert_allclose(np.linalg.svd(axes, compute_uv=False), np.sort(importance, axis=1)[:, ::-1], atol=1e-5)
    off = axes - np.stack([np.diag(row) for row in importance])
    rotated = np.abs(off).max((1, 2)) > 1e-3
    assert 0.2 < rotated.mean() < 0.8


def test_bowls_have_one_optimum_and_ripples_many() -> None:
    def optima(family: str) -> np.ndarray:
        member, domain, _, u, _ = _drawn(family, "one continuous")
        values = _at(family, member, domain, _line(u, domain, 400))
        inner = values[:, 1:-1]
        return ((inner > values[:, :-2]) & (inner >= values[:, 2:])).sum(1)

    assert optima("bowl").max() <= 1
    assert np.median(optima("ripples")) >= 2
    assert np.median(optima("rough")) >= 3


def test_the_learning_rate_has_a_narrow_optimum_beside_a_cliff() -> None:
    member, domain, _, u, _ = _drawn("learning_rate", "one continuous")
    values = _at("learning_rate", member, domain, _line(u, domain, 800))
    top = values.max(1, keepdims=True)
    span = top - values.min(1, keepdims=True)
    assert np.median((values > top - 0.1 * span).mean(1)) < 0.2
    best = values.argmax(1)
    drop = np.diff(values, axis=1)
    steepest = drop.argmin(1)
    inside = (best > 40) & (best < 700)
    assert inside.mean() > 0.6
    assert (steepest[inside] > best[inside]).mean() > 0.7, "the cliff is on the side of the large values"


def test_saturation_comes_near_its_best_in_much_of_the_space() -> None:
    _, _, _, _, values = _drawn("saturation", "one continuous")
    top, low = values.max(1, keepdims=True), values.min(1, keepdims=True)
    assert np.median((values > top - 0.2 * (top - low)).mean(1)) > 0.4


def test_peaks_lie_below_the_highest() -> None:
    member, domain, _, u, _ = _drawn("peaks", "one continuous")
    values = _at("peaks", member, domain, _line(u, domain, 400))
    single = ~np.asarray(member.merged)
    assert (values[single] <= 1.0 + 1e-5).all()
    assert (values >= 0.0).all()


# --- Combinations and categories ---


def _function(
    key: Array, config: PriorConfig, slots: int
) -> tuple[functions.Function, Domain, spaces.Space, Array, Array]:
    draws = Draws(key)
    space = _space(draws, config, slots)
    domain = sample_domain(draws, space, config)
    u = jax.vmap(lambda z: spaces.coordinate(space, spaces.quantize(space, z)))(draws.uniform((POINTS, slots)))
    function, values = functions.sample_function(draws, domain, config, u)
    return function, domain, space, u, values


def test_a_category_moves_the_optimum_of_the_others() -> None:
    config = dataclasses.replace(
        CONFIG,
        families=(("bowl", 1.0),),
        kind_weights=(0.5, 0.0, 0.0, 0.5),
        single_kind_rate=0.0,
        irrelevant_rate=0.0,
        few_rate=0.0,
        rotated_rate=0.0,
        category_rate=1.0,
        category_pick_rate=0.0,
        conditional_rate=0.0,
        slots_mean=1e6,
    )

    def best(key: Array) -> tuple[Array, Array]:
        function, _, space, u, _ = _function(key, config, 4)
        ordered = (space.kinds == tokens.CONTINUOUS) & space.active
        grid = jnp.linspace(0.0, 1.0, 101)
        first = jnp.arange(4) == jnp.argmax(ordered)

        def optimum(category: Array) -> Array:
            base = jnp.where(function.categories.slot > 0, category, u[0])
            line = jnp.where(first[None, :], grid[:, None], base[None, :])
            return grid[jnp.argmax(jax.vmap(lambda point: functions.evaluate(function, config, point))(line))]

        shifted = ordered.any() & (jnp.where(first, function.categories.shift, 0.0).max() > 0.0)
        return jax.vmap(optimum)(jnp.asarray([0.1, 0.6, 1.1, 1.7])), shifted

    optima, shifted = jax.jit(jax.vmap(best))(jax.random.split(jax.random.key(2), 64))
    spread = np.ptp(np.asarray(optima), axis=1)
    shifted = np.asarray(shifted)
    assert shifted.sum() > 5
    assert (spread[shifted] > 0.03).mean() > 0.6
    assert spread[~shifted].max() < 0.03


def test_combinations_are_what_they_say() -> None:
    config = dataclasses.replace(
        CONFIG,
        families=(("gaussian_process", 1.0), ("main_effects", 1.0)),
        combination_rate=1.0,
        category_rate=0.0,
        conditional_rate=0.0,
    )

    def drawn(key: Array) -> tuple[Array, Array, Array]:
        function, _, _, _, values = _function(key, config, 3)
        return function.how, values, function.deviation

    how, values, deviation = jax.jit(jax.vmap(drawn))(jax.random.split(jax.random.key(3), 64))
    assert len(set(np.asarray(how).tolist())) == 3
    values, how = np.asarray(values), np.asarray(how)
    assert np.isfinite(values).all()
    assert (np.asarray(deviation) > 0).all()
    # Of two standardized members the maximum has a mean above 0, the minimum below.
    means = [values[how == kind].mean() for kind in (2, 3)]
    assert means[0] > 0.1
    assert means[1] < -0.1


# --- Warps ---


@pytest.mark.parametrize("name", warps.OUTPUT_WARPS)
def test_output_warps_increase_and_stay_finite(name: str) -> None:
    s = jnp.linspace(-8.0, 8.0, 4001)
    for strength in (0.15, 0.8, 3.0):
        warped = np.asarray(jax.vmap(lambda value: warps.OUTPUT_WARPS[name](value, jnp.asarray(strength)))(s))  # noqa: B023
        assert np.isfinite(warped).all()
        assert (np.diff(warped) >= -1e-6 * np.abs(warped[1:])).all()
        middle = warped[(np.asarray(s) > -2.0) & (np.asarray(s) < 2.0)]
        if name not in ("floored", "capped"):  # plateaus by intent
            assert len(np.unique(middle)) > 0.5 * len(middle)


def test_input_warps_keep_the_ends_and_increase() -> None:
    warp = warps.InputWarp(jnp.asarray([0.4, 1.0, 3.0]), jnp.asarray([2.5, 1.0, 0.5]))
    u = jnp.linspace(0.0, 1.0, 101)
    warped = np.asarray(jax.vmap(lambda value: warps.warp_input(warp, jnp.full((3,), value)))(u))
    np.testing.assert_allclose(warped[[0, -1]], [[0, 0, 0], [1, 1, 1]], atol=1e-6)
    assert (np.diff(warped, axis=0) > 0).all()
    np.testing.assert_allclose(warped[:, 1], np.asarray(u), atol=1e-5)
    np.testing.assert_array_equal(warps.warp_input(warp, jnp.full((3,), 1.4)), np.full(3, np.float32(1.4)))


# --- The task: noise, failures, slots that are off ---


@functools.cache
def _tasks(config: PriorConfig) -> tuple[tasks.Task, np.ndarray]:
    def draw(key: Array) -> tuple[tasks.Task, Array]:
        draws = Draws(key)
        return tasks.sample_task(draws, _space(draws, config, 5), config)

    drawn, landmark = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(4), 96))
    return drawn, np.asarray(landmark)


TASK_CONFIG = PriorConfig(
    features=16,
    families=(("gaussian_process", 1.0), ("bowl", 1.0), ("learning_rate", 1.0)),
    noise_rate=1.0,
    infeasible_rate=0.6,
    rounded_rate=0.0,
    single_kind_rate=0.7,
)


def test_slots_that_are_off_have_no_influence() -> None:
    task, _ = _tasks(TASK_CONFIG)

    def influence(task: tasks.Task, key: Array) -> Array:
        draws = Draws(key)
        off = jnp.arange(5) % 2 == 1
        on = task.space.active & ~off
        u = draws.uniform((5,))
        moved = jnp.where(off, draws.uniform((5,)), u)
        quiet = tasks.Disturbance(jnp.zeros(()), jnp.zeros(()), jnp.asarray(False))
        first, second = (tasks.observe(task, TASK_CONFIG, quiet, point, on) for point in (u, moved))
        return jnp.abs(first[0] - second[0]) + (first[1] != second[1])

    found = jax.jit(jax.vmap(influence))(task, jax.random.split(jax.random.key(0), 96))
    np.testing.assert_array_equal(found, 0.0)


def test_noise_differs_by_value_and_by_place_where_it_should() -> None:
    task, _ = _tasks(TASK_CONFIG)
    noise = task.noise

    def deviations(noise: tasks.Noise, key: Array) -> Array:
        point = Draws(key).uniform((2, 5))
        pairs = [(point[0], 0.0), (point[0], -1.0), (point[1], 0.0)]
        return jnp.stack([tasks.noise_deviation(noise, at, jnp.asarray(s)) for at, s in pairs])

    base, worse, elsewhere = np.asarray(jax.jit(jax.vmap(deviations))(noise, jax.random.split(jax.random.key(1), 96))).T
    by_value, by_place = np.asarray(noise.by_value) > 0, np.asarray(noise.by_place) > 0
    assert 0.05 < by_value.mean() < 0.4
    assert 0.05 < by_place.mean() < 0.35
    assert (worse[by_value] > 1.2 * base[by_value]).all()
    np.testing.assert_allclose(worse[~by_value], base[~by_value], rtol=1e-5)
    np.testing.assert_allclose(elsewhere[~by_place], base[~by_place], rtol=1e-5)
    assert (np.abs(np.log(elsewhere[by_place] / base[by_place])) > 1e-3).mean() > 0.8


def test_repeatable_noise_is_a_function_of_the_point_and_looks_normal() -> None:
    points = jax.random.uniform(jax.random.key(0), (4000, 3))
    hashed = np.asarray(jax.jit(jax.vmap(tasks._hashed_normal))(points))
    again = np.asarray(jax.jit(jax.vmap(tasks._hashed_normal))(points[::-1]))[::-1]
    np.testing.assert_array_equal(hashed, again)
    assert abs(hashed.mean()) < 0.06
    assert abs(hashed.std() - 1.0) < 0.05
    assert abs(np.corrcoef(hashed[:-1], hashed[1:])[0, 1]) < 0.05
    close = np.asarray(jax.jit(jax.vmap(tasks._hashed_normal))(points.at[:, 1].add(1.0 / 999)))
    assert abs(np.corrcoef(hashed, close)[0, 1]) < 0.06


def test_failures_follow_the_function_and_the_landmark_avoids_them() -> None:
    task, landmark = _tasks(TASK_CONFIG)

    def look(task: tasks.Task, z: Array, key: Array) -> tuple[Array, Array, Array, Array]:
        def outcome(z: Array) -> tuple[Array, Array]:
            u, on = tasks.locate(task.space, spaces.quantize(task.space, z))
            quiet = tasks.Disturbance(jnp.zeros(()), jnp.zeros(()), jnp.asarray(False))
            failed = tasks.observe(task, TASK_CONFIG, quiet, u, on)[1]
            return tasks.latent(task, TASK_CONFIG, u, on), failed

        f, failed = jax.vmap(outcome)(Draws(key).uniform((64, 5)))
        at_landmark, landmark_failed = outcome(z)
        return f, failed, at_landmark, landmark_failed

    looked = jax.jit(jax.vmap(look))(task, jnp.asarray(landmark), jax.random.split(jax.random.key(2), 96))
    f, failed, at_landmark, landmark_failed = map(np.asarray, looked)
    kind = np.asarray(task.failures.kind)
    limited = np.isfinite(np.asarray(task.failures.threshold))
    assert limited.mean() > 0.25
    assert failed[~limited].sum() == 0
    assert 0.08 < failed[limited].mean() < 0.45
    assert landmark_failed.mean() < 0.03
    best = np.where(failed, -np.inf, f).max(1)
    assert (at_landmark >= np.nanmedian(np.where(failed, np.nan, f), axis=1))[~landmark_failed].mean() > 0.95
    assert (at_landmark >= best).mean() > 0.5
    diverging = limited & (kind == tasks.FAILURES.index("divergence"))
    assert diverging.any()
    for values, fails in zip(f[diverging], failed[diverging], strict=True):
        assert not fails.any() or fails.all() or values[fails].max() <= values[~fails].min() + 1e-5


def test_bad_names_and_weights_are_errors() -> None:
    shape = BatchShape(trials=8, slots=2, text=16, policy_trials=2)
    with pytest.raises(ValueError, match=r"families names 'splines'; known are .*gaussian_process"):
        sample_batch(jax.random.key(0), PriorConfig(families=(("splines", 1.0),)), 2, shape)
    with pytest.raises(ValueError, match=r"failures names 'fire'; known are region, memory"):
        sample_batch(jax.random.key(0), PriorConfig(failures=(("fire", 1.0),)), 2, shape)
    with pytest.raises(ValueError, match=r"PriorConfig\.failures needs weights"):
        PriorConfig(failures=(("region", -1.0),))


def test_a_fast_cosine_and_draws_of_weighted_options() -> None:
    from optformer.data.prior.families.family import wave

    cycles = jnp.linspace(-30.0, 30.0, 5001)
    np.testing.assert_allclose(wave(cycles), np.cos(2 * np.pi * np.asarray(cycles, np.float64)), atol=3e-5)

    def options(key: Array) -> tuple[Array, Array]:
        draws = Draws(key)
        return draws.choice([0.0, 0.5, 0.0, 0.3, 0.2, 0.0], (500,)), draws.choice(jnp.asarray([1.0, 0.0, 3.0]), (500,))

    constant, traced = jax.jit(jax.vmap(options))(jax.random.split(jax.random.key(0), 20))
    shares = np.bincount(np.asarray(constant).ravel(), minlength=6) / constant.size
    np.testing.assert_allclose(shares, [0, 0.5, 0, 0.3, 0.2, 0], atol=0.02)
    shares = np.bincount(np.asarray(traced).ravel(), minlength=3) / traced.size
    np.testing.assert_allclose(shares, [0.25, 0, 0.75], atol=0.02)
