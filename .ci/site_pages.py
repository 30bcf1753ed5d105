"""A hook of mkdocs: documents that lie beside what they describe are pages of the site, too.

The navigation names them `repository/PATH`.  Links between them and docs/ are written for the repository, and
are rewritten here.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
FOLDER = "repository"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    for path in re.findall(rf"{FOLDER}/(\S+\.md)", (ROOT / "mkdocs.yml").read_text()):
        files.append(File.generated(config, f"{FOLDER}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """The text, with links to places in the repository as links to pages of the site."""
    source = page.file.src_uri
    path = source.removeprefix(f"{FOLDER}/") if source.startswith(f"{FOLDER}/") else f"docs/{source}"

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))
        # The README of the repository is the start page.
        inside = target.startswith("docs/") or target == "README.md"
        target = target.removeprefix("docs/") if inside else f"{FOLDER}/{target}"
        return posixpath.relpath(target, posixpath.dirname(source) or ".")

    return LINK.sub(rewritten, markdown)
