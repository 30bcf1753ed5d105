"""Which width is best after the same processor time: whether a larger model than `nano` pays on a CPU.

    python benchmarks/experiments/widths.py --out DIR --corpus real.jsonl.gz [--cpu-minutes 40] [--widths 128 192 256]
    python benchmarks/experiments/widths.py --out DIR --tiny                   # a rehearsal, in minutes

All widths of `nano` are multiplied by the same number.  Each model is trained from scratch with the recipe
`nano_2_real`, for the same processor time and through the whole schedule: the number of steps follows from the time of
the first ones.  The learning rates are the best ones of `rates.py`, transferred to the width (`optimizer.measured_on`).

All are measured on the same studies, on which none is trained: the held-out part of the corpus, and the prior.
Printed: parameters, steps, mean log density of the averaged weights in nats over uniform, the difference to the first
width, with its standard error over batches in brackets, and the policy loss.  Results are appended to
`DIR/widths.jsonl`; what is in this file is not run again.  `DIR/WIDTH` is the checkpoint of a width.  Measure its
regret with `benchmarks/search_settings.py --checkpoint DIR/WIDTH --engines default`.  Run on an otherwise idle machine.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from experts import TINY, run
from rates import of_width

from optformer.inference.compiled import cache_compilations
from optformer.train.config import TrainConfig, load_config
from optformer.train.corpus_route import corpus_batch, open_corpus
from optformer.train.mesh import make_mesh
from optformer.train.overrides import apply_overrides
from optformer.train.step import TRAINING, make_steps
from optformer.train.transfer import WIDTHS

FIRST, TIMED = 5, 20
"""Steps that are not timed, and steps that are."""


def seconds_per_step(config: TrainConfig) -> float:
    """Processor time of a training step, without compilation."""
    mesh = make_mesh(config.mesh)
    steps, corpus = make_steps(config, mesh), open_corpus(config)
    state, started = steps.init(), 0.0
    for number in range(FIRST + TIMED):
        if number == FIRST:
            jax.block_until_ready(state)
            started = time.process_time()
        studies = None if corpus is None else corpus_batch(corpus.training, config.seed, number, config, mesh)
        state, _ = steps.train(state, steps.draw_prior(TRAINING, number), studies)
    jax.block_until_ready(state)
    return (time.process_time() - started) / TIMED


def table(rows: list[dict[str, Any]]) -> str:
    """One row per width, in the order of the runs."""
    sources = [source for source in ("corpus", "prior") if rows[0][source]]
    header = [column for source in sources for column in (f"density, {source}", "difference")]
    lines = [
        f"| width | parameters | steps | CPU minutes | {' | '.join(header)} | policy loss |",
        f"|{'--:|' * (5 + len(header))}",
    ]
    for row in rows:
        figures = [f"{row['width']}", f"{row['parameters']:,}", f"{row['steps']:,}", f"{row['cpu_minutes']:.0f}"]
        for source in sources:
            values, first = np.asarray(row[source]), np.asarray(rows[0][source])
            paired = values - first
            error = paired.std(ddof=1) / len(paired) ** 0.5
            figures += [f"{values.mean():.3f}", "" if row is rows[0] else f"{paired.mean():+.3f} ({error:.3f})"]
        lines.append(f"| {' | '.join(figures)} | {row['policy_loss']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--corpus", type=Path, help="of real tasks, as docs/generated-corpora.md makes it")
    parser.add_argument("--cpu-minutes", type=float, default=40.0, help="of each training; default: %(default)s")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 192, 256])
    parser.add_argument("--tiny", action="store_true", help="rehearse: few steps on small studies of the prior")
    arguments = parser.parse_args()
    if arguments.corpus is None and not arguments.tiny:
        parser.error("--corpus is needed, except with --tiny")
    cache_compilations()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "widths.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    minutes = 0.1 if arguments.tiny else arguments.cpu_minutes
    done = {(row["width"], row["planned_minutes"]) for row in rows}
    recipe = load_config("nano_2_real")
    optimizer = dataclasses.replace(
        recipe.optimizer,
        matrix_learning_rate=0.01,
        learning_rate=0.001,
        experts_rate=1.0,
        measured_on="nano",
        warmup_steps=100,
    )
    given = TINY if arguments.tiny else [f"corpus={arguments.corpus}"]
    for width in arguments.widths:
        if (width, minutes) in done:
            continue
        scaled = of_width(width)
        model = dataclasses.replace(recipe.model, **{name: getattr(scaled, name) for name in WIDTHS})
        config = dataclasses.replace(recipe, init=None, model=model, optimizer=optimizer, ema_decay=0.995)
        config = apply_overrides(config, given)
        count = max(30, int(minutes * 60 / seconds_per_step(config)))
        started = time.process_time()
        found = run(dataclasses.replace(config, steps=count), arguments.out / str(width))
        spent = (time.process_time() - started) / 60
        row = {"width": width, "planned_minutes": minutes, "steps": count, "cpu_minutes": spent, **found}
        rows.append(row)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    print(table([row for row in rows if row["planned_minutes"] == minutes]))


if __name__ == "__main__":
    main()
