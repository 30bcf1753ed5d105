"""Whether the best learning rate of one width is the best of another: `optimizer.measured_on`, and without it.

    python benchmarks/experiments/rates.py --out DIR [--steps 600] [--widths 64 128 256] [--as-they-are]
    python benchmarks/experiments/rates.py --out DIR --tiny                   # a rehearsal, in minutes

Models of the `nano_cpu` recipe, all widths of `nano` multiplied by the same number, are trained from scratch for the
same number of steps through the whole schedule, at rates around the recipe's; AdamW's is a tenth of Muon's, as there.
The loss is the averaged weights', on studies of the prior that no run is trained on.  The best rate of a width is the
lowest point of a parabola through the best rate of those tried and its neighbours, in the logarithm; it says nothing
where it lies at an end.  `--set optimizer.decay=linear` and the like change the recipe.  Results are appended to
`DIR/rates.jsonl`; what stands there is not run again.  A run of 64, 128 and 256 wide takes an estimated 2, 3 and 6
minutes of two idle cores, half a minute of it to compile (rates are part of the step); other load changes no loss.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from optformer.inference.compiled import cache_compilations
from optformer.model import ModelConfig
from optformer.train.config import TrainConfig, load_config
from optformer.train.mesh import make_mesh
from optformer.train.metrics import Window
from optformer.train.overrides import apply_overrides
from optformer.train.step import TRAINING, VALIDATION, make_steps
from optformer.train.transfer import WIDTHS

FACTORS: Final = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Times the recipe's rates."""

VALIDATION_BATCHES: Final = 16

TINY: Final = (
    *("optimizer.warmup_steps=2", "batch_size=8", "accumulate=1", "prior_steps=1"),
    *("shape.trials=12", "shape.slots=4", "shape.policy_trials=2", "prior.families=bowl:1"),
    *("prior.behaviours=random_search:1", "model.decoder_layers=1"),
)


def of_width(width: int) -> ModelConfig:
    """`nano` with all widths multiplied by width / 128; heads are more, not wider."""
    nano = ModelConfig.nano()
    scaled = {name: getattr(nano, name) * width // nano.width for name in WIDTHS if name != "head_width"}
    if width % 64:
        raise ValueError(f"--widths {width}: a multiple of 64 keeps {nano.policy_heads} heads of {nano.head_width}")
    return dataclasses.replace(nano, **scaled)


def loss_after(config: TrainConfig) -> float:
    """Of the averaged weights, after the whole run."""
    steps = make_steps(config, make_mesh(config.mesh))
    state = steps.init()
    for step in range(config.steps):
        state, metrics = steps.train(state, steps.draw_prior(TRAINING, step), None)
        if step % 20 == 0:
            jax.block_until_ready(metrics)
    window = Window()
    for index in range(VALIDATION_BATCHES):
        batch = steps.draw_prior(VALIDATION, index)
        assert batch is not None, "the recipe has studies of the prior"
        window.add({name: float(value) for name, value in steps.validate(state.average, batch).items()})
    return window.means()["loss"]


def best_rate(rates: list[float], losses: list[float]) -> float | None:
    """Lowest point of the parabola through the best and its neighbours; None where the best is the first or last."""
    at = int(np.argmin(losses))
    if at in (0, len(rates) - 1):
        return None
    x = np.log(rates[at - 1 : at + 2])
    curve = np.polyfit(x, losses[at - 1 : at + 2], 2)
    return float(np.exp(-curve[1] / (2 * curve[0])))


def table(rows: list[dict[str, Any]]) -> str:
    """Loss by width and rate, of each variant."""
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        of_variant = [row for row in rows if row["variant"] == variant]
        rates = sorted({row["rate"] for row in of_variant})
        lines += [
            f"\n{variant}, loss by Muon's rate:\n",
            f"| width | {' | '.join(f'{rate:g}' for rate in rates)} | best |",
            f"|{'---|' * (len(rates) + 2)}",
        ]
        bests = []
        for width in sorted({row["width"] for row in of_variant}):
            found = {row["rate"]: row["loss"] for row in of_variant if row["width"] == width}
            tried = sorted(rate for rate in found if math.isfinite(found[rate]))
            best = best_rate(tried, [found[rate] for rate in tried])
            bests += [] if best is None else [best]
            shown = [f"{found[rate]:.4f}" if rate in found else "" for rate in rates]
            lines.append(f"| {width} | {' | '.join(shown)} | {'at an end' if best is None else f'{best:.4f}'} |")
        if len(bests) > 1:
            lines.append(
                f"\nThe best rates of {len(bests)} widths are within a factor of {max(bests) / min(bests):.2f}."
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--steps", type=int, default=600, help="of each run; default: %(default)s")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS, help="times the recipe's rates")
    parser.add_argument("--as-they-are", action="store_true", help="the same rates at every width, for comparison")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="change the recipe")
    parser.add_argument("--tiny", action="store_true", help="rehearse: small studies, one layer, ten steps")
    arguments = parser.parse_args()
    cache_compilations()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "rates.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    words = ["as they are" if arguments.as_they_are else "scaled", *["tiny"] * arguments.tiny, *arguments.overrides]
    variant = " ".join(words)
    if arguments.tiny:
        arguments.steps = 10
    done = {(row["variant"], row["steps"], row["width"], row["rate"]) for row in rows}
    changes = [*(TINY if arguments.tiny else ()), *arguments.overrides]
    for width in arguments.widths:
        recipe = dataclasses.replace(load_config("nano_cpu"), model=of_width(width), ema_decay=0.99)
        recipe = apply_overrides(recipe, ["optimizer.warmup_steps=50", *changes])
        recipe = dataclasses.replace(recipe, steps=arguments.steps)
        for factor in arguments.factors:
            rates = recipe.optimizer
            optimizer = dataclasses.replace(
                rates,
                matrix_learning_rate=factor * rates.matrix_learning_rate,
                learning_rate=factor * rates.learning_rate,
                measured_on=None if arguments.as_they_are else "nano",
            )
            key = (variant, arguments.steps, width, optimizer.matrix_learning_rate)
            if key in done:
                continue
            row = dict(zip(("variant", "steps", "width", "rate"), key, strict=True))
            row["loss"] = loss_after(dataclasses.replace(recipe, optimizer=optimizer))
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            rows.append(row)
    print(table([row for row in rows if row["steps"] == arguments.steps]))


if __name__ == "__main__":
    main()
