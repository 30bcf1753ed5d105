"""Common output of the commands `optformer evaluate ...`: tables and last lines on the terminal, figures as JSON, and
colours of pictures.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optformer.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

INK: Final = "#222222"
MODEL_COLOR: Final = "#2060c0"
BASELINE_COLORS: Final = ("#d08020", "#2a9060", "#a04090", "#b03030", "#50a0b0", "#707070")


def table_console(width: int) -> "Console":
    """Console for standard output; if that is not a terminal, `width` columns wide."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)


def print_remarks(console: "Console", remarks: Iterable[str]) -> None:
    for remark in remarks:
        console.print(f"Remark: {remark}", markup=False)


def print_end(console: "Console", remarks: Iterable[str], page: Path, figures: Path) -> None:
    """The last lines of an evaluation: remarks, and where page and figures are."""
    print_remarks(console, remarks)
    console.print(f"Report:   {page}", markup=False, soft_wrap=True)
    console.print(f"Figures:  {figures}", markup=False, soft_wrap=True)


def write_json(path: Path, value: object) -> None:
    """Writes strict JSON atomically: NaN becomes null, infinities become the strings "inf" and "-inf"."""
    write_atomically(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def new_figure(*arguments: Any, **options: Any) -> tuple["Figure", Any]:
    """`matplotlib.pyplot.subplots` without a screen, in the style of the reports."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(*arguments, layout="constrained", **options)
    for panel in np.atleast_1d(axes).flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8, color=INK)
    return figure, axes
