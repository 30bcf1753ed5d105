"""The command `optformer`.

Imports are lazy: `--help` and a mistyped argument answer at once.  Mistakes of the user end in one line on stderr and
exit code 2; `--debug` shows the traceback behind that line.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

USER_ERROR = 2


class _OneLineParser(argparse.ArgumentParser):
    """Argument errors without the usage text, which is what `--help` is for."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 1 (failed), 2 (mistake of the user) or 130 (interrupted)."""
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USER_ERROR
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`| head`) went away; a second complaint at exit would help nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if arguments.debug:
            raise
        print(f"optformer: error: {_one_line(error)}", file=sys.stderr)
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
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    corpus = commands.add_parser("corpus", help="logged studies: import them, look at them")
    actions = corpus.add_subparsers(dest="action", metavar="ACTION", required=True)
    corpus_import = actions.add_parser("import", help="logs of any tuning library into one corpus")
    corpus_import.add_argument("inputs", nargs="+", metavar="INPUT", help="database, file or folder of results")
    corpus_import.add_argument("--out", required=True, metavar="FILE", help="the corpus, JSON lines")
    corpus_import.add_argument("--format", metavar="F", help="of the inputs; recognised by their content if left out")
    _add_unrecorded(corpus_import)
    corpus_import.add_argument("--anonymise", action="store_true", help="replace names and texts by keyed hashes")
    corpus_import.add_argument("--key", metavar="TEXT", help="of the hashes; drawn and printed if left out")
    corpus_info = actions.add_parser("info", help="what a corpus holds")
    corpus_info.add_argument("file", metavar="FILE", help="corpus, or any file or folder that import takes")
    corpus_info.add_argument("--format", metavar="F", help="recognised by the content if left out")
    _add_unrecorded(corpus_info)
    corpus_info.add_argument("--html", metavar="PAGE", help="also write a page with pictures, one HTML file")
    corpus_info.add_argument(
        "--config",
        default="nano_cpu",
        metavar="CONFIG",
        help="of training, whose shape the studies are held against; default: %(default)s",
    )
    corpus_generate = actions.add_parser("generate", help="known optimizers on known problems, as studies")
    from optformer.data.generation_command import add_arguments as add_generation_arguments

    add_generation_arguments(corpus_generate)
    corpus_cache = actions.add_parser("cache", help="token arrays of a corpus, which the trainer maps into memory")
    corpus_cache.add_argument("corpus", metavar="CORPUS", help="corpus file, or folder of a TFDS study_corpus")
    corpus_cache.add_argument("--out", required=True, metavar="DIR", help="the cache, a folder")

    train = commands.add_parser("train", help="train a model; the same command resumes")
    # Without imports of its own, so that `--help` stays quick.
    from optformer.train.commands import add_arguments

    add_arguments(train)

    checkpoint = commands.add_parser("checkpoint", help="weights on disk: which there are, what is in one, a mean")
    of_weights = checkpoint.add_subparsers(dest="action", metavar="ACTION", required=True)
    of_weights.add_parser("list", help="those that ship, with their other names")
    checkpoint_info = of_weights.add_parser("info", help="card, config, parameters, and whether its weights are whole")
    checkpoint_info.add_argument("checkpoint", metavar="NAME|DIR", help="a shipped one, a checkpoint or a training")
    averaged = of_weights.add_parser("average", help="between a checkpoint and what it was trained into")
    averaged.add_argument("start", metavar="START", help="name or directory that training began with")
    averaged.add_argument("trained", metavar="TRAINED", help="name or directory of what it ended with")
    averaged.add_argument("--out", required=True, metavar="DIR", help="the mean, a checkpoint")
    averaged.add_argument(
        "--share", type=float, default=0.5, metavar="S", help="of the trained weights, 0 to 1; default: %(default)s"
    )
    averaged.add_argument(
        "--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="on disk; default: %(default)s"
    )

    suggest = commands.add_parser("suggest", help="next trials for a study on disk")
    suggest.add_argument("study", metavar="STUDY", help="JSON lines, or an Optuna or Vizier database (SQLite)")
    suggest.add_argument("--study", dest="study_name", metavar="NAME", help="which study, if the file holds several")
    suggest.add_argument("--checkpoint", default="default", metavar="NAME|DIR", help="default: %(default)s")
    suggest.add_argument("--count", type=int, default=1, metavar="N", help="default: %(default)s")
    suggest.add_argument("--acquisition", default="ei", help="ei, pi, ucb, thompson or policy; default: %(default)s")
    suggest.add_argument("--algorithm", metavar="NAME", help="the optimizer to imitate, by its name in the corpus")
    suggest.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    suggest.add_argument("--explain", action="store_true", help="say why: what is expected, and the nearest trials")
    suggest.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")

    serve = commands.add_parser("serve", help="a Vizier service with the algorithm OPTFORMER")
    from optformer.serve.commands import add_arguments as add_serve_arguments

    add_serve_arguments(serve)

    evaluate = commands.add_parser("evaluate", help="measure a checkpoint")
    measures = evaluate.add_subparsers(dest="measure", metavar="MEASURE", required=True)
    calibration = measures.add_parser(
        "calibration", help="predicted objectives against Gaussian processes fitted to each study"
    )
    calibration.add_argument("--checkpoint", default="default", metavar="NAME|DIR", help="default: %(default)s")
    calibration.add_argument("--out", default="calibration", metavar="DIR", help="report; default: %(default)s")
    calibration.add_argument(
        "--data", type=_names, default="prior,bbob,wild,yahpo", metavar="A,B", help="data sets; default: %(default)s"
    )
    calibration.add_argument("--wild", metavar="FILE", help="a store of logged studies, for wild")
    calibration.add_argument("--yahpo-dir", metavar="DIR", help="folder of scenarios, for yahpo")
    calibration.add_argument("--budget", default="small", metavar="B", help="small (minutes) or large (an hour)")
    calibration.add_argument(
        "--histories", type=_integers, default="5,10,20,40", metavar="N,M", help="known trials; default: %(default)s"
    )
    calibration.add_argument("--baselines", type=_names, metavar="A,B", help="default: all that are installed")
    calibration.add_argument(
        "--roll-forward", action="store_true", help="predict each trial from all before it (slow: refits every time)"
    )
    calibration.add_argument("--seed", type=int, default=0, help="of the studies; default: %(default)s")

    imitation = measures.add_parser("imitation", help="how faithfully the policy follows the algorithm it is told")
    from optformer.evaluate.imitation_command import add_arguments as add_imitation_arguments

    add_imitation_arguments(imitation)
    optimization = measures.add_parser("optimization", help="regret and ranks beside the optimizers that people use")
    from optformer.evaluate.optimization_command import add_arguments as add_optimization_arguments

    add_optimization_arguments(optimization)

    doctor = commands.add_parser("doctor", help="versions, devices, checkpoint, and the time of a suggestion")
    doctor.add_argument("--checkpoint", metavar="NAME|DIR", help="default: the shipped ones, else a random model")
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _integers(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


def _add_unrecorded(parser: argparse.ArgumentParser) -> None:
    """What an input may leave out."""
    parser.add_argument("--mapping", metavar="FILE", help="what the columns of a table are, JSON")
    parser.add_argument("--metric", metavar="A,B", help="the objectives, where the input does not record them")
    parser.add_argument("--goal", "--mode", metavar="G", help="minimize or maximize, or one for each metric")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.version:
        from optformer import __version__

        print(f"optformer {__version__}")
        return 0
    match arguments.command:
        case "corpus" if arguments.action == "import":
            from optformer.data.commands import run_import

            return run_import(
                arguments.inputs,
                arguments.out,
                arguments.format,
                mapping=arguments.mapping,
                metric=arguments.metric,
                goal=arguments.goal,
                anonymise=arguments.anonymise,
                key=arguments.key,
            )
        case "corpus" if arguments.action == "generate":
            from optformer.data.generation_command import run_arguments as run_generation

            return run_generation(arguments)
        case "corpus" if arguments.action == "cache":
            from optformer.data.cache_command import run_cache

            return run_cache(arguments.corpus, arguments.out)
        case "corpus":
            from optformer.commands import run_corpus_info

            return run_corpus_info(
                arguments.file,
                arguments.format,
                arguments.html,
                arguments.config,
                mapping=arguments.mapping,
                metric=arguments.metric,
                goal=arguments.goal,
            )
        case "train":
            from optformer.train.commands import run_arguments

            return run_arguments(arguments)
        case "checkpoint" if arguments.action == "list":
            from optformer.pretrained.commands import run_list

            return run_list()
        case "checkpoint" if arguments.action == "info":
            from optformer.pretrained.commands import run_info

            return run_info(arguments.checkpoint)
        case "checkpoint":
            from optformer.train.averaging import run_average

            return run_average(
                arguments.start, arguments.trained, arguments.out, share=arguments.share, dtype=arguments.dtype
            )
        case "suggest":
            from optformer.commands import run_suggest

            return run_suggest(
                arguments.study,
                arguments.checkpoint,
                arguments.count,
                arguments.json,
                study_name=arguments.study_name,
                acquisition=arguments.acquisition,
                algorithm=arguments.algorithm,
                seed=arguments.seed,
                explained=arguments.explain,
            )
        case "serve":
            from optformer.serve.commands import run_arguments as run_serve

            return run_serve(arguments)
        case "evaluate" if arguments.measure == "imitation":
            from optformer.evaluate.imitation_command import run_arguments as run_imitation

            return run_imitation(arguments)
        case "evaluate" if arguments.measure == "optimization":
            from optformer.evaluate.optimization_command import run_arguments as run_optimization

            return run_optimization(arguments)
        case "evaluate":
            from optformer.evaluate.calibration.command import run_calibration

            return run_calibration(
                arguments.checkpoint,
                arguments.out,
                data=arguments.data,
                wild=arguments.wild,
                yahpo_dir=arguments.yahpo_dir,
                budget=arguments.budget,
                histories=arguments.histories,
                baselines=arguments.baselines,
                roll_forward=arguments.roll_forward,
                seed=arguments.seed,
            )
        case "doctor":
            from optformer.commands import run_doctor

            return run_doctor(arguments.checkpoint)
        case _:
            _parser().print_help()
            return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
