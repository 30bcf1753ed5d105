"""`optformer train`: the command around the training loop."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from optformer.extras import MissingExtraError
from optformer.terminal import without_alarms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments, both to this module's own parser and to that of `optformer`."""
    parser.add_argument("config", metavar="CONFIG", help="Python file with get_config(), or name of a shipped config")
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        required=True,
        help="directory of checkpoints, metrics and weights; an existing run resumes",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[], help="change a field of the config"
    )
    parser.add_argument(
        "--max-minutes",
        metavar="N",
        type=float,
        help="end with a checkpoint after N minutes, compilation included",
    )
    parser.add_argument("--export", metavar="DIR", help="train nothing: write the latest weights of --workdir to DIR")
    several = parser.add_argument_group("one run of several processes", "on TPU pods these are detected")
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0; `auto` under Slurm, Open MPI or Kubernetes"
    )
    several.add_argument("--num-processes", metavar="N", type=int, help="number of processes")
    several.add_argument("--process-id", metavar="I", type=int, help="index of this process, from 0")


def run(arguments: argparse.Namespace) -> int:
    """Trains the config in the working directory; with `--export`, writes the latest weights there instead.

    Returns the exit code: 0 if training finished or reached `--minutes`, 128 + n if signal n ended it, 1 if the loss is
    not finite, 2 for a user error.
    """
    # Imported here, so that `--help` need not wait for JAX.
    from optformer.data.corpus import CorpusError
    from optformer.model.checkpoint import CheckpointError
    from optformer.train.config import ConfigError, load_config
    from optformer.train.loop import NonFiniteLossError, export_latest, train
    from optformer.train.overrides import apply_overrides
    from optformer.train.processes import OtherProcessError, is_first, start

    try:
        start(arguments.coordinator, arguments.num_processes, arguments.process_id)
        chosen = apply_overrides(load_config(arguments.config), arguments.overrides)
        if arguments.max_minutes is not None:
            chosen = dataclasses.replace(chosen, max_minutes=arguments.max_minutes)
        name = Path(arguments.config).stem
        if arguments.export is not None:
            step = export_latest(chosen, arguments.workdir, arguments.export, name)
            if is_first():
                print(f"weights of step {step} in {arguments.export}")
            return 0
        result = train(chosen, arguments.workdir, name)
    except (ConfigError, CorpusError, CheckpointError, OtherProcessError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 128 + signal.Signals[result.ended_by] if result.ended_by.startswith("SIG") else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m optformer.train`, for machines without the packages that the rest of `optformer` needs."""
    without_alarms()
    parser = argparse.ArgumentParser(prog="python -m optformer.train", description="Train a model.")
    add_arguments(parser)
    try:
        return run(parser.parse_args(arguments))
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
