"""What the experts in the function head are worth, how many and of which kernels, and what else may be trained.

    python benchmarks/experiments/experts.py --out DIR --corpus real.jsonl.gz [--steps 400] [--only default none ...]
    python benchmarks/experiments/experts.py --out DIR --tiny                  # a rehearsal, in a minute

Each variant is the recipe `nano_2_real` with one thing changed.  It goes on from `nano-1` for the same number of steps,
on the same batches, through the whole schedule.  All are measured on the same studies, which none is trained on: the
held-out part of the corpus, and the prior.  Printed: mean log density of the averaged weights in nats above a uniform
density, the difference to the recipe, and in brackets the standard error of the difference over batches; the policy
loss; and processor time per step relative to the recipe's.  Results are appended to `DIR/experts.jsonl`; what stands
there is not run again.  `DIR/NAME` is the checkpoint of a variant with the usual kernels, whose regret
`benchmarks/search_settings.py --checkpoint DIR/NAME --engines default` measures.
"""

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import numpy as np

from optformer.inference.compiled import cache_compilations
from optformer.model import experts
from optformer.model.checkpoint import save_checkpoint
from optformer.serialization.vocabulary import Vocabulary
from optformer.train import step
from optformer.train.config import TrainConfig, load_config
from optformer.train.corpus_route import corpus_batch, open_corpus
from optformer.train.initial import with_initial_model
from optformer.train.mesh import make_mesh
from optformer.train.overrides import apply_overrides
from optformer.train.step import TRAINING, VALIDATION, make_steps

BATCHES: Final = 32
"""Of each source, for measuring."""

UNTIMED, TIMED = 5, 20
"""Numbers of first steps that are not timed, and of those behind them that are."""

Kernels = tuple[tuple[float, int], ...]

VARIANTS: Final[dict[str, tuple[str, list[str], Kernels | None]]] = {
    "default": ("the recipe: four experts", [], None),
    "none": ("no experts", ["model.experts=0"], None),
    "one": ("one expert", ["model.experts=1"], ((0.5, 5),)),
    "two": ("two experts", ["model.experts=2"], ((0.2, 3), (1.0, 5))),
    "six": ("six experts", ["model.experts=6"], (*experts.STARTS, (0.1, 1), (0.5, 3))),
    "smooth": ("four experts, all of Matérn 5/2", [], ((0.2, 5), (0.5, 5), (1.0, 5), (2.0, 5))),
    "rough": ("four experts, all of Matérn 1/2", [], ((0.2, 1), (0.5, 1), (1.0, 1), (2.0, 1))),
    "head": ("the rest of the model frozen, but for the head", ["train_only=experts,function_head,norm"], None),
}

TINY: Final = (
    *("optimizer.warmup_steps=1", "batch_size=8", "accumulate=1", "prior_steps=1", "corpus_fraction=0"),
    *("shape.policy_trials=2", "shape.trials=12", "shape.slots=4", "prior.families=bowl:1"),
    "prior.behaviours=random_search:1",
)


@contextlib.contextmanager
def kernels(starts: Kernels | None) -> Iterator[None]:
    """The experts' kernels, of models that are built within."""
    usual = experts.STARTS
    try:
        step._make_steps.cache_clear()  # two variants may differ in their kernels alone
        experts.STARTS = usual if starts is None else starts  # type: ignore[misc, assignment]
        yield
    finally:
        experts.STARTS = usual  # type: ignore[misc]


class Trained(NamedTuple):
    """A model after some steps.

    Attributes:
      steps: compiled functions of the training.
      state: of the training.
      corpus: None if there is none.
      seconds: processor time per step, without compilation.
    """

    steps: Any
    state: Any
    corpus: Any
    seconds: float


def train(config: TrainConfig, count: int) -> Trained:
    """Takes the first `count` steps, at least `UNTIMED + TIMED`, of a training."""
    mesh = make_mesh(config.mesh)
    corpus = open_corpus(config)
    steps = make_steps(config, mesh)
    state = steps.init()
    seconds = 0.0
    for number in range(count):
        of_corpus = None
        if corpus is not None and config.corpus_studies:
            of_corpus = corpus_batch(corpus.training, config.seed, number, config, mesh)
        state, metrics = steps.train(state, steps.draw_prior(TRAINING, number), of_corpus)
        if number % 20 == 0:
            jax.block_until_ready(metrics)
        if number + 1 in (UNTIMED, UNTIMED + TIMED):
            jax.block_until_ready(state)
            seconds = time.process_time() - seconds
    return Trained(steps, state, corpus, seconds / TIMED)


def run(config: TrainConfig, target: Path | None) -> dict[str, Any]:
    """Trains a model.

    Args:
      config: of the training.
      target: where the averaged weights are written.

    Returns:
      Log density of each measured batch by source, policy loss, number of parameters, and seconds of processor time
      per step.
    """
    config = with_initial_model(config)
    steps, state, corpus, seconds = train(config, config.steps)
    found: dict[str, Any] = {"seconds": seconds, "prior": [], "corpus": []}
    policy = np.zeros(2)
    for index in range(BATCHES):
        batches = {"prior": steps.draw_prior(VALIDATION, index)}
        if corpus is not None and corpus.validation is not None:
            batches["corpus"] = corpus_batch(corpus.validation, 0, index, config, make_mesh(config.mesh))
        for source, batch in batches.items():
            assert batch is not None
            sums = {name: float(value) for name, value in steps.validate(state.average, batch).items()}
            found[source].append(sums["function_density"] / max(sums["function_density_weight"], 1.0))
            policy += sums["policy_loss"], sums["policy_weight"]
    if target is not None:
        card = {"name": target.name, "steps": config.steps, "train_config": dataclasses.asdict(config)}
        save_checkpoint(target, steps.merge(state.average), card, Vocabulary.default().fingerprint)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return found | {"policy_loss": float(policy[0] / policy[1]), "parameters": parameters}


def density_columns(rows: list[dict[str, Any]], first: dict[str, Any] | None) -> dict[str, list[str]]:
    """By head, the columns of a table: log densities, and how much more they are than those of the first row.

    Args:
      rows: of `run`.
      first: one of them; None: there is nothing to compare with.
    """
    columns: dict[str, list[str]] = {}
    for source in ("corpus", "prior"):
        if not rows[0][source]:
            continue
        columns[f"density, {source}"] = [f"{np.mean(row[source]):.3f}" for row in rows]
        columns[f"difference, {source}"] = cells = []
        for row in rows:
            if first is None or row is first:
                cells.append("")
                continue
            paired = np.asarray(row[source]) - np.asarray(first[source])
            cells.append(f"{paired.mean():+.3f} ({paired.std(ddof=1) / len(paired) ** 0.5:.3f})")
    return columns


def markdown(columns: dict[str, list[str]]) -> str:
    """A table of columns by their heads."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join(lines + [f"| {' | '.join(cells)} |" for cells in zip(*columns.values(), strict=True)])


def table(rows: list[dict[str, Any]]) -> str:
    """Differences to the recipe, where that was run."""
    recipe = next((row for row in rows if row["variant"] == "default"), None)
    columns = {"variant": [row["what"] for row in rows]} | density_columns(rows, recipe)
    columns["policy loss"] = [f"{row['policy_loss']:.3f}" for row in rows]
    columns["time"] = ["" if recipe is None else f"{row['seconds'] / recipe['seconds']:.2f}" for row in rows]
    return markdown(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--corpus", type=Path, help="of real tasks, as docs/generated-corpora.md makes it")
    parser.add_argument("--steps", type=int, default=400, help="of each variant; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--tiny", action="store_true", help="rehearse: 30 steps on small studies of the prior")
    arguments = parser.parse_args()
    if arguments.corpus is None and not arguments.tiny:
        parser.error("--corpus is needed, but for --tiny")
    cache_compilations()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "experts.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    count = 30 if arguments.tiny else arguments.steps
    usual = ["optimizer.warmup_steps=40", "ema_decay=0.98"]
    given = [] if arguments.corpus is None else [f"corpus={arguments.corpus}"]
    for name in arguments.only:
        what, changes, starts = VARIANTS[name]
        if any((row["variant"], row["steps"]) == (name, count) for row in rows):
            continue
        overrides = [*usual, *(TINY if arguments.tiny else given), *changes]
        config = apply_overrides(dataclasses.replace(load_config("nano_2_real"), steps=count), overrides)
        target = arguments.out / name if starts is None else None
        with kernels(starts):
            row = {"variant": name, "what": what, "steps": count, **run(config, target)}
        rows.append(row)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    print(table([row for row in rows if row["steps"] == count]))


if __name__ == "__main__":
    main()
