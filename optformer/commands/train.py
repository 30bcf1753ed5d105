"""`optformer train`: the command around the loop.  Mistakes of the user end in one line and exit code 2."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def run_train(
    config: str,
    workdir: str,
    overrides: Sequence[str] = (),
    max_minutes: float | None = None,
    export: str | None = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> int:
    """Trains `config` (file or shipped name) in `workdir`; with `export`, writes the latest weights there instead.

    The last three are for one run of several processes (`optformer.train.processes.start`).

    Returns the exit code: 0 finished or out of minutes, 128 + n ended by signal n, 1 the loss is not finite, 2 a
    mistake in what was asked for.
    """
    # Here, so that `--help` need not wait for JAX.
    from optformer.data.corpus import CorpusError
    from optformer.model.checkpoint import CheckpointError
    from optformer.train.config import ConfigError, load_config
    from optformer.train.loop import NonFiniteLossError, export_latest, train
    from optformer.train.overrides import apply_overrides
    from optformer.train.processes import OtherProcessError, is_first, start

    try:
        start(coordinator, num_processes, process_id)
        chosen = apply_overrides(load_config(config), overrides)
        if max_minutes is not None:
            chosen = dataclasses.replace(chosen, max_minutes=max_minutes)
        name = Path(config).stem
        if export is not None:
            step = export_latest(chosen, workdir, export, name)
            if is_first():
                print(f"weights of step {step} in {export}")
            return 0
        result = train(chosen, workdir, name)
    except (ConfigError, CorpusError, CheckpointError, OtherProcessError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 128 + signal.Signals[result.ended_by] if result.ended_by.startswith("SIG") else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command, for this module's own parser and the one of `optformer`."""
    parser.add_argument("config", metavar="CONFIG", help="a file with get_config(), or the name of a shipped config")
    parser.add_argument("--workdir", metavar="DIR", required=True, help="checkpoints, metrics and weights; resumed")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[], help="change a field of the config"
    )
    parser.add_argument("--max-minutes", metavar="N", type=float, help="end at a checkpoint after N minutes")
    parser.add_argument("--export", metavar="DIR", help="train nothing: write the latest weights of --workdir to DIR")
    several = parser.add_argument_group("one run of several processes", "found by themselves on TPU pods")
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0; `auto` under Slurm, Open MPI or Kubernetes"
    )
    several.add_argument("--num-processes", metavar="N", type=int, help="how many there are")
    several.add_argument("--process-id", metavar="I", type=int, help="which one this is, from 0")


def run_arguments(parsed: argparse.Namespace) -> int:
    """Runs what `add_arguments` has read."""
    return run_train(
        parsed.config,
        parsed.workdir,
        parsed.overrides,
        parsed.max_minutes,
        parsed.export,
        parsed.coordinator,
        parsed.num_processes,
        parsed.process_id,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m optformer.train`, for machines without the packages that the rest of `optformer` needs."""
    parser = argparse.ArgumentParser(prog="python -m optformer.train", description="Train a model.")
    add_arguments(parser)
    return run_arguments(parser.parse_args(arguments))
