"""What each choice in model, prior and optimizer is worth, at equal compute.

    python benchmarks/ablations.py --out DIR [--cpu-minutes 25] [--only muon flat ...]

Every variant is the `nano_cpu` recipe with one thing changed, trained from scratch for the same processor time (two
cores, 25 minutes of it, are about 15 on the clock); the number of its steps follows from the time of its first ones, so
that each goes through its whole learning-rate schedule.  All are measured on the same studies, which no variant is
trained on: mean log density of the objectives of unknown trials, in nats above a uniform density over the bins, by
number of known trials; and the policy loss.  Results are appended to `DIR/ablations.jsonl`; what stands there is not
run again.  Run on an otherwise idle machine.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optformer.data.prior import PriorConfig, sample_batch
from optformer.data.shapes import BatchShape
from optformer.serialization import tokens
from optformer.serialization.batch import StudyBatch
from optformer.train.config import TrainConfig, apply_overrides, load_config
from optformer.train.mesh import make_mesh
from optformer.train.step import TRAINING, make_steps

HEAT_UP_STEPS, TIMED_STEPS = 5, 15
HISTORIES = (5, 10, 20, 40)
STUDIES = 96  # per history length

VARIANTS: dict[str, tuple[str, list[str]]] = {
    "default": ("the recipe", []),
    "flat": ("flat layout", ["model.layout=flat"]),
    "one_hot": ("one-hot labels", ["model.function_label_sigma=0", "model.policy_label_sigma=0"]),
    "wide_labels": ("labels three times as wide", ["model.function_label_sigma=0.006"]),
    "table": ("values by table alone", ["model.numeric_features=false"]),
    "free_head": ("output heads without the cosine series", ["model.head_cosines=0"]),
    "attention_pooling": ("slots pooled by attention", ["model.slot_pooling=attention"]),
    "identities": ("slots told apart by identities alone", ["model.slot_description=identity"]),
    "objective_30": ("objective weight 0.3", ["model.objective_weight=0.3"]),
    "objective_70": ("objective weight 0.7", ["model.objective_weight=0.7"]),
    "metadata": ("cross-attention to every metadata token", ["model.cross_attention=metadata"]),
    "gp_only": ("prior of Gaussian processes only", ["prior.families=gaussian_process:1"]),
    "adamw": ("AdamW for the matrices", ["optimizer.matrices=adamw"]),
    "narrow": ("96 wide instead of 128", ["model.width=96", "model.heads=3", "model.feed_forward=256"]),
    "deep": ("six decoder layers, 96 wide", ["model.width=96", "model.heads=3", "model.decoder_layers=6"]),
    "heads_64": ("two heads of 64", ["model.heads=2", "model.head_width=64"]),
    "batch_64": ("batches of 64", ["batch_size=64"]),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """One variant.

    Attributes:
      density: history length -> mean log density in nats above uniform.
      policy_loss: mean cross-entropy per parameter, on the same studies.
    """

    variant: str
    what: str
    steps: int
    parameters: int
    cpu_minutes: float
    wall_minutes: float
    density: dict[int, float]
    policy_loss: float


def measured_studies(config: TrainConfig, prior: PriorConfig) -> dict[int, StudyBatch]:
    """By history length: full studies of the default prior of which that many trials are known."""
    shape = BatchShape(config.shape.trials, config.shape.slots, config.shape.text, config.shape.policy_trials)
    full = dataclasses.replace(prior, full_rate=1.0, pending_rate=0.0, order_free_rate=0.0, single_prefix_rate=0.0)
    batches = {}
    for history in HISTORIES:
        # The scale of the objective is fitted on the known prefix, so the prefix must be drawn at that length.
        drawn = sample_batch(jax.random.key(10_000 + history), full, 40 * STUDIES, shape)
        close = np.abs(np.asarray(drawn.prefix_length) - history) <= history // 10
        chosen = np.flatnonzero(close)[:STUDIES]
        if len(chosen) < STUDIES:
            raise RuntimeError(f"only {len(chosen)} of {40 * STUDIES} studies have about {history} known trials")
        batches[history] = StudyBatch(*(np.asarray(leaf)[chosen] for leaf in drawn))
    return batches


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
    density, policy = measure(steps, state.average, measured_studies(config, PriorConfig()))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return Result(name, what, count, parameters, spent, on_clock, density, policy)


def measure(steps: Any, average: Any, batches: dict[int, StudyBatch]) -> tuple[dict[int, float], float]:
    @jax.jit
    def figures(params: Any, batch: StudyBatch) -> tuple[Any, Any]:
        logits = steps.merge(params)(batch)
        log_mass = jax.nn.log_softmax(logits.function[..., : tokens.NUM_LEVELS])
        y = jnp.asarray(batch.y_tokens)
        value = y < tokens.NUM_LEVELS
        density = jnp.take_along_axis(log_mass, jnp.where(value, y, 0)[..., None], axis=-1)[..., 0]
        density = density + np.log(tokens.NUM_LEVELS)
        # The next eight trials, so that all see about the same history.
        t = jnp.arange(y.shape[1])[None]
        ahead = t - jnp.asarray(batch.prefix_length)[:, None]
        counted = value & (jnp.asarray(batch.function_weights) > 0) & (ahead >= 0) & (ahead < 8)
        x = jnp.take_along_axis(jnp.asarray(batch.x_tokens), jnp.asarray(batch.policy_trials)[:, :, None], axis=1)
        weight = (jnp.asarray(batch.policy_weights) > 0) & (x < tokens.NUM_LEVELS)
        chosen = jax.nn.log_softmax(logits.policy)
        chosen = jnp.take_along_axis(chosen, jnp.where(weight, x, 0)[..., None], axis=-1)[..., 0]
        return (jnp.where(counted, density, 0.0).sum(), counted.sum()), (
            jnp.where(weight, chosen, 0.0).sum(),
            weight.sum(),
        )

    density, policy_sum, policy_count = {}, 0.0, 0.0
    for history, batch in batches.items():
        total = np.zeros(4)
        for start in range(0, STUDIES, 32):
            part = StudyBatch(*(leaf[start : start + 32] for leaf in batch))
            (function, count), (policy, tokens_count) = jax.device_get(figures(average, part))
            total += (function, count, policy, tokens_count)
        density[history] = float(total[0] / total[1])
        policy_sum, policy_count = policy_sum - total[2], policy_count + total[3]
    return density, float(policy_sum / policy_count)


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
    lengths = " | ".join(str(history) for history in HISTORIES)
    print(f"| variant | steps | parameters | {lengths} | policy loss |\n|{'---|' * (4 + len(HISTORIES))}")
    for line in path.read_text().splitlines():
        row = json.loads(line)
        figures = " | ".join(f"{row['density'][str(history)]:.3f}" for history in HISTORIES)
        print(f"| {row['what']} | {row['steps']} | {row['parameters']:,} | {figures} | {row['policy_loss']:.3f} |")


if __name__ == "__main__":
    main()
