"""Runs every study of a batch: trial by trial, a behaviour chooses a point and the task evaluates it.

Notation: B studies, T trials, D slots; z, q, u, on as in `spaces.py`.

Under `vmap`, every study pays for every behaviour, which is acceptable for the cheap ones.  Those that model the
objective (costly ones) are computed only for every k-th study of the batch, its *seats*; k is the largest stride that
gives enough seats for their weight.  A study in a seat has a costly behaviour with a probability that keeps the shares
in the whole batch correct.  Costly behaviours share one `propose`, which is computed once, with the plan of the chosen
one.
"""

import functools
import math
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optformer.data.prior import spaces
from optformer.data.prior import task as tasks
from optformer.data.prior.behaviours import BEHAVIOURS, Behaviour, History, Setting
from optformer.data.prior.config import PriorConfig
from optformer.data.prior.draws import Draws
from optformer.data.prior.earlier import Earlier, at_hand, own, sample_earlier, with_slots
from optformer.data.prior.partial import sample_shown
from optformer.serialization.batch import BatchShape

_Tree = TypeVar("_Tree")


class Trials(NamedTuple):
    """The trials of a study.  `y` is meaningless where `infeasible` or `stopped`.

    Attributes:
      q: value tokens, also of inactive parameters.
      on: which parameters are active in each trial.
      y: observed objectives, larger is better.
      infeasible: trials that failed.
      stopped: trials that ended before they reported anything.
    """

    q: Int[Array, "trial slot"]
    on: Bool[Array, "trial slot"]
    y: Float[Array, " trial"]
    infeasible: Bool[Array, " trial"]
    stopped: Bool[Array, " trial"]


class Study(NamedTuple):
    """One study before its first trial.

    Attributes:
      space: its search space.
      task: the task, which evaluates points.
      choice: index of its behaviour in `config.behaviours`.
      plans: plans of the behaviours that depend on earlier trials.
      design: the trials of the behaviours that do not.
      opening: the first trial, if the behaviour does not choose it.
      opened: whether `opening` is used.
      distinct: whether a proposal that repeats a trial is replaced by a random one.
      fresh: these random points.
      rerun: trials that repeat an earlier one.
      past: index of the repeated trial, as a share of the earlier ones.
      disturbance: random effects on each trial.
      stopped: trials that end before they report.
      level: constant added to all objectives.
      earlier: its earlier studies; None if the config has none.
      shows_curves: whether trials are stopped and reports are included; None if the config has no curves.
    """

    space: spaces.Space
    task: tasks.Task
    choice: Int[Array, ""]
    plans: tuple[Any, ...]
    design: Float[Array, "trial slot"]
    opening: Float[Array, " slot"]
    opened: Bool[Array, ""]
    distinct: Bool[Array, ""]
    fresh: Float[Array, "trial slot"]
    rerun: Bool[Array, " trial"]
    past: Float[Array, " trial"]
    disturbance: tasks.Disturbance
    stopped: Bool[Array, " trial"]
    level: Float[Array, ""]
    earlier: Earlier | None = None
    shows_curves: Bool[Array, ""] | None = None


class Roster(NamedTuple):
    """The behaviours of a config, grouped by how they are computed, each with its index in `config.behaviours`."""

    designs: list[tuple[int, Behaviour]]
    adaptive: list[tuple[int, Behaviour]]
    costly: list[tuple[int, Behaviour]]
    weights: list[float]
    stride: int
    seated: float
    """Probability that a study in a seat has a costly behaviour."""


def roster(config: PriorConfig, batch_size: int) -> Roster:
    """Groups the behaviours that have a positive weight."""
    total = sum(weight for _, weight in config.behaviours)
    members = [(place, BEHAVIOURS[name], weight) for place, (name, weight) in enumerate(config.behaviours) if weight]
    share = sum(weight for _, member, weight in members if member.costly) / total
    assert len({member.propose for _, member, _ in members if member.costly}) <= 1
    stride = max(1, min(math.floor(1.0 / share), batch_size)) if share else 1
    return Roster(
        designs=[(place, member) for place, member, _ in members if member.propose is None],
        adaptive=[(place, member) for place, member, _ in members if member.propose and not member.costly],
        costly=[(place, member) for place, member, _ in members if member.costly],
        weights=[weight for _, weight in config.behaviours],
        stride=stride,
        # Rounds up if the stride does not divide the batch.
        seated=min(1.0, share * batch_size / math.ceil(batch_size / stride)),
    )


def run(keys: PRNGKeyArray, config: PriorConfig, shape: BatchShape) -> tuple[Study, Trials]:
    """Runs T trials of every study.

    Args:
      keys: [B], one per study.
      config: the distribution.
      shape: padded sizes.
    """
    members = roster(config, keys.shape[0])
    seats = jnp.arange(keys.shape[0]) % members.stride == 0
    studies = jax.vmap(functools.partial(_prepare, config=config, shape=shape, members=members))(keys, seats)
    plans, memories, propose = (), (), None
    if members.costly:
        propose, remember = members.costly[0][1].propose, members.costly[0][1].remember
        plan = functools.partial(_plan_costly, shape=shape, members=members)
        plans = jax.vmap(plan)(*_seated((keys, studies.space, studies.choice, studies.earlier), members))
        memories = jax.vmap(lambda _: remember(shape.trials, shape.slots))(_seated(keys, members))
    modelled = _seated(jnp.isin(studies.choice, jnp.asarray([place for place, _ in members.costly], int)), members)

    def trial(carry: Any, t: Int[Array, ""]) -> tuple[Any, Trials]:
        history, tried, memories = carry
        z = jax.vmap(lambda study, past: _propose(study, past, t, members))(studies, history)
        if propose is not None:
            proposed, memories = jax.vmap(propose, in_axes=(0, 0, 0, None))(
                plans, memories, _seated(history, members), t
            )
            z = z.at[:: members.stride].set(jnp.where(modelled[:, None], proposed, z[:: members.stride]))
        settle = functools.partial(_settle, t=t, config=config)
        history, tried, result = jax.vmap(settle)(studies, history, tried, z)
        return (history, tried, memories), result

    batch = (keys.shape[0], shape.trials)
    nothing = History(
        jnp.zeros((*batch, shape.slots)), jnp.zeros((*batch, shape.slots), bool), jnp.full(batch, -jnp.inf)
    )
    untried = jnp.full((*batch, shape.slots), -1, jnp.int32)
    _, trials = jax.lax.scan(trial, (nothing, untried, memories), jnp.arange(shape.trials))
    return studies, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), trials)


def _seated(tree: _Tree, members: Roster) -> _Tree:
    return jax.tree.map(lambda leaf: leaf[:: members.stride], tree)


def _prepare(
    key: PRNGKeyArray, seat: Bool[Array, ""], config: PriorConfig, shape: BatchShape, members: Roster
) -> Study:
    draws = Draws(jax.random.fold_in(key, 0))
    earlier = sample_earlier(key, config, shape)
    shows_curves = sample_shown(key, config, earlier, shape)
    reserved = None if earlier is None else earlier.studies
    if shows_curves is not None:
        reserved = shows_curves.astype(jnp.int32) + (0 if reserved is None else reserved)
    space = spaces.sample_space(draws, config, shape.slots, reserved)
    if earlier is not None:
        space, earlier = with_slots(space, earlier)
    # Scale, failures and good points of the function are those of the current study, not of earlier ones.
    task, landmark = tasks.sample_task(draws, at_hand(space, earlier), config)
    setting = Setting(own(space, earlier), landmark, shape.trials)

    costly = [weight * member.costly for weight, member in _members(config)]
    light = [weight - part for weight, part in zip(members.weights, costly, strict=True)]
    choice = draws.choice(light if sum(light) else costly)
    if members.costly:
        modelled = seat & draws.bernoulli(members.seated)
        choice = jnp.where(modelled, draws.choice(costly), choice)

    design = draws.uniform((shape.trials, shape.slots))
    for place, member in members.designs:
        design = jnp.where(choice == place, member.plan(draws, setting), design)
    known = jnp.where(draws.bernoulli(0.5, (shape.slots,)), landmark, draws.uniform((shape.slots,)))
    opening = draws.uniform()
    center = opening < config.center_rate
    stopped = draws.uniform((), 0.03, 0.25) * draws.bernoulli(config.stopped_rate)
    return Study(
        space=space,
        task=task,
        choice=choice,
        plans=tuple(member.plan(draws, setting) for _, member in members.adaptive),
        design=design,
        opening=jnp.where(center, 0.5, known),
        opened=opening < config.center_rate + config.default_rate,
        distinct=draws.bernoulli(config.distinct_rate),
        fresh=draws.uniform((shape.trials, shape.slots)),
        rerun=draws.bernoulli(0.15, (shape.trials,)) & draws.bernoulli(config.rerun_rate),
        past=draws.uniform((shape.trials,)),
        disturbance=tasks.sample_disturbance(draws, task, shape.trials),
        stopped=draws.bernoulli(stopped, (shape.trials,)),
        # The unit matters only with a single known value, whose magnitude then gives the scale.
        level=draws.normal() * draws.log_uniform(0.3, 30.0),
        earlier=earlier,
        shows_curves=shows_curves,
    )


def _members(config: PriorConfig) -> list[tuple[float, Behaviour]]:
    return [(weight, BEHAVIOURS[name]) for name, weight in config.behaviours]


def _plan_costly(
    key: PRNGKeyArray,
    space: spaces.Space,
    choice: Int[Array, ""],
    earlier: Earlier | None,
    shape: BatchShape,
    members: Roster,
) -> Any:
    """The plan of the chosen costly behaviour; if none was chosen, the plan of any of them."""
    draws = Draws(jax.random.fold_in(key, 1))
    # Behaviours that model the objective get no landmark.
    pinned = None if earlier is None else earlier.pinned
    setting = Setting(space, jnp.full((shape.slots,), 0.5), shape.trials, pinned)
    chosen = members.costly[0][1].plan(draws, setting)
    for place, member in members.costly[1:]:
        plan = member.plan(draws, setting)
        chosen = jax.tree.map(lambda own, other, place=place: jnp.where(choice == place, own, other), plan, chosen)
    return chosen


def _propose(study: Study, history: History, t: Int[Array, ""], members: Roster) -> Float[Array, " slot"]:
    z = study.design[t]
    if study.earlier is not None:
        history = _of_the_same_study(study.earlier, history, t)
    for (place, member), plan in zip(members.adaptive, study.plans, strict=True):
        assert member.propose is not None
        z = jnp.where(study.choice == place, member.propose(plan, (), history, t)[0], z)
    return z


def _of_the_same_study(earlier: Earlier, history: History, t: Int[Array, ""]) -> History:
    """Removes the objectives of other studies once the study of trial t has one of its own."""
    y = jnp.where(earlier.study == earlier.study[t], history.y, -jnp.inf)
    return history._replace(y=jnp.where(jnp.isfinite(y).any(), y, history.y))


def _settle(
    study: Study,
    history: History,
    tried: Int[Array, "trial slot"],
    z: Float[Array, " slot"],
    t: Int[Array, ""],
    config: PriorConfig,
) -> tuple[History, Int[Array, "trial slot"], Trials]:
    """Runs the proposed point, or its replacement."""
    earlier = study.earlier
    if earlier is not None:
        z = jnp.where(earlier.uniform & (t < earlier.trials), study.fresh[t], z)
    begins = t == 0 if earlier is None else earlier.begins[t]
    z = _pinned(earlier, jnp.where(begins & study.opened, study.opening, z), t)
    q, on = _trial(study.space, z)
    repeated = (tried == jnp.where(on, q, -2)[None, :]).all(1).any()
    z = jnp.where(study.distinct & repeated, study.fresh[t], z)
    again = history.z[jnp.floor(study.past[t] * t).astype(jnp.int32)]
    z = _pinned(earlier, jnp.where(study.rerun[t] & (t > 0), again, z), t)

    q, on = _trial(study.space, z)
    disturbance = jax.tree.map(lambda leaf: leaf[t], study.disturbance)
    u = spaces.coordinate(study.space, q)
    u = u if earlier is None else earlier.moved(study.space, u, t)
    y, infeasible = tasks.observe(study.task, config, disturbance, u, on)
    lost = infeasible | study.stopped[t]
    choosable = on if earlier is None else on & ~earlier.slots
    history = History(
        history.z.at[t].set(z), history.on.at[t].set(choosable), history.y.at[t].set(jnp.where(lost, -jnp.inf, y))
    )
    return history, tried.at[t].set(jnp.where(on, q, -2)), Trials(q, on, y, infeasible, study.stopped[t])


def _pinned(earlier: Earlier | None, z: Float[Array, " slot"], t: Int[Array, ""]) -> Float[Array, " slot"]:
    return z if earlier is None else earlier.pin(z, t)


def _trial(space: spaces.Space, z: Float[Array, " slot"]) -> tuple[Int[Array, " slot"], Bool[Array, " slot"]]:
    q = spaces.quantize(space, z)
    return q, spaces.activity(space, q)
