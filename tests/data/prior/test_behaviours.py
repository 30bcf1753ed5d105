"""Every behaviour against a known function: what defines it, bounds, determinism; and that models beat chance."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optformer.data.prior import PriorConfig, spaces
from optformer.data.prior.behaviours import BEHAVIOURS, History, Setting, surrogates
from optformer.data.prior.draws import Draws
from optformer.data.prior.run import roster
from optformer.serialization import tokens

pytestmark = pytest.mark.integration

TRIALS, SLOTS, STUDIES = 32, 4, 64
CONTINUOUS = PriorConfig(
    single_kind_rate=1.0, conditional_rate=0.0, log_rate=0.0, uniform_slots_rate=0.0, slots_mean=1e6
)
MIXED = PriorConfig(single_kind_rate=0.0, kind_weights=(0.4, 0.2, 0.2, 0.2), conditional_rate=0.4, slots_mean=3.0)


def bowl(landmark: jax.Array, u: jax.Array, on: jax.Array) -> jax.Array:
    """One optimum, at the landmark; parameters that are off do not count."""
    return -jnp.sum(jnp.where(on, jnp.square(u - landmark), 0.0))


@functools.partial(jax.jit, static_argnames=("names", "config", "slots", "trials"))
def play(names: tuple[str, ...], config: PriorConfig, seed: int, slots: int, trials: int) -> dict[str, Any]:
    """Studies of behaviours that are told their objective: [study, trial, ...]; all in one program, compiled once."""

    def study(key: jax.Array) -> dict[str, Any]:
        draws = Draws(key)
        space = spaces.sample_space(draws, config, slots)
        landmark = draws.uniform((slots,), 0.1, 0.9)
        setting = Setting(space, landmark, trials)
        shown = {"space": space, "landmark": landmark}
        return {name: _run(name, draws, setting) | shown for name in names}

    return jax.vmap(study)(jax.random.split(jax.random.key(seed), STUDIES))


def _run(name: str, draws: Draws, setting: Setting) -> dict[str, Any]:
    member, space, trials = BEHAVIOURS[name], setting.space, setting.trials
    slots = space.kinds.shape[0]
    plan = member.plan(draws, setting)

    def trial(carry: Any, t: jax.Array) -> tuple[Any, Any]:
        history, memory = carry
        z, memory = (plan[t], memory) if member.propose is None else member.propose(plan, memory, history, t)
        q = spaces.quantize(space, z)
        on = spaces.activity(space, q)
        y = bowl(setting.landmark, spaces.coordinate(space, q), on)
        history = History(history.z.at[t].set(z), history.on.at[t].set(on), history.y.at[t].set(y))
        return (history, memory), q

    empty = History(jnp.zeros((trials, slots)), jnp.zeros((trials, slots), bool), jnp.full((trials,), -jnp.inf))
    (history, memory), q = jax.lax.scan(trial, (empty, member.remember(trials, slots)), jnp.arange(trials))
    return history._asdict() | {"q": q, "plan": plan, "memory": memory}


@functools.cache
def everything(config: PriorConfig, seed: int = 0) -> dict[str, Any]:
    return jax.tree.map(np.asarray, play(tuple(BEHAVIOURS), config, seed, SLOTS, TRIALS))


def played(name: str, config: PriorConfig = MIXED, seed: int = 0) -> dict[str, Any]:
    return everything(config, seed)[name]


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_points_lie_in_the_space_and_depend_on_the_key_alone(name: str) -> None:
    one, other = played(name), played(name, seed=1)
    assert np.isfinite(one["z"]).all()
    assert (one["z"] >= 0.0).all()
    assert (one["z"] <= 1.0).all()
    active = one["space"].kinds > 0
    assert ((one["q"] < one["space"].levels[:, None, :]) | ~active[:, None, :]).all()
    assert (one["z"] != other["z"]).mean() > 0.3
    # No behaviour stands still: a study has many different points.
    distinct = [len(np.unique(row[:, used], axis=0)) for row, used in zip(one["z"], active, strict=True)]
    assert np.median(distinct) > TRIALS / 2


def test_same_key_same_studies() -> None:
    again = jax.tree.map(np.asarray, play(tuple(BEHAVIOURS), MIXED, 0, SLOTS, TRIALS))
    jax.tree.map(np.testing.assert_array_equal, everything(MIXED), again)


def incumbents(y: np.ndarray) -> np.ndarray:
    """[study, trial - 1], the best trial before each trial but the first."""
    return np.array([[np.argmax(row[:t]) for t in range(1, len(row))] for row in y])


def changed_slots(run: dict[str, Any], parents: np.ndarray) -> np.ndarray:
    """[study, trial - 1], in how many parameters that the parent has a trial differs from it."""
    parent = np.take_along_axis(run["z"], parents[..., None], axis=1)
    on = np.take_along_axis(run["on"], parents[..., None], axis=1)
    return ((parent != run["z"][:, 1:]) & on).sum(-1)


def test_hill_climbing_moves_from_its_incumbent_by_one_mutation() -> None:
    run = played("hill_climb")
    np.testing.assert_array_equal(changed_slots(run, incumbents(run["y"])), 1)
    parents = np.take_along_axis(run["q"], incumbents(run["y"])[..., None], axis=1)
    few = (run["space"].kinds >= tokens.DISCRETE)[:, None, :]
    mutated = np.take_along_axis(run["z"], incumbents(run["y"])[..., None], axis=1) != run["z"][:, 1:]
    assert (run["q"][:, 1:] != parents)[mutated & few].all(), "a mutation among few values takes another value"


def test_coordinate_search_sweeps_one_parameter_after_the_other() -> None:
    run = played("coordinate_search", CONTINUOUS)
    changed = np.take_along_axis(run["z"], incumbents(run["y"])[..., None], axis=1) != run["z"][:, 1:]
    assert (changed.sum(-1) <= 1).all()
    for study, kinds in zip(changed, run["space"].kinds, strict=True):
        swept = [group for group, _ in itertools.groupby(slot for row in study for slot in np.flatnonzero(row))]
        count = int((kinds > 0).sum())
        assert len(set(swept[:count])) == len(swept[:count]), "every parameter once before any again"


def test_evolution_mutates_the_winner_of_a_tournament_among_the_youngest() -> None:
    run = played("regularized_evolution")
    plan, checked = run["plan"], 0
    for study, t in itertools.product(range(STUDIES), range(1, TRIALS)):
        population = int(plan.population[study])
        if t < population:
            continue
        rivals = t - 1 - np.floor(plan.rivals[study, t] * min(population, t)).astype(int)
        assert (rivals >= t - population).all()
        winner = rivals[np.argmax(run["y"][study, rivals])]
        moved = (run["z"][study, t] != run["z"][study, winner]) & run["on"][study, winner]
        assert moved.sum() <= 1 + plan.also[study, t].sum()
        checked += 1
    assert checked > STUDIES * TRIALS / 3


@pytest.mark.parametrize("name", ["grid_search", "shuffled_grid_search"])
def test_grids_visit_every_point_once(name: str) -> None:
    config = PriorConfig(single_kind_rate=0.0, kind_weights=(0.0, 0.0, 0.5, 0.5), max_discrete=5, max_categories=5)
    run = jax.tree.map(np.asarray, play((name,), config, 0, 3, 160))[name]
    for q, levels in zip(run["q"], run["space"].levels, strict=True):
        size = int(np.prod(np.maximum(levels, 1)))
        points = [tuple(row) for row in q[:size]]
        assert len(set(points)) == size
        if name == "grid_search":
            orders = [sorted(points), sorted(points, key=lambda point: point[::-1])]
            assert points in orders, "the last or the first parameter changes fastest"
    shuffled = [
        [tuple(row) for row in q[:8]] != sorted(tuple(row) for row in q[:8])
        and [tuple(row[::-1]) for row in q[:8]] != sorted(tuple(row[::-1]) for row in q[:8])
        for q, levels in zip(run["q"], run["space"].levels, strict=True)
        if np.prod(np.maximum(levels, 1)) >= 8
    ]
    assert np.mean(shuffled) == (0.0 if name == "grid_search" else pytest.approx(1.0, abs=0.05))


def test_grids_of_continuous_parameters_are_even_and_reach_the_ends() -> None:
    run = played("grid_search", CONTINUOUS)
    single = run["z"][(run["space"].kinds > 0).sum(axis=1) == 1][:, :, 0]
    assert len(single) > 5
    for z in single:
        points = np.unique(z)
        np.testing.assert_allclose(np.diff(points), np.diff(points)[0], atol=1e-6)
        assert points[0] == 0.0
        assert points[-1] == 1.0 or len(points) == TRIALS


def test_quasi_random_points_fill_every_axis_evenly() -> None:
    run = played("quasi_random", CONTINUOUS)
    largest = np.diff(np.sort(run["z"], axis=1), axis=1).max(axis=1)
    assert np.median(largest) < 2.5 / TRIALS
    assert np.median(np.diff(np.sort(played("random_search", CONTINUOUS)["z"], axis=1), axis=1).max(1)) > 2.5 / TRIALS


def test_converging_trials_end_near_the_good_point() -> None:
    run = played("converging", CONTINUOUS)
    distance = np.abs(run["z"] - run["landmark"][:, None, :]).mean(axis=2)
    assert np.median(distance[:, -4:]) < 0.25 * np.median(distance[:, :2])


@pytest.mark.parametrize("config", [CONTINUOUS, MIXED], ids=["continuous", "mixed"])
@pytest.mark.parametrize("name", [name for name, member in BEHAVIOURS.items() if member.directed])
def test_what_follows_the_objective_improves(name: str, config: PriorConfig) -> None:
    chance = np.median(played("random_search", config)["y"])
    assert np.median(played(name, config)["y"][:, -8:]) > 0.7 * chance


@pytest.mark.parametrize("config", [CONTINUOUS, MIXED], ids=["continuous", "mixed"])
@pytest.mark.parametrize("name", ["tpe", "gaussian_process"])
def test_models_of_the_objective_beat_random_search(name: str, config: PriorConfig) -> None:
    best, chance = (played(one, config)["y"].max(axis=1) for one in (name, "random_search"))
    assert best.mean() > chance.mean()
    assert (best >= chance).mean() > 0.6


def test_model_based_histories_explore_first_and_then_concentrate() -> None:
    chance = played("random_search", CONTINUOUS)["y"]
    for name, ratio in (("gaussian_process", 0.3), ("tpe", 0.5)):
        run = played(name, CONTINUOUS)
        y = run["y"]
        assert run["z"][:, 0].mean() == pytest.approx(0.5, abs=0.1)
        assert np.median(-y[:, 20:]) < ratio * np.median(-chance)


def test_precision_is_the_inverse_of_the_covariance() -> None:
    run = played("gaussian_process", CONTINUOUS)
    for study in range(8):
        plan = jax.tree.map(lambda leaf, study=study: leaf[study], run["plan"])
        # At the last proposal all trials but the last had been absorbed.
        z, known = run["z"][study], TRIALS - 1
        x = np.stack([surrogates._coordinates(plan, jnp.asarray(point)) for point in z[:known]])
        squared = jnp.asarray(((x[:, None, :] - x[None, :, :]) ** 2).sum(-1))
        covariance = np.asarray(surrogates._kernel(plan.smooth, squared), float) + plan.noise * np.eye(known)
        precision = run["memory"].precision[study]
        product = precision[:known, :known] @ covariance
        # Trials nearly on top of each other, and 31 updates in single precision.
        np.testing.assert_allclose(product, np.eye(known), atol=0.1)
        assert (precision[known:] == 0).all()


@pytest.mark.parametrize("batch_size", [1, 5, 32, 100])
def test_seats_keep_the_share_of_costly_behaviours(batch_size: int) -> None:
    config = PriorConfig()
    members = roster(config, batch_size)
    share = sum(weight for name, weight in config.behaviours if BEHAVIOURS[name].costly)
    share /= sum(weight for _, weight in config.behaviours)
    seats = -(-batch_size // members.stride)
    assert members.seated * seats == pytest.approx(share * batch_size)
    assert 0.0 < members.seated <= 1.0
    assert seats <= max(1.0, 1.4 * share * batch_size + 1)


def test_two_fifths_of_the_default_studies_are_undirected() -> None:
    weights = dict(PriorConfig().behaviours)
    assert set(weights) == set(BEHAVIOURS)
    undirected = sum(weight for name, weight in weights.items() if not BEHAVIOURS[name].directed)
    assert undirected / sum(weights.values()) == pytest.approx(0.4)
