"""`optformer checkpoint average`: the weighted mean of a checkpoint and the one trained from it."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("start", metavar="START", help="name or directory of the checkpoint that training started from")
    parser.add_argument("trained", metavar="TRAINED", help="name or directory of the checkpoint that training produced")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the averaged checkpoint")
    parser.add_argument(
        "--share",
        type=float,
        default=0.5,
        metavar="S",
        help="weight of TRAINED in the mean, 0 to 1; default: %(default)s",
    )
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        choices=("bfloat16", "float32"),
        help="type of the written weights; default: %(default)s",
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the weighted mean of two checkpoints, prints a summary and returns 0.  Replaces an existing checkpoint.

    Raises:
      ValueError: `--share` is out of range, or a checkpoint does not exist.
      CheckpointError: a checkpoint cannot be read, or the models or vocabularies of the two differ.
    """
    from optformer.model import save_checkpoint
    from optformer.model.checkpoint import read_checkpoint_info
    from optformer.pretrained import checkpoint_path
    from optformer.train.averaging import average

    start, trained = checkpoint_path(arguments.start), checkpoint_path(arguments.trained)
    model, card = average(start, trained, arguments.share)
    card["name"] = Path(arguments.out).name
    save_checkpoint(arguments.out, model, card, read_checkpoint_info(trained).vocabulary, dtype=arguments.dtype)
    print(f"{arguments.out}: {arguments.share:.0%} of the weights of {trained}, the rest of {start}")
    return 0
