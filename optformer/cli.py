"""The command `optformer`.

The command modules import nothing heavy, so `--help` and a mistyped argument are answered at once.  A user error prints
one line on stderr and exits with code 2; `--debug` shows the traceback instead.
"""

import _thread
import argparse
import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

from optformer.commands import (
    checkpoint_average,
    checkpoint_info,
    checkpoint_list,
    corpus_cache,
    corpus_generate,
    corpus_import,
    corpus_info,
    corpus_measure,
    doctor,
    evaluate_calibration,
    evaluate_imitation,
    evaluate_optimization,
    report,
    serve,
    studies,
    suggest,
    train,
)
from optformer.terminal import shown, without_alarms

USER_ERROR: Final = 2

COMMANDS: Final = {
    "corpus import": (corpus_import, "convert logs of any tuning library to one corpus"),
    "corpus info": (corpus_info, "show the contents of a corpus"),
    "corpus generate": (corpus_generate, "run known optimizers on known problems; write the studies"),
    "corpus measure": (corpus_measure, "measure known problems at random configurations; write tables"),
    "corpus cache": (corpus_cache, "convert a corpus to token arrays, which the trainer maps into memory"),
    "train": (train, "train a model; the same command resumes"),
    "checkpoint list": (checkpoint_list, "list the shipped checkpoints and their aliases"),
    "checkpoint info": (checkpoint_info, "show card, config and parameters; verify the weights"),
    "checkpoint average": (checkpoint_average, "average a checkpoint and the one trained from it"),
    "suggest": (suggest, "suggest the next trials of a study on disk"),
    "studies": (studies, "list the studies of a database, with trials and best values"),
    "report": (report, "report on a study and explain its next trials, as text and as a page"),
    "serve": (serve, "run a Vizier service with the algorithm OPTFORMER"),
    "evaluate calibration": (
        evaluate_calibration,
        "compare predictions with Gaussian processes fitted to each study",
    ),
    "evaluate imitation": (evaluate_imitation, "measure how faithfully the policy imitates a named optimizer"),
    "evaluate optimization": (evaluate_optimization, "compare regret and ranks with widely used optimizers"),
    "doctor": (doctor, "show versions, devices, checkpoint, and the time of a suggestion"),
}
"""Command -> its module and its line in the help."""

GROUPS: Final = {
    "corpus": ("ACTION", "logged studies: import, inspect, generate, measure, cache"),
    "checkpoint": ("ACTION", "weights on disk: list, inspect, average"),
    "evaluate": ("MEASURE", "measure a checkpoint"),
}
"""First word of a two-word command -> the placeholder of the second word in the help, and the group's help."""


class _OneLineParser(argparse.ArgumentParser):
    """Prints argument errors without the usage text, which `--help` prints."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 1 (failed), 2 (user error) or 130 (interrupted)."""
    without_alarms()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may have letters that the terminal's encoding lacks
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USER_ERROR
    try:
        if arguments.version:
            from optformer import __version__

            print(f"optformer {__version__}")
            return 0
        if arguments.command is None:
            parser.print_help()
            return USER_ERROR
        with _interrupts_kept():
            return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the pipe (such as `head`) has closed it.  Prevents a second error message at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        # rich ends the program with code 1 when the pipe is closed.
        if isinstance(stop.__context__, BrokenPipeError):
            return 0
        raise
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if arguments.debug:
            raise
        print(f"optformer: error: {shown(_one_line(error))}", file=sys.stderr)
        return USER_ERROR


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Interrupts again after a Ctrl-C that fell into a callback, such as JAX's for the garbage collector.

    Python prints the exceptions of such callbacks and then goes on.
    """
    before = sys.unraisablehook

    def raised(found: "sys.UnraisableHookArgs") -> None:
        if issubclass(found.exc_type, KeyboardInterrupt):
            threading.Timer(0.1, _thread.interrupt_main).start()  # at once, it would fall into this function
        else:
            before(found)

    sys.unraisablehook = raised
    try:
        yield
    finally:
        sys.unraisablehook = before


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="optformer",
        description="Learns from tuning histories, suggests trials and predicts objectives.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    first_words = parser.add_subparsers(dest="command", metavar="COMMAND")
    groups = {}
    for words, (module, purpose) in COMMANDS.items():
        first, _, second = words.partition(" ")
        if not second:
            command = first_words.add_parser(first, help=purpose)
        else:
            if first not in groups:
                metavar, purpose_of_all = GROUPS[first]
                group = first_words.add_parser(first, help=purpose_of_all)
                groups[first] = group.add_subparsers(dest=metavar.lower(), metavar=metavar, required=True)
            command = groups[first].add_parser(second, help=purpose)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
