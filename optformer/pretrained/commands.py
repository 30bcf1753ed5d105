"""`optformer checkpoint list` and `optformer checkpoint info`: what they print.

Mistakes are raised as ValueError or OSError; the command line turns them into one line on stderr and exit code 2.
"""

from collections import Counter
from typing import Any, Final

from optformer.pretrained import aliases, checkpoint_path, pretrained_names

COLUMNS: Final = ("name", "also", "parameters", "MB", "steps")


def run_list() -> int:
    """Prints a line for each shipped checkpoint: a table, or off a terminal lines with tabs between the columns.

    Steps are those of the stage in its card.

    Returns:
      0.

    Raises:
      ValueError: one cannot be read.
    """
    from rich.console import Console
    from rich.table import Table

    from optformer.model import abstract_model, count_parameters, read_checkpoint_info

    rows = []
    for name in pretrained_names():
        info = read_checkpoint_info(checkpoint_path(name))
        others = ", ".join(alias for alias, meant in aliases().items() if meant == name)
        parameters = count_parameters(abstract_model(info.config))
        size = sum(info.files.values()) / 1e6
        rows.append((name, others or "-", f"{parameters:,}", f"{size:.1f}", str(info.card.get("steps", "-"))))
    console = Console()
    if not console.is_terminal:
        for row in (COLUMNS, *rows):
            print("\t".join(row))
        return 0
    table = Table()
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("name", "also") else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return 0


def run_info(name_or_dir: str) -> int:
    """Prints card, config, parameters by part and files of a checkpoint, and whether its weights are as recorded.

    Args:
      name_or_dir: of a checkpoint, as in `checkpoint_path`.

    Returns:
      0.

    Raises:
      ValueError: there is no such checkpoint, or it cannot be read, or its weights are not the recorded ones; what is
        known of it has been printed then.
    """
    import math

    import jax
    from flax import nnx

    from optformer.model import abstract_model, load_checkpoint, read_checkpoint_info

    path = checkpoint_path(name_or_dir)
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
    print(f"{checksums}, shapes and finite numbers: verified")
    return 0


def _section(title: str, values: dict[str, Any]) -> None:
    print(title)
    for key, value in values.items():
        print(f"  {key}: {value}")
