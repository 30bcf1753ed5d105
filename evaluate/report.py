"""A report of figures: tables on the terminal, pictures as PNG files, and one HTML page that holds them all.

The commands `optformer evaluate ...` share it, so that their pages look alike.
"""

import base64
import dataclasses
import html
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optformer.files import write_atomically
from optformer.terminal import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

PAGE: Final = "report.html"
INK: Final = "#222222"
MODEL_COLOR: Final = "#2060c0"
BASELINE_COLORS: Final = ("#d08020", "#2a9060", "#a04090", "#b03030", "#707070", "#50a0b0")

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; font-size: 13px; }
caption { text-align: left; font-weight: 600; padding-bottom: .3em; }
th, td { padding: .15em .7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #999; } td.text, th.text { text-align: left; }
tr.emphasis td { font-weight: 600; background: #eef3fb; }
figure { margin: 1.5em 0; } figcaption { color: #555; font-size: 13px; } img { max-width: 100%; }
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under headings.

    Attributes:
      title: above the table.
      headings: of the columns.
      rows: cells as text.
      text_columns: how many of the first columns are text, left-aligned; the others are figures.
      emphasized: indices of rows that stand out.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    emphasized: Iterable[int] = ()

    def print(self, console: "Console") -> None:
        """On the terminal."""
        from rich.markup import escape
        from rich.table import Table as RichTable

        table = RichTable(title=escape(shown(self.title)), title_justify="left", padding=(0, 1), show_edge=False)
        for index, heading in enumerate(self.headings):
            table.add_column(escape(shown(heading)), justify="left" if index < self.text_columns else "right")
        standing_out = set(self.emphasized)
        for index, row in enumerate(self.rows):
            table.add_row(*(escape(shown(cell)) for cell in row), style="bold" if index in standing_out else None)
        console.print(table)

    def to_html(self) -> str:
        """As an HTML element."""

        def cells(row: Sequence[str], tag: str) -> str:
            return "".join(
                f"<{tag}{' class=text' if index < self.text_columns else ''}>{html.escape(cell)}</{tag}>"
                for index, cell in enumerate(row)
            )

        standing_out = set(self.emphasized)
        rows = "\n".join(
            f"<tr{' class=emphasis' if index in standing_out else ''}>{cells(row, 'td')}</tr>"
            for index, row in enumerate(self.rows)
        )
        head = f"<thead><tr>{cells(self.headings, 'th')}</tr></thead>"
        return f"<table><caption>{html.escape(self.title)}</caption>{head}<tbody>\n{rows}\n</tbody></table>"


class Report:
    """Collects the parts of a page, in order.  Pictures are written at once, the page by `write`."""

    def __init__(self, title: str, folder: Path):
        """
        Args:
          title: of the page.
          folder: for pictures and page; made if need be.

        Raises:
          OSError: the folder cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.title = title
        self.folder = folder
        self.pictures: list[Path] = []
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, table: Table) -> None:
        self._parts.append(table.to_html())

    def picture(self, name: str, figure: "Figure", caption: str) -> Path:
        """Writes `name`.png and closes the figure."""
        import matplotlib.pyplot as plt

        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=130, format="png")
        plt.close(figure)
        path = self.folder / f"{name}.png"
        write_atomically(path, buffer.getvalue())
        encoded = base64.b64encode(buffer.getvalue()).decode()
        alternative = html.escape(caption, quote=True)
        self._parts.append(
            f'<figure><img alt="{alternative}" src="data:image/png;base64,{encoded}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
        self.pictures.append(path)
        return path

    def write(self) -> Path:
        """Writes the page, which needs no other file, and returns its path."""
        body = "\n".join(self._parts)
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(self.title)}</h1>\n{body}\n</body></html>\n"
        )
        path = self.folder / PAGE
        write_atomically(path, page)
        return path


def table_console(width: int) -> "Console":
    """Standard output: a terminal as wide as it is, or a file with room for tables of `width` columns."""
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
    """Strict JSON, atomically: NaN becomes null, infinities the strings "inf" and "-inf"."""
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
