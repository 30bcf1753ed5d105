"""The command `optformer`.

The modules of the commands import nothing heavy: `--help` and a mistyped argument answer at once.  Mistakes of the user
end in one line on stderr and exit code 2; `--debug` shows the traceback behind that line.
"""

import argparse
import os
import sys
from collections.abc import Sequence
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
    "corpus import": (corpus_import, "logs of any tuning library into one corpus"),
    "corpus info": (corpus_info, "what a corpus holds"),
    "corpus generate": (corpus_generate, "known optimizers on known problems, as studies"),
    "corpus measure": (corpus_measure, "known problems at random configurations, as measured tables"),
    "corpus cache": (corpus_cache, "token arrays of a corpus, which the trainer maps into memory"),
    "train": (train, "train a model; the same command resumes"),
    "checkpoint list": (checkpoint_list, "those that ship, with their other names"),
    "checkpoint info": (checkpoint_info, "card, config, parameters, and whether its weights are whole"),
    "checkpoint average": (checkpoint_average, "between a checkpoint and what it was trained into"),
    "suggest": (suggest, "next trials for a study on disk"),
    "studies": (studies, "the studies of a database, with trials and best values"),
    "report": (report, "how a study stands and why what comes next, as text and as a page"),
    "serve": (serve, "a Vizier service with the algorithm OPTFORMER"),
    "evaluate calibration": (
        evaluate_calibration,
        "predicted objectives against Gaussian processes fitted to each study",
    ),
    "evaluate imitation": (evaluate_imitation, "how faithfully the policy follows the algorithm it is told"),
    "evaluate optimization": (evaluate_optimization, "regret and ranks beside the optimizers that people use"),
    "doctor": (doctor, "versions, devices, checkpoint, and the time of a suggestion"),
}
"""The words of a command -> its module and what it is for."""

GROUPS: Final = {
    "corpus": ("ACTION", "logged studies: import them, look at them"),
    "checkpoint": ("ACTION", "weights on disk: which there are, what is in one, a mean"),
    "evaluate": ("MEASURE", "measure a checkpoint"),
}
"""The first of two words -> what the help calls the second, and what the commands are for."""


class _OneLineParser(argparse.ArgumentParser):
    """Argument errors without the usage text, which is what `--help` is for."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 1 (failed), 2 (mistake of the user) or 130 (interrupted)."""
    without_alarms()
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
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`| head`) went away; a second complaint at exit would help nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if arguments.debug:
            raise
        print(f"optformer: error: {shown(_one_line(error))}", file=sys.stderr)
        return USER_ERROR


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
