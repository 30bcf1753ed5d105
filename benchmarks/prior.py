"""How fast the prior generates studies, and what share of a training step of `nano` that is.

    python benchmarks/prior.py [--batch 32] [--trials 48] [--slots 8] [--repeats 20] [--measured]
        [--behaviours | --families]

Prints the time to compile, studies per second, and the time of one forward and backward pass of the same batch.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from optformer.data.prior import PriorConfig, sample_batch, spaces
from optformer.data.prior.behaviours import BEHAVIOURS, Behaviour, History, Setting
from optformer.data.prior.draws import Draws
from optformer.data.prior.families import FAMILIES, Domain, Family, sample_domain
from optformer.data.prior.run import roster
from optformer.model import ModelConfig, build_model, loss
from optformer.serialization.batch import BatchShape


def seconds(run: Callable[[int], Any], repeats: int) -> tuple[float, float]:
    """Wall time of the first call, and the median of the others."""
    start = time.perf_counter()
    jax.block_until_ready(run(0))
    first = time.perf_counter() - start
    times = []
    for index in range(1, repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run(index))
        times.append(time.perf_counter() - start)
    return first, sorted(times)[len(times) // 2]


def same(run: Callable[..., Any], *arguments: Any) -> Callable[[int], Any]:
    """`run` on the same arguments in every repetition."""
    return lambda _: run(*arguments)


def time_behaviours(config: PriorConfig, batch_size: int, shape: BatchShape, repeats: int) -> None:
    """Time of each behaviour alone, on a trivial objective, for as many studies of a batch as compute it."""
    members = roster(config, batch_size)
    print(f"{'behaviour':24}{'studies':>8}{'compile s':>11}{'ms per batch':>14}   (drawing random numbers included)")
    for name, member in BEHAVIOURS.items():
        studies = -(-batch_size // members.stride) if member.costly else batch_size

        def study(key: jax.Array, member: Behaviour = member) -> jax.Array:
            draws = Draws(key)
            setting = Setting(
                spaces.sample_space(draws, config, shape.slots), draws.uniform((shape.slots,)), shape.trials
            )
            plan = member.plan(draws, setting)
            if member.propose is None:
                return plan

            def trial(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
                history, memory = carry
                z, memory = member.propose(plan, memory, history, t)
                y = -jnp.square(z - setting.landmark).sum()
                history = History(history.z.at[t].set(z), history.on.at[t].set(True), history.y.at[t].set(y))
                return (history, memory), z

            cube = jnp.zeros((shape.trials, shape.slots))
            empty = History(cube, cube > 0, jnp.full((shape.trials,), -jnp.inf))
            memory = member.remember(shape.trials, shape.slots)
            return jax.lax.scan(trial, (empty, memory), jnp.arange(shape.trials))[1]

        run = jax.jit(jax.vmap(study))
        keys = jax.random.split(jax.random.key(0), studies)
        first, taken = seconds(same(run, keys), repeats)
        print(f"{name:24}{studies:8}{first:11.1f}{1e3 * taken:14.2f}")


def time_families(config: PriorConfig, batch_size: int, shape: BatchShape, repeats: int) -> None:
    """Time of each family alone: to draw functions, and to evaluate them one trial after the other."""
    print(f"{'family':20}{'compile s':>11}{'draw ms/study':>15}{'evaluate ms/study':>19}   (random numbers included)")
    keys = jax.random.split(jax.random.key(0), batch_size)

    def draw_domain(key: jax.Array) -> Domain:
        draws = Draws(key)
        return sample_domain(draws, spaces.sample_space(draws, config, shape.slots), config)

    domains = jax.jit(jax.vmap(draw_domain))(keys)
    for name, family in FAMILIES.items():

        def draw(key: jax.Array, domain: Domain, family: Family = family) -> Any:
            return family.sample(Draws(key), domain, config)

        def evaluate(member: Any, domain: Domain, family: Family = family) -> jax.Array:
            def trial(u: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
                value = family.evaluate(member, u, domain.axes @ u)
                # A point that depends on the value before it, as an optimizer's does.
                return jnp.mod(u + 0.1 * value, 1.0), value

            return jax.lax.scan(trial, jnp.full((shape.slots,), 0.3), None, length=shape.trials)[1]

        drawn, evaluated = jax.jit(jax.vmap(draw)), jax.jit(jax.vmap(evaluate))
        first, drawing = seconds(same(drawn, keys, domains), repeats)
        members = drawn(keys, domains)
        second, evaluating = seconds(same(evaluated, members, domains), repeats)
        print(f"{name:20}{first + second:11.1f}{1e3 * drawing / batch_size:15.4f}{1e3 * evaluating / batch_size:19.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--text", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--measured", action="store_true", help="PriorConfig.measured() in place of the defaults")
    parser.add_argument("--behaviours", action="store_true", help="the cost of each behaviour alone, and nothing else")
    parser.add_argument("--families", action="store_true", help="the cost of each family alone, and nothing else")
    arguments = parser.parse_args()
    shape = BatchShape(arguments.trials, arguments.slots, arguments.text, min(8, arguments.trials))
    key, config = jax.random.key(0), PriorConfig.measured() if arguments.measured else PriorConfig()
    if arguments.behaviours:
        time_behaviours(config, arguments.batch, shape, arguments.repeats)
        return
    if arguments.families:
        time_families(config, arguments.batch, shape, arguments.repeats)
        return

    first, drawing = seconds(
        lambda index: sample_batch(jax.random.fold_in(key, index), config, arguments.batch, shape), arguments.repeats
    )
    print(f"{jax.devices()[0].device_kind}, {shape}, batch {arguments.batch}")
    print(
        f"prior   first call {first:6.1f} s, then {1e3 * drawing:7.1f} ms, {arguments.batch / drawing:8.0f} studies/s"
    )

    model_config = ModelConfig.nano()
    model = build_model(model_config, seed=0)
    batch = sample_batch(key, config, arguments.batch, shape)
    step = nnx.jit(nnx.value_and_grad(lambda m, b: loss(m(b), b, model_config).total))
    first, training = seconds(lambda _: step(model, batch), arguments.repeats)
    print(f"nano    first call {first:6.1f} s, then {1e3 * training:7.1f} ms forward and backward")
    print(f"the prior takes {drawing / training:.1%} of that")


if __name__ == "__main__":
    main()
