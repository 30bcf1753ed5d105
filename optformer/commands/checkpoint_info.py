"""`optformer checkpoint info`: what is in one, and whether its weights are whole."""

import argparse
from collections import Counter
from collections.abc import Mapping

from optformer.terminal import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="NAME|DIR", help="a shipped one, a checkpoint or a training")


def run(arguments: argparse.Namespace) -> int:
    """Prints card, config, parameters by part and files, and whether the weights are as recorded; returns 0.

    Raises:
      ValueError: there is no such checkpoint, or it cannot be read, or its weights are not the recorded ones; what is
        known of it has been printed then.
    """
    import math

    import jax
    from flax import nnx

    from optformer.model import abstract_model, load_checkpoint, read_checkpoint_info
    from optformer.pretrained import checkpoint_path

    path = checkpoint_path(arguments.checkpoint)
    info = read_checkpoint_info(path)
    print(f"checkpoint {info.card.get('name', path.name)} in {path}")
    _section("card", {key: value for key, value in info.card.items() if key != "train_config"})  # pages of it
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
