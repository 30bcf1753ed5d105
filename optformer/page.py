"""Self-contained HTML pages with tables and pictures; the tables can also be printed on a terminal.

The reports of `optformer evaluate` and `optformer report` and the pages of the HTTP service use this common layout.
"""

import base64
import dataclasses
import html
import io
import struct
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optformer.files import write_atomically
from optformer.terminal import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

PAGE: Final = "report.html"

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; font-size: 13px; }
caption { text-align: left; font-weight: 600; padding-bottom: .3em; }
th, td { padding: .15em .7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #999; } td.text, th.text { text-align: left; }
tr.emphasis td { font-weight: 600; background: #eef3fb; }
figure { margin: 1.5em 0; } figcaption { color: #555; font-size: 13px; } img { max-width: 100%; height: auto; }
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under headings.

    Attributes:
      title: title above the table.
      headings: headings of the columns.
      rows: cells as text.
      text_columns: how many of the first columns are text, left-aligned; the others are figures.
      emphasized: indices of highlighted rows.
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
        """The table as an HTML element."""

        def cells(row: Sequence[str], tag: str) -> str:
            return "".join(
                f"<{tag}{' class=text' if index < self.text_columns else ''}>{text(cell)}</{tag}>"
                for index, cell in enumerate(row)
            )

        standing_out = set(self.emphasized)
        rows = "\n".join(
            f"<tr{' class=emphasis' if index in standing_out else ''}>{cells(row, 'td')}</tr>"
            for index, row in enumerate(self.rows)
        )
        head = f"<thead><tr>{cells(self.headings, 'th')}</tr></thead>"
        return f"<table><caption>{text(self.title)}</caption>{head}<tbody>\n{rows}\n</tbody></table>"


class Report:
    """Collects the parts of a page, in order.  Pictures are written immediately, the page by `write`."""

    def __init__(self, title: str, folder: Path):
        """
        Args:
          title: title of the page.
          folder: folder for pictures and page; created if necessary.

        Raises:
          OSError: the folder cannot be created.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.title = title
        self.folder = folder
        self.pictures: list[Path] = []
        self._parts: list[str] = []

    def heading(self, said: str) -> None:
        self._parts.append(f"<h2>{text(said)}</h2>")

    def paragraph(self, said: str) -> None:
        self._parts.append(f"<p>{text(said)}</p>")

    def table(self, table: Table) -> None:
        self._parts.append(table.to_html())

    def picture(self, name: str, figure: "Figure", caption: str) -> Path:
        """Writes `name`.png and closes the figure."""
        import matplotlib.pyplot as plt

        content = png(figure)
        plt.close(figure)
        path = self.folder / f"{name}.png"
        write_atomically(path, content)
        self._parts.append(figure_html(f"data:image/png;base64,{base64.b64encode(content).decode()}", content, caption))
        self.pictures.append(path)
        return path

    def write(self) -> Path:
        """Writes the self-contained page and returns its path."""
        path = self.folder / PAGE
        write_atomically(path, document(self.title, f"<h1>{text(self.title)}</h1>\n" + "\n".join(self._parts)))
        return path


def document(title: str, body: str, head: str = "", style: str = STYLE) -> str:
    """A complete HTML page.

    Args:
      title: text, which is escaped.
      body, head: HTML.
      style: CSS.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title>'
        f"<style>{style}</style>{head}</head>\n<body>{body}\n</body></html>\n"
    )


def figure_html(address: str, content: bytes, caption: str, kind: str = "") -> str:
    """A picture with its caption.

    Args:
      address: URL of the picture.
      content: content of the PNG, which gives the size that the page reserves.
      caption: text, which is escaped.
      kind: CSS class of the element.
    """
    width, height = struct.unpack(">II", content[16:24])
    return (
        f'<figure class="{kind}"><img alt="{text(caption)}" src="{html.escape(address)}" '
        f'width="{width}" height="{height}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def png(figure: "Figure") -> bytes:
    """The content of a PNG file of the figure."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # drawn as boxes; tables have the names
        figure.savefig(buffer, dpi=130, format="png")
    return buffer.getvalue()


def text(said: str) -> str:
    """Text as HTML, also for use inside quotation marks; control characters are escaped."""
    return html.escape(shown(said))
