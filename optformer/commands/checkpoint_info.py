"""`optformer checkpoint info`: the contents of a checkpoint, and whether its weights are intact."""

import argparse
from collections import Counter
from collections.abc import Mapping

from optformer.terminal import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="NAME|DIR",
        help="name of a shipped checkpoint, or directory of a checkpoint or of a training run",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints card, config, parameters by part and files, verifies the weights, and returns 0.

    Raises:
      ValueError: the checkpoint does not exist, cannot be read, or its weights differ from the recorded checksums.
        Whatever could be read has been printed by then.
    """
    import math

    import jax
    from flax import nnx

    from optformer.model import abstract_model, load_checkpoint, read_checkpoint_info
    from optformer.pretrained import checkpoint_path

    path = checkpoint_path(arguments.checkpoint)
    info = read_checkpoint_info(path)
    print(f"checkpoint {info.card.get('name', path.name)} in {path}")
    _section("card", {key: value for key, value in info.card.items() if key != "train_config"})  # too long to print
    _section("model", info.config.to_dict() | {"vocabulary": info.vocabulary})
    parts: Counter[str] = Counter()
    for key, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(abstract_model(info.config), nnx.Param)):
        parts[str(key[0].key)] += math.prod(leaf.shape)
    _section("parameters", {part: f"{count:,}" for part, count in parts.most_common()} | {"all": f"{parts.total():,}"})
    _section("files", {file: f"{size:,} bytes" for file, size in info.files.items()})
    load_checkpoint(path)
    checksums = "checksums" if info.files.keys() <= info.checksums.keys() else "no checksums are recorded; sizes"
    print(f"verified: {checksums}, shapes, and that all numbers are finite")
    return 0


def _section(title: str, values: Mapping[str, object]) -> None:
    print(title)
    for key, value in values.items():
        print(shown(f"  {key}: {value}"))
