"""What each choice in model, prior and optimizer is worth, at equal compute.

    python benchmarks/experiments/ablations.py --out DIR [--cpu-minutes 25] [--only muon flat ...]

Every variant is the `nano_cpu` recipe with one thing changed, trained from scratch for the same processor time (two
cores, 25 minutes of it, are about 15 on the clock); the number of its steps follows from the time of its first ones, so
that each goes through its whole learning-rate schedule.  All are measured on the same studies, which no variant is
trained on: mean log density of the objectives of unknown trials, in nats above a uniform density over the bins, by
number of known trials, with the standard error over studies of the difference to the recipe; and the policy loss.
Another seed of training differs too: small differences decide nothing.  Results are appended to
`DIR/ablations.jsonl`; what stands there is not run again.  Run on an otherwise idle machine.
"""

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optformer.data.prior import PriorConfig, sample_batch
from optformer.serialization import tokens
from optformer.serialization.batch import BatchShape, StudyBatch
from optformer.train.config import load_config
from optformer.train.mesh import make_mesh
from optformer.train.overrides import apply_overrides
from optformer.train.step import TRAINING, make_steps

HEAT_UP_STEPS, TIMED_STEPS = 5, 15
HISTORIES = (5, 10, 20, 40)
STUDIES, DRAWN = 320, 1280  # per history length; at once

VARIANTS: dict[str, tuple[str, list[str]]] = {
    "default": ("the recipe", []),
    "flat": ("flat layout", ["model.layout=flat"]),
    "table": ("values by table alone", ["model.numeric_features=false"]),
    "free_head": ("output heads without the cosine series", ["model.head_cosines=0"]),
    "objective_30": ("objective weight 0.3", ["model.objective_weight=0.3"]),
    "objective_70": ("objective weight 0.7", ["model.objective_weight=0.7"]),
    "metadata": ("cross-attention to every metadata token", ["model.cross_attention=metadata"]),
    "gp_only": ("prior of Gaussian processes only", ["prior.families=gaussian_process:1"]),
    "adamw": ("AdamW for the matrices", ["optimizer.matrices=adamw"]),
    "muon_10": ("Muon at a rate of .01", ["optimizer.matrix_learning_rate=0.01"]),
    "muon_05": ("Muon at a rate of .005", ["optimizer.matrix_learning_rate=0.005"]),
    "decay_05": ("weight decay .05", ["optimizer.weight_decay=0.05"]),
    "decay_20": ("weight decay .2", ["optimizer.weight_decay=0.2"]),
    "narrow": ("96 wide instead of 128", ["model.width=96", "model.heads=3", "model.feed_forward=256"]),
    "deep": ("six decoder layers, 96 wide", ["model.width=96", "model.heads=3", "model.decoder_layers=6"]),
    "heads_64": ("two heads of 64", ["model.heads=2", "model.head_width=64"]),
    "batch_64": ("batches of 64", ["batch_size=64"]),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """One variant.

    Attributes:
      density: history length -> mean log density of each study, in nats above uniform.
      policy_loss: mean cross-entropy per parameter, on the same studies.
    """

    variant: str
    what: str
    steps: int
    parameters: int
    cpu_minutes: float
    wall_minutes: float
    density: dict[int, list[float]]
    policy_loss: float


@functools.cache
def measured_studies(shape: BatchShape) -> dict[int, StudyBatch]:
    """By history length: full studies of the default prior of which that many trials are known."""
    full = dataclasses.replace(
        PriorConfig(), full_rate=1.0, pending_rate=0.0, order_free_rate=0.0, single_prefix_rate=0.0
    )
    draw = jax.jit(sample_batch, static_argnums=(1, 2, 3))
    batches = {}
    for history in HISTORIES:
        # The scale of the objective is fitted on the known prefix, so the prefix must be drawn at that length.
        parts: list[StudyBatch] = []
        while sum(len(part.prefix_length) for part in parts) < STUDIES:
            key = jax.random.fold_in(jax.random.key(10_000 + history), len(parts))
            drawn = jax.device_get(draw(key, full, DRAWN, shape))
            close = (np.abs(drawn.prefix_length - history) <= history // 10) & counted_trials(drawn).any(axis=1)
            parts.append(StudyBatch(*(leaf[close] for leaf in drawn)))
        batches[history] = StudyBatch(*(np.concatenate(leaves)[:STUDIES] for leaves in zip(*parts, strict=True)))
    return batches


def counted_trials(batch: StudyBatch) -> np.ndarray:
    """Bool [B, T]: those of the eight trials behind the known ones whose objective is a number."""
    ahead = np.arange(batch.y_tokens.shape[1])[None] - batch.prefix_length[:, None]
    return (batch.y_tokens < tokens.NUM_LEVELS) & (batch.function_weights > 0) & (ahead >= 0) & (ahead < 8)


def train_variant(name: str, cpu_minutes: float) -> Result:
    what, overrides = VARIANTS[name]
    config = apply_overrides(load_config("nano_cpu"), [*overrides, "optimizer.warmup_steps=100", "ema_decay=0.998"])
    steps_of = lambda c: make_steps(c, make_mesh(c.mesh))  # noqa: E731
    trial = steps_of(config)
    state = trial.init()
    for step in range(HEAT_UP_STEPS + TIMED_STEPS):
        if step == HEAT_UP_STEPS:
            jax.block_until_ready(state)
            started = time.process_time()
        state, _ = trial.train(state, trial.draw_prior(TRAINING, step), None)
    jax.block_until_ready(state)
    per_step = (time.process_time() - started) / TIMED_STEPS

    count = max(200, int(cpu_minutes * 60 / per_step))
    config = dataclasses.replace(config, steps=count)
    steps = steps_of(config)
    state = steps.init()
    started, wall = time.process_time(), time.perf_counter()
    for step in range(count):
        state, metrics = steps.train(state, steps.draw_prior(TRAINING, step), None)
        if step % 50 == 0:
            jax.block_until_ready(metrics)
    jax.block_until_ready(state)
    spent, on_clock = (time.process_time() - started) / 60, (time.perf_counter() - wall) / 60
    density, policy = measure(steps, state.average, measured_studies(config.shape))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return Result(name, what, count, parameters, spent, on_clock, density, policy)


def measure(steps: Any, average: Any, batches: dict[int, StudyBatch]) -> tuple[dict[int, list[float]], float]:
    @jax.jit
    def figures(params: Any, batch: StudyBatch, counted: Any) -> tuple[Any, Any]:
        logits = steps.merge(params)(batch)
        log_mass = jax.nn.log_softmax(logits.function[..., : tokens.NUM_LEVELS])
        y = jnp.where(counted, jnp.asarray(batch.y_tokens), 0)
        density = jnp.take_along_axis(log_mass, y[..., None], axis=-1)[..., 0] + np.log(tokens.NUM_LEVELS)
        x = jnp.take_along_axis(jnp.asarray(batch.x_tokens), jnp.asarray(batch.policy_trials)[:, :, None], axis=1)
        weight = (jnp.asarray(batch.policy_weights) > 0) & (x < tokens.NUM_LEVELS)
        chosen = jax.nn.log_softmax(logits.policy)
        chosen = jnp.take_along_axis(chosen, jnp.where(weight, x, 0)[..., None], axis=-1)[..., 0]
        mean = jnp.where(counted, density, 0.0).sum(axis=1) / counted.sum(axis=1)
        return mean, jnp.stack([jnp.where(weight, chosen, 0.0).sum(), weight.sum()])

    density, policy = {}, np.zeros(2)
    for history, batch in batches.items():
        density[history] = []
        for start in range(0, STUDIES, 32):
            part = StudyBatch(*(leaf[start : start + 32] for leaf in batch))
            means, sums = jax.device_get(figures(average, part, counted_trials(part)))
            density[history] += np.round(means.astype(float), 4).tolist()
            policy += sums
    return density, float(-policy[0] / policy[1])


def table(rows: list[dict[str, Any]]) -> str:
    """Means, and in brackets the standard error of the difference to the recipe, where that was run."""
    lengths = " | ".join(str(history) for history in HISTORIES)
    lines = [f"| variant | steps | parameters | {lengths} | policy loss |", f"|{'---|' * (4 + len(HISTORIES))}"]
    recipe = next((row["density"] for row in rows if row["variant"] == "default"), None)
    for row in rows:
        figures = []
        for history in map(str, HISTORIES):
            values = np.asarray(row["density"][history])
            error = ""
            if recipe is not None and row["variant"] != "default":
                error = f" ({np.std(values - np.asarray(recipe[history])) / np.sqrt(len(values)):.3f})"
            figures.append(f"{values.mean():.3f}{error}")
        what = f"{row['what']} | {row['steps']} | {row['parameters']:,}"
        lines.append(f"| {what} | {' | '.join(figures)} | {row['policy_loss']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--cpu-minutes", type=float, default=25.0, help="processor time per variant")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "ablations.jsonl"
    done = {json.loads(line)["variant"] for line in path.read_text().splitlines()} if path.exists() else set()
    for name in arguments.only:
        if name in done:
            continue
        result = train_variant(name, arguments.cpu_minutes)
        with path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(result)) + "\n")
    print(table([json.loads(line) for line in path.read_text().splitlines()]))


if __name__ == "__main__":
    main()
