"""The web pages of the HTTP service: the list of studies at `/`, and a page with tables and pictures of each study.

Pages change nothing in the studies.  A script reloads the page and shows what has changed; without scripts the browser
reloads it.  Pages load nothing from other servers, which the content security policy enforces.
"""

import base64
import functools
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path as File
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import FastAPI, Path, Query, Request, Response
from vizier._src.service import custom_errors, resources, study_pb2
from vizier.service import pyvizier as svz

from optformer.page import STYLE, document, figure_html, text
from optformer.serve.gallery import Exhibit, Gallery, Overview
from optformer.serve.http_errors import Refusal
from optformer.serve.prior_studies import shown_names
from optformer.serve.studies import StudyService
from optformer.study_report import STATES

_STUDY: Final = "/owners/{owner}/studies/{study}"
_LISTED: Final = 100
"""Studies on a page of the list."""
_CURVE_WIDTH: Final = 120
_SOON, _LATER = 1, 4
"""Seconds until the page is reloaded: while content is being updated, and otherwise."""

_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath d='M1 3h4v5h5v4h5' fill='none' stroke='%232060c0' stroke-width='2'/%3E%3C/svg%3E"
)
_SCRIPT: Final = File(__file__).with_name("live_page.js").read_text(encoding="utf-8")
_STYLE: Final = (
    STYLE
    + """
header { display: flex; gap: 1em; align-items: baseline; border-bottom: 1px solid #ddd; padding-bottom: .4em; }
header a, td a, nav a, .quiet a { color: #2060c0; text-decoration: none; } header a { font-weight: 600; }
a:hover { text-decoration: underline; }
#live { margin-left: auto; font-size: 13px; color: #555; } #live::before { content: "●"; margin-right: .4em; }
#live.fresh::before { color: #2a9060; } #live.stale::before { color: #b03030; }
h1 { margin: .8em 0 0; overflow-wrap: anywhere; } h2 { margin: 1.6em 0 .2em; }
.quiet { color: #555; } h1 + .quiet { margin: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .7em; margin: 1em 0; }
.tile { border: 1px solid #ddd; border-radius: 6px; padding: .4em .9em; min-width: 5em; }
.tile b { display: block; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: #555; font-size: 13px; } .tile.best { border-color: #2060c0; background: #eef3fb; }
.pictures { display: grid; grid-template-columns: 3fr 2fr; gap: 1em 2em; }
.pictures figure { margin: 0; min-width: 0; } .waiting { color: #555; font-size: 13px; }
.pictures .best { order: 1; } .importance { order: 2; } .slices { order: 3; grid-column: 1 / -1; }
.held-out { order: 4; }
.slices { overflow-x: auto; } .slices img { min-width: 40em; } .held-out img { max-width: 28em; width: 100%; }
@media (max-width: 50em) { .pictures { grid-template-columns: 1fr; } }
.list { width: 100%; font-size: 14px; } .list td, .list th { padding: .45em .5em; } .list .text { white-space: normal; }
.list tr:hover td { background: #f6f8fb; }
.list td.name { white-space: normal; overflow-wrap: anywhere; font-weight: 600; min-width: 9em; }
.curve { display: block; } .curve polyline { fill: none; stroke: #2060c0; stroke-width: 1.5; }
.scroll { overflow-x: auto; }
"""
)


_TEXT: Final = " class=text"
_COLUMNS: Final = {
    **dict.fromkeys(("study", "owner", "objective"), _TEXT),
    **dict.fromkeys(("best", "of trial"), ""),
    "best so far": _TEXT,
    **dict.fromkeys(("trials", *STATES.values()), ""),
}
"""Columns of the list of studies, with the class of their cells."""


def _source(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


_HEADERS: Final = {
    "content-security-policy": f"default-src 'none'; script-src {_source(_SCRIPT)}; style-src {_source(_STYLE)}; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def is_page(method: str, path: str) -> bool:
    """Whether a call asks for a page or picture."""
    return method == "GET" and (path == "/" or path.startswith("/owners/"))


def add_pages(
    app: FastAPI,
    studies: StudyService,
    gallery: Gallery,
    in_pool: Callable[[Callable[..., Response]], Callable[..., Awaitable[Response]]],
) -> None:
    """Adds the pages to an application.

    Args:
      studies: the service that stores the studies.
      gallery: content of the pages.
      in_pool: makes a call run in a thread and turns its exceptions into `Refusal`s.
    """
    pages = _Pages(studies, gallery)
    for path, call in (("/", pages.list), (_STUDY, pages.study), (_STUDY + "/{picture}.png", pages.picture)):
        endpoint = _telling_people(in_pool(call))
        app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False, response_class=Response)


def _telling_people(call: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """The call; a `Refusal` becomes a page."""

    @functools.wraps(call)
    async def endpoint(*arguments: object, **named: object) -> Response:
        try:
            return await call(*arguments, **named)
        except Refusal as refusal:
            said = f"<h1>{refusal.status.phrase}</h1><p>{text(refusal.message)}</p>"
            reply = _page(None, refusal.status.phrase, said, newest=True)
            reply.status_code = refusal.status
            reply.headers.update(refusal.headers)
            return reply

    return endpoint


class _Pages:
    def __init__(self, studies: StudyService, gallery: Gallery):
        self._store, self._gallery = studies.datastore, gallery

    def list(self, request: Request, after: Annotated[str, Query(max_length=1000)] = "") -> Response:
        """All studies, in the order of their names."""
        names = self._store.study_names(after, _LISTED + 1)
        looked = [self._gallery.overview(name) for name in names[:_LISTED]]
        rows = "\n".join(_row(name, overview) for name, (overview, _) in zip(names, looked, strict=False))
        more = f'<nav><a href="/?after={quote(names[_LISTED - 1], safe="")}">more</a></nav>' if names[_LISTED:] else ""
        if rows:
            heads = "".join(f"<th{kind}>{head}</th>" for head, kind in _COLUMNS.items())
            body = f"<table class=list><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table>"
            body = f"<div class=scroll>{body}</div>"
        else:
            body = "<p>No study yet. What clients create over gRPC or HTTP appears here.</p>"
        newest = all(newest for _, newest in looked)
        return _page(request, "Studies", f"<h1>Studies</h1>{body}{more}", newest)

    def study(self, request: Request, owner: str, study: str) -> Response:
        """One study."""
        name = resources.StudyResource(owner, study).name
        kept = self._store.load_study(name)
        title = kept.display_name
        exhibit, newest = self._gallery.exhibit(name)
        head = f"<h1>{text(title)}</h1><p class=quiet>owner: {text(owner)}</p>{_earlier(kept)}"
        if exhibit is None:
            return _page(request, title, f"{head}<p>The study is being read.</p>", newest)
        if exhibit.overview.fault:
            return _page(request, title, f"{head}<p>The study {text(exhibit.overview.fault)}</p>", newest)
        parts = [head, _tiles(exhibit.overview), *_sections(exhibit, f"/{quote(name)}")]
        parts += [f"<div class=scroll>{table.to_html()}</div>" for table in exhibit.tables]
        return _page(request, title, "\n".join(parts), newest)

    def picture(self, owner: str, study: str, picture: Annotated[str, Path(max_length=100)]) -> Response:
        """A picture of a study, as it was last drawn."""
        drawn = self._gallery.picture(resources.StudyResource(owner, study).name, picture)
        if drawn is None:
            raise custom_errors.NotFoundError(f"there is no picture {picture!r} of this study yet")
        return Response(drawn.content, headers=_HEADERS, media_type="image/png")


def _page(request: Request | None, title: str, main: str, newest: bool) -> Response:
    """The complete page around its main part; status 304 if the browser has it already."""
    seconds = _LATER if newest else _SOON
    tag = hashlib.sha256(f"{seconds}{main}".encode()).hexdigest()[:32]
    headers = {**_HEADERS, "etag": f'"{tag}"'}
    if request is not None and request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    body = (
        '<header><a href="/">OptFormer</a><span id="live" role="status"></span></header>\n'
        f'<main data-refresh="{seconds}" data-tag="{tag}">\n{main}\n</main>\n<script>{_SCRIPT}</script>'
    )
    head = f'<link rel="icon" href="{_ICON}"><noscript><meta http-equiv="refresh" content="{4 * seconds}"></noscript>'
    return Response(document(title, body, head, _STYLE), headers=headers, media_type="text/html")


def _row(name: str, overview: Overview | None) -> str:
    """A row of the list of studies."""
    study = resources.StudyResource.from_name(name)
    cells = [
        f'<td class="text name"><a href="/{quote(name)}">{text(study.study_id)}</a></td>',
        f"<td class=text>{text(study.owner_id)}</td>",
    ]
    if overview is None or overview.fault:
        said = "" if overview is None else overview.fault
        return f'<tr>{"".join(cells)}<td class="text quiet" colspan="{len(_COLUMNS) - 2}">{text(said) or "…"}</td></tr>'
    best = [each for each in overview.best.values() if each is not None]
    texts = [", ".join(f"{goal} {metric}" for metric, goal in overview.goals.items())]
    texts += [", ".join(f"{value:.6g}" for value, _ in best), ", ".join(str(trial) for _, trial in best)]
    counts = [sum(overview.counts.values()), *overview.counts.values()]
    cells.append(f"<td class=text>{text(texts[0])}</td>")
    cells += [f"<td>{text(each) or '-'}</td>" for each in texts[1:]]
    cells.append(f"<td>{_curve(overview.curve)}</td>")
    cells += [f"<td>{count}</td>" for count in counts]
    return f"<tr>{''.join(cells)}</tr>"


def _curve(points: Sequence[float]) -> str:
    """The best value so far as a line; higher is better."""
    if not points:
        return ""
    across = (_CURVE_WIDTH - 4) / max(1, len(points) - 1)
    line = " ".join(f"{2 + index * across:.1f},{2 + 20 * (1 - point):.1f}" for index, point in enumerate(points))
    size = f'width="{_CURVE_WIDTH}" height="24" viewBox="0 0 {_CURVE_WIDTH} 24"'
    return f'<svg class=curve {size} role="img" aria-label="best so far"><polyline points="{line}"/></svg>'


def _earlier(study: study_pb2.Study) -> str:
    """Links to the earlier studies that a study names."""
    metadata = svz.metadata_util.from_key_value_list(study.study_spec.metadata)
    studies = study.name.rpartition("/")[0]
    links = [f'<a href="/{quote(f"{studies}/{name}")}">{text(name)}</a>' for name in shown_names(metadata, study.name)]
    return f"<p class=quiet>earlier studies: {', '.join(links)}</p>" if links else ""


def _tiles(overview: Overview) -> str:
    """Tiles with the best values and the numbers of trials."""
    tiles = [
        f'<div class="tile best"><b>{found[0]:.6g}</b><span>best {text(metric)}, trial {found[1]}</span></div>'
        for metric, found in overview.best.items()
        if found is not None
    ]
    counts = {"trials": sum(overview.counts.values()), **overview.counts}
    tiles += [f"<div class=tile><b>{count}</b><span>{state}</span></div>" for state, count in counts.items()]
    return f"<div class=tiles>{''.join(tiles)}</div>"


def _sections(exhibit: Exhibit, address: str) -> Iterator[str]:
    """The pictures of each objective.

    Args:
      address: path of the study's page.
    """
    for metric, named in exhibit.pictures.items():
        if not named:
            continue
        yield f"<h2>{text(metric)} <span class=quiet>({exhibit.overview.goals[metric]})</span></h2><div class=pictures>"
        for name, drawn in named.items():
            kind = name.rpartition("-")[0]
            if drawn is None:
                yield f'<figure class="{kind} waiting">A picture is being drawn.</figure>'
            else:
                source = f"{address}/{name}.png?version={drawn.number}"
                yield figure_html(source, drawn.content, drawn.caption, kind)
        yield "</div>"
    if exhibit.remark:
        yield f"<p class=quiet>{text(exhibit.remark)}</p>"
