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

from experts import TIMED, TINY, UNTIMED, density_columns, markdown, run, train
from rates import of_width

from optformer.inference.compiled import cache_compilations
from optformer.train.config import load_config
from optformer.train.overrides import apply_overrides
from optformer.train.transfer import WIDTHS


def table(rows: list[dict[str, Any]]) -> str:
    """One row per width, in the order of the runs."""
    columns = {head: [f"{row[head]:,.0f}" for row in rows] for head in ("width", "parameters", "steps")}
    columns["CPU minutes"] = [f"{row['cpu_minutes']:.0f}" for row in rows]
    columns |= density_columns(rows, rows[0])
    return markdown(columns | {"policy loss": [f"{row['policy_loss']:.3f}" for row in rows]})


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
        count = max(30, int(minutes * 60 / train(config, UNTIMED + TIMED).seconds))
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
