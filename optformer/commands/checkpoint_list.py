"""`optformer checkpoint list`: the checkpoints that ship."""

import argparse
from typing import Final

COLUMNS: Final = ("name", "also", "parameters", "MB", "steps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each shipped checkpoint and returns 0: a table on a terminal, else lines separated by tabs.

    The number of steps is that of the training stage in the checkpoint's card.

    Raises:
      ValueError: a checkpoint cannot be read.
    """
    from rich.console import Console
    from rich.table import Table

    from optformer.model import abstract_model, count_parameters, read_checkpoint_info
    from optformer.pretrained import aliases, checkpoint_path, pretrained_names

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
