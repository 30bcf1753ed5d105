"""Draws of every family of the prior's functions, in one and two dimensions.

    python benchmarks/plot_prior.py [--out docs/images/prior_functions.png]

One row per family: three functions of one parameter (left), and three functions of two (right; bright is better).
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from optformer.data.prior import PriorConfig, spaces
from optformer.data.prior.draws import Draws
from optformer.data.prior.families import FAMILIES, sample_domain

DRAWS = 3


def values(family: str, key: jax.Array, u: jax.Array) -> jax.Array:
    """One draw of the family on u.shape[1] continuous parameters, at the points u [point, slot]; mean 0, variance 1."""
    slots = u.shape[1]
    config = dataclasses.replace(
        PriorConfig(),
        slots_mean=1e6,
        uniform_slots_rate=0.0,
        single_kind_rate=1.0,
        conditional_rate=0.0,
        irrelevant_rate=0.0,
        few_rate=0.0,
    )
    draws = Draws(key)
    space = spaces.sample_space(draws, config, slots)
    # All parameters of the grid are there, whatever the space drew.
    space = space._replace(kinds=jnp.ones_like(space.kinds))
    domain = sample_domain(draws, space, config)
    member = FAMILIES[family].sample(draws, domain, config)
    drawn = jax.vmap(lambda point: FAMILIES[family].evaluate(member, point, domain.axes @ point))(u)
    return (drawn - drawn.mean()) / jnp.maximum(drawn.std(), 1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/prior_functions.png"))
    parser.add_argument("--resolution", type=int, default=80, help="points along each axis of the pictures")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    line = np.linspace(0.0, 1.0, 400)
    axis = np.linspace(0.0, 1.0, arguments.resolution)
    plane = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    figure, panels = plt.subplots(len(FAMILIES), 2 * DRAWS, figsize=(2 * DRAWS * 1.5, len(FAMILIES) * 1.25))
    for row, family in enumerate(FAMILIES):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(arguments.seed), row), DRAWS)
        for points, first in ((line[:, None], 0), (plane, DRAWS)):
            drawn = jax.jit(jax.vmap(lambda key, u, family=family: values(family, key, u), (0, None)))(
                keys, jnp.asarray(points, jnp.float32)
            )
            for column, height in enumerate(np.asarray(drawn), start=first):
                panel = panels[row, column]
                panel.set_xticks([])
                panel.set_yticks([])
                if first:
                    image = height.reshape(arguments.resolution, arguments.resolution)
                    panel.imshow(image, origin="lower", cmap="viridis", aspect="auto")
                else:
                    panel.plot(line, height, linewidth=1.0)
        panels[row, 0].set_ylabel(family.replace("_", "\n"), fontsize=7)
    figure.tight_layout(pad=0.3)
    figure.savefig(arguments.out, dpi=90)


if __name__ == "__main__":
    main()
