"""What training on exact posteriors is worth, where the process that a study was drawn from is known.

    python benchmarks/experiments/exact_targets.py --out DIR [--cpu-minutes 15]

A study of the prior is usually a target by the objective that was drawn for each trial.  Where the function is a
Gaussian process of known features and noise, the distribution of that objective given the earlier trials is known too.
Its cross-entropy has the same expected gradient with less variance (Rao-Blackwell).  Two models of the recipe
`nano_cpu` are trained from the same weights on the same studies, for the same processor time: `drawn` on the
objectives, `exact` on their distributions.  Both go through their whole learning-rate schedule.

Printed, by number of known trials: the Kullback-Leibler divergence from the exact distribution to the model's, on
studies of these processes; and the log density on studies of the default prior, in nats above a uniform density, as
`ablations.py` measures it.  In brackets: the standard error over studies of the difference to `drawn`.

Notation: B studies, T trials, D slots, F features, Q bins; phi_t the features of trial t.

  y_t = level + phi_t . w - bowl(u_t) + noise,   w ~ N(0, I),   K = Phi Phi^T + deviation^2 I = L L^T
  one step ahead:  mean_t = y_t - L_tt a_t,  sd_t = L_tt,  where L a = y - (level - bowl)
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Final

import ablations
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from optformer.data.prior import PriorConfig, draws, run, sample, spaces, task
from optformer.data.prior.families.family import wave
from optformer.inference.compiled import cache_compilations
from optformer.model import abstract_model, build_model, loss
from optformer.serialization import objective, tokens
from optformer.serialization.batch import BatchShape, StudyBatch
from optformer.train.config import TrainConfig, load_config
from optformer.train.optimizer import make_optimizer
from optformer.train.overrides import apply_overrides
from optformer.train.step import make_forward

TARGETS: Final = ("drawn", "exact")
STUDIES_AT_ONCE: Final = 64
TIMED_STEPS: Final = 15

PROCESSES: Final = PriorConfig(
    families=(("gaussian_process", 1.0),),
    # Only what leaves the objective a Gaussian process of known features with independent noise of one size.
    output_warps=(("identity", 1.0),),
    combination_rate=0.0,
    additive_rate=0.0,
    periodic_rate=0.0,
    trend_rate=0.0,
    category_rate=0.0,
    noise_rate=1.0,
    noise_range=(0.01, 0.3),
    noise_by_value_rate=0.0,
    noise_by_place_rate=0.0,
    student_rate=0.0,
    repeatable_rate=0.0,
    outlier_rate=0.0,
    rounded_rate=0.0,
    infeasible_rate=0.0,
    cliff_failure_rate=0.0,
    pending_rate=0.0,
    stopped_rate=0.0,
    lost_rate=0.0,
    # A behaviour that homes in on a good point, or a default near it, says more of the function than its trials do.
    default_rate=0.0,
    behaviours=tuple((name, weight) for name, weight in PriorConfig().behaviours if name != "converging"),
)


def plain_task(
    drawn: draws.Draws, space: spaces.Space, config: PriorConfig, sample_task: Any = task.sample_task
) -> tuple[task.Task, Float[Array, " slot"]]:
    """A task whose function is not standardized: the mean over reference points would say something of the weights."""
    made, landmark = sample_task(drawn, space, config)
    function = made.function._replace(mean=jnp.zeros((2,)), deviation=jnp.ones((2,)))
    return made._replace(function=function, f_mean=jnp.zeros(()), f_deviation=jnp.ones(())), landmark


class Targets:
    """Studies of known processes, and the exact distributions of their objectives."""

    def __init__(self, shape: BatchShape):
        run.tasks.sample_task = plain_task  # type: ignore[assignment]
        self.draw = jax.jit(lambda key: self._draw(key, shape))

    @staticmethod
    def _draw(key: Array, shape: BatchShape) -> tuple[StudyBatch, Float[Array, "study trial output"]]:
        keys = jax.random.split(key, STUDIES_AT_ONCE)
        studies, trials = run.run(keys, PROCESSES, shape)
        batch, record = jax.vmap(lambda *of: sample._write(*of, config=PROCESSES, shape=shape))(keys, studies, trials)
        return batch, jax.vmap(exact_bins)(studies, record.trials, batch)


def exact_bins(study: run.Study, trials: run.Trials, batch: StudyBatch) -> Float[Array, "trial output"]:
    """Probabilities of the bins of each objective, given the trials before it; 0 for what is no bin."""
    process = study.task.function.members[0]
    u = jax.vmap(lambda q: spaces.coordinate(study.space, q))(trials.q)
    points = jax.vmap(lambda u, on: task._point(study.task, u, on))(u, trials.on)
    features = process.frequencies.shape[1]
    phi = wave(points @ process.frequencies + process.phases) * jnp.sqrt(2.0 / features)
    center = study.level - jnp.square(points - process.center) @ process.curvature
    covariance = phi @ phi.T + jnp.square(study.task.noise.deviation) * jnp.eye(len(phi))
    factor = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(factor, trials.y - center, lower=True)
    deviation = jnp.diagonal(factor)
    mean = trials.y - deviation * white

    position = jnp.arange(len(phi))
    known = batch.trial_mask & (position < batch.prefix_length)
    edges = objective.bin_edges(objective.fit(trials.y, known, xp=jnp), xp=jnp)
    below = jax.scipy.special.ndtr((edges[None, :] - mean[:, None]) / deviation[:, None])
    return jnp.pad(jnp.diff(below, axis=1), ((0, 0), (0, tokens.NUM_OUTPUTS - tokens.NUM_LEVELS)))


def cross_entropy(logits: Float[Array, "*shape output"], bins: Float[Array, "*shape output"]) -> Array:
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.where(bins > 0, bins * log_p, 0.0), axis=-1)


class Trainer:
    """Steps of one kind of target."""

    def __init__(self, config: TrainConfig, kind: str):
        abstract = make_forward(config)
        self.merge = abstract.merge
        self.optimizer = make_optimizer(config.optimizer, config.steps, abstract_model(config.model))
        self.state = self._start(config)

        def total(params: Any, batch: StudyBatch, bins: Array) -> Array:
            logits = self.merge(params)(batch)
            losses = loss(logits, batch, config.model)
            if kind == "drawn":
                return losses.total
            weights = jnp.asarray(batch.function_weights)
            soft = jnp.where(weights > 0, weights * cross_entropy(logits.function, bins), 0.0)
            mean = soft.sum() / losses.function_weight
            return losses.total + config.model.objective_weight * (mean - losses.function)

        def step(state: Any, batch: StudyBatch, bins: Array) -> Any:
            params, optimizer, average, t = state
            gradient = jax.grad(total)(params, batch, bins)
            updates, optimizer = self.optimizer.update(gradient, optimizer, params)
            params = optax.apply_updates(params, updates)
            decay = jnp.minimum(config.ema_decay, (1 + t) / (10 + t))
            average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)
            return params, optimizer, average, t + 1

        self.step = jax.jit(step, donate_argnums=0)

    def _start(self, config: TrainConfig) -> Any:
        params = nnx.state(build_model(config.model, seed=config.seed), nnx.Param)
        return params, self.optimizer.init(params), jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32)


def train(kind: str, config: TrainConfig, targets: Targets, steps: int) -> tuple[Trainer, float]:
    """A trained model, and seconds of processor time per step."""
    trainer = Trainer(dataclasses.replace(config, steps=max(steps, 200)), kind)
    started = 0.0
    parts = STUDIES_AT_ONCE // config.batch_size
    for index in range(steps):
        if index % parts == 0:
            batch, bins = targets.draw(jax.random.fold_in(jax.random.key(1), index // parts))
        part = slice(config.batch_size * (index % parts), config.batch_size * (index % parts + 1))
        trainer.state = trainer.step(trainer.state, StudyBatch(*(leaf[part] for leaf in batch)), bins[part])
        if index == 5:
            jax.block_until_ready(trainer.state)
            started = time.process_time()
        elif index % 50 == 0:
            jax.block_until_ready(trainer.state)
    jax.block_until_ready(trainer.state)
    return trainer, (time.process_time() - started) / max(1, steps - 6)


def divergences(trainer: Trainer, targets: Targets) -> dict[int, list[float]]:
    """By number of known trials: mean divergence of each study, over the eight trials behind them."""

    @jax.jit
    def figures(params: Any, batch: StudyBatch, bins: Array, counted: Array) -> Array:
        entropy = -jnp.sum(jnp.where(bins > 0, bins * jnp.log(jnp.maximum(bins, 1e-30)), 0.0), axis=-1)
        gap = cross_entropy(trainer.merge(params)(batch).function, bins) - entropy
        return jnp.where(counted, gap, 0.0).sum(1) / jnp.maximum(counted.sum(1), 1)

    found: dict[int, list[float]] = {history: [] for history in ablations.HISTORIES}
    for index in range(60):
        batch, bins = targets.draw(jax.random.fold_in(jax.random.key(2), index))
        counted = ablations.counted_trials(jax.device_get(batch))
        values = np.asarray(figures(trainer.state[2], batch, bins, counted))
        prefix = np.asarray(batch.prefix_length)
        for history, of in found.items():
            of += values[(np.abs(prefix - history) <= history // 5) & counted.any(axis=1)].tolist()
    return found


def row(result: dict[str, Any], base: dict[str, Any], measure: str) -> str:
    cells = []
    for history in map(str, ablations.HISTORIES):
        values, reference = (np.asarray(one[measure][history]) for one in (result, base))
        error = f" ({np.std(values - reference) / np.sqrt(len(values)):.3f})" if result is not base else ""
        cells.append(f"{values.mean():.3f}{error}")
    return f"| {result['kind']} | {result['steps']} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--cpu-minutes", type=float, default=15.0, help="processor time of each kind of target")
    arguments = parser.parse_args()
    cache_compilations()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "exact_targets.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    config = apply_overrides(load_config("nano_cpu"), ["optimizer.warmup_steps=100", "ema_decay=0.998"])
    targets = Targets(config.shape)
    for kind in TARGETS:
        if any(result["kind"] == kind for result in results):
            continue
        seconds = train(kind, config, targets, TIMED_STEPS)[1]
        steps = max(TIMED_STEPS, int(arguments.cpu_minutes * 60 / seconds))
        trainer, _ = train(kind, config, targets, steps)
        density, _ = ablations.measure(trainer, trainer.state[2], ablations.measured_studies(config.shape))
        result = {"kind": kind, "steps": steps, "divergence": divergences(trainer, targets), "density": density}
        results.append(json.loads(json.dumps(result)))
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")
    for measure in ("divergence", "density"):
        print(f"\n| {measure}, targets | steps | {' | '.join(map(str, ablations.HISTORIES))} |")
        print(f"|{'---|' * (2 + len(ablations.HISTORIES))}")
        for result in results:
            print(row(result, results[0], measure))


if __name__ == "__main__":
    main()
