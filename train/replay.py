"""Runs all commands that lead to the shipped checkpoints, in order.

    python -m optformer.train.replay FOLDER [--yahpo-dir DIR --tables DIR --logs FILE] [--tiny]

FOLDER gets the outputs of all commands: the corpora, a working directory for each stage (`nano_cpu` to `nano_3`), and
the checkpoints `nano-1`, `nano-2` and `nano-3`.  The last two are made only if the data that they need are given:
YAHPO's surrogates, measured tables and logged studies.  Complete outputs are not made again, so after an interruption
the same call continues.  On two CPU cores, `nano-1` takes about six hours, `nano-2` two more and `nano-3` another
three.  `--tiny` tests the commands in ten minutes, on data in the package; its models are useless.

The weights are not bit for bit those of the shipped checkpoints (docs/training.md says why).
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

from optformer.files import new_file
from optformer.train.config import load_config

SIX: Final = "grid_search,shuffled_grid_search,random_search,regularized_evolution,hill_climb,eagle_strategy"
RATES: Final = ("--infeasible-rate", "0.2", "--noise-rate", "0.3")
TINY_STEPS: Final = 2
TINY_TRAINING: Final = (
    # Applied one after the other, and each intermediate config must be valid; so `warmup_steps` comes before `steps`.
    "optimizer.warmup_steps=1",
    f"steps={TINY_STEPS}",
    "accumulate=1",
    "batch_size=8",
    "shape.policy_trials=4",
    "shape.trials=12",
    "shape.slots=8",
    "prior_steps=1",
    "prior.families=bowl:1",
    "prior.behaviours=random_search:1",
    "eval_every=0",
    "eval_batches=1",
)


class Step(NamedTuple):
    """One output and how it is made.

    Attributes:
      out: its name in the folder.
      command: arguments of `optformer`, which runs in the folder; empty for a corpus that is concatenated.
      parts: the files that are concatenated, in order.
      stage_steps: number of steps of a training stage.
    """

    out: str
    command: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    stage_steps: int | None = None


class RealData(NamedTuple):
    """Training data of `nano-2` and `nano-3` that are not in the package.

    Attributes:
      yahpo: folder of YAHPO's scenarios.
      tables: folder of measured tables.
      logs: logged studies, in any format that `optformer corpus import` reads.
    """

    yahpo: Path
    tables: Path
    logs: Path


def plan(tiny: bool = False, real: RealData | None = None) -> list[Step]:
    """All steps in order.

    Args:
      tiny: a test with few and short studies, a tiny model and two training steps per stage; includes `nano-2` and
        `nano-3`, on the tables in the package.
      real: data for `nano-2` and `nano-3`; None: the plan ends with `nano-1`.
    """
    recorded = files("optformer.data") / "recorded"
    gp_ucb, goes_on = (str(recorded / name) for name in ("gp_ucb_train.jsonl.gz", "gp_ucb_goes_on.jsonl.gz"))

    def corpus(out: str, studies: int, *options: str, teachers: str = SIX, trials: str = "100") -> Step:
        size: tuple[str, ...] = ("--studies", str(studies), "--trials", trials)
        if tiny and "--problems" in options:
            size = ("--studies", "24", "--trials", "8-10")
        elif tiny:
            trials = "12-16" if "--openings" in options else "8-10"
            size = ("--studies", "12", "--trials", trials, "--largest-dimension", "6")
        return Step(out, ("corpus", "generate", "--out", out, "--teachers", teachers, *size, *options))

    def stage(name: str, start: str | None, corpus: str | None = None) -> Step:
        changes = [f"init={start}"] if start else []
        changes += [f"corpus={corpus}"] if corpus else []
        if tiny:
            changes += [*TINY_TRAINING, *([] if start else ["model=tiny"])]
        sets = [part for change in changes for part in ("--set", change)]
        return Step(
            name, ("train", name, "--workdir", name, *sets), stage_steps=TINY_STEPS if tiny else load_config(name).steps
        )

    steps = [
        stage("nano_cpu", None),
        stage("nano_1_long", "nano_cpu"),
        corpus("teachers_six.jsonl.gz", 3000),
        corpus("teachers_two.jsonl.gz", 1000, "--seed", "1", teachers="tpe,cma_es"),
        Step("teachers.jsonl.gz", parts=("teachers_six.jsonl.gz", "teachers_two.jsonl.gz")),
        stage("nano_1_teachers", "nano_1_long", "teachers.jsonl.gz"),
        corpus("policy_six.jsonl.gz", 2700, *RATES, "--seed", "9"),
        Step("policy.jsonl.gz", parts=("policy_six.jsonl.gz", *[gp_ucb] * 3)),
        stage("nano_1_policy", "nano_1_teachers", "policy.jsonl.gz"),
        corpus("header_six.jsonl.gz", 813, *RATES, "--seed", "61"),
        corpus(
            "header_hand.jsonl.gz",
            1600,
            *("--openings", "header_six.jsonl.gz", *RATES, "--seed", "93"),
            trials="30-100",
        ),
        corpus(
            "header_from.jsonl.gz",
            384,
            *("--openings", gp_ucb, "--largest-dimension", "16", *RATES, "--seed", "92"),
            trials="30-80",
        ),
        Step(
            "header.jsonl.gz",
            parts=(
                *("header_six.jsonl.gz", "header_hand.jsonl.gz", "header_from.jsonl.gz"),
                *([gp_ucb] * 6 + [goes_on] * 6),
            ),
        ),
        stage("nano_1_header", "nano_1_policy", "header.jsonl.gz"),
        Step(
            "nano-1",
            ("checkpoint", "average", "nano_1_policy", "nano_1_header", "--share", "0.6", "--out", "nano-1"),
        ),
    ]
    if not tiny and real is None:
        return steps
    own = ("--problems", "tables", "--tables", str(recorded / "tables"))
    problems: tuple[str, ...] = own
    curves: tuple[str, ...] = ()
    if real is not None:
        folders = ("--yahpo-dir", str(real.yahpo), "--tables", str(real.tables))
        problems = ("--problems", "yahpo,yahpo,tables", *folders)
        curves = ("--curves",)
    hidden = ("--disguise-rate", "0.4", "--largest-dimension", "16")
    steps += [
        corpus(
            "real_orders.jsonl.gz",
            18_000,
            *(*problems, *hidden, *curves, "--infeasible-rate", "0.05"),
            teachers="random_order,local_moves,random_order,local_moves,good_last",
            trials="8-64",
        ),
        corpus(
            "real_sklearn.jsonl.gz",
            6000,
            *(*own, *hidden, "--infeasible-rate", "0.1", "--seed", "3"),
            teachers="random_order,local_moves,good_last",
            trials="12-80",
        ),
        corpus(
            "real_taught.jsonl.gz",
            2000,
            *(*problems, *hidden, "--seed", "1"),
            teachers="tpe,regularized_evolution,hill_climb,cma_es,tpe",
            trials="16-64",
        ),
        corpus(
            "real_hand.jsonl.gz",
            800,
            *("--openings", "header_six.jsonl.gz", *RATES, "--seed", "93"),
            trials="30-100",
        ),
    ]
    logged = []
    if real is not None:
        logged = ["real_logged.jsonl.gz"]
        steps.append(Step(logged[0], ("corpus", "import", str(real.logs), "--out", logged[0])))
    made = ("real_orders.jsonl.gz", "real_sklearn.jsonl.gz", "real_taught.jsonl.gz", *logged)
    parts = (*made, "header_six.jsonl.gz", "real_hand.jsonl.gz", *([gp_ucb, goes_on] * 4))
    export = ("train", "nano_2_real", "--workdir", "nano_2_real", "--export", "nano-2")
    last = stage("nano_2_real", "nano-1", "real.jsonl.gz")
    return [
        *steps,
        Step("real.jsonl.gz", parts=parts),
        last,
        Step("nano-2", (*export, *last.command[4:])),
        stage("nano_3_earlier", "nano-2", "real.jsonl.gz"),
        stage("nano_3_curves", "nano_3_earlier", "real.jsonl.gz"),
        Step(
            "nano_3_mean",
            ("checkpoint", "average", "nano-2", "nano_3_curves", "--share", "0.75", "--out", "nano_3_mean"),
        ),
        stage("nano_3", "nano_3_mean", "real.jsonl.gz"),
        Step("nano-3", ("checkpoint", "average", "nano_3_mean", "nano_3", "--share", "0.5", "--out", "nano-3")),
    ]


def is_done(step: Step, folder: Path) -> bool:
    """Whether the folder has the complete output of a step; commands write files atomically."""
    if step.stage_steps is None:
        return (folder / step.out).exists()
    exported = folder / step.out / "export" / "config.json"
    return exported.is_file() and json.loads(exported.read_text())["card"]["steps"] >= step.stage_steps


def replay(folder: Path, tiny: bool = False, real: RealData | None = None) -> int:
    """Makes the missing outputs and prints what it does.

    Returns:
      0, or the exit code of the command that failed or was interrupted.

    Raises:
      ValueError: the folder has outputs of a run with `tiny`, but this one is without, or vice versa.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = folder / ("rehearsal" if tiny else "replay")
    if (folder / ("replay" if tiny else "rehearsal")).exists():
        raise ValueError(f"{folder} has outputs of a run with{'out' if tiny else ''} --tiny: use another folder")
    kind.touch()
    steps = plan(tiny, real)
    for step in steps:
        if is_done(step, folder):
            print(f"{step.out}: exists")
            continue
        if step.parts:
            print(f"{step.out}: {len(step.parts)} files concatenated")
            _join(folder, step)
            continue
        print(f"optformer {shlex.join(step.command)}", flush=True)
        code = subprocess.run(
            [sys.executable, "-m", "optformer.cli", *step.command], cwd=folder, check=False
        ).returncode
        if code:
            print(f"{step.out}: exit code {code}; the same command continues from here", file=sys.stderr)
            return code
    print(f"{folder / steps[-1].out}: complete")
    return 0


def _join(folder: Path, step: Step) -> None:
    """Concatenates compressed files; the result is a valid compressed file."""
    with new_file(folder / step.out) as joined:
        for part in step.parts:
            with (folder / part).open("rb") as source:
                shutil.copyfileobj(source, joined)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m optformer.train.replay`."""
    parser = argparse.ArgumentParser(
        prog="python -m optformer.train.replay", description="Make nano-1, nano-2 and nano-3 from nothing."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of all outputs; an existing one is resumed")
    for name, metavar, what in (
        ("--yahpo-dir", "DIR", "YAHPO's scenarios"),
        ("--tables", "DIR", "measured tables"),
        ("--logs", "FILE", "logged studies"),
    ):
        parser.add_argument(name, type=Path, metavar=metavar, help=f"{what}, for nano-2 and nano-3")
    parser.add_argument("--tiny", action="store_true", help="test the commands: a tiny model, two steps per stage")
    parsed = parser.parse_args(arguments)
    named = (parsed.yahpo_dir, parsed.tables, parsed.logs)
    if any(named) and not all(named):
        parser.error("nano-2 and nano-3 need all of --yahpo-dir, --tables and --logs")
    try:
        # Commands are run in FOLDER.
        real = RealData(*(path.resolve(strict=True) for path in named)) if all(named) else None
        return replay(parsed.folder, parsed.tiny, real)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
