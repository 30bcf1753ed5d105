"""`optformer checkpoint average`: the mean of a checkpoint and of what it was trained into."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("start", metavar="START", help="name or directory that training began with")
    parser.add_argument("trained", metavar="TRAINED", help="name or directory of what it ended with")
    parser.add_argument("--out", required=True, metavar="DIR", help="the mean, a checkpoint")
    parser.add_argument(
        "--share", type=float, default=0.5, metavar="S", help="of the trained weights, 0 to 1; default: %(default)s"
    )
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="on disk; default: %(default)s"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the mean of two checkpoints and says so; 0.  A checkpoint that is there is replaced.

    Raises:
      ValueError: `--share` is out of its range, or there is no checkpoint of a name.
      CheckpointError: one cannot be read, or their models or vocabularies differ.
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
