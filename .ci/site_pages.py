"""A hook of mkdocs: documents that lie beside what they describe are pages of the site, too.

The navigation names them `repository/PATH`.  Links between them and docs/ are written for the repository, and
are rewritten here.  A link to a file that is no page of the site becomes its text.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
FOLDER = "repository"
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?![a-z]+:|#)(?P<place>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for path in re.findall(rf"{FOLDER}/(\S+\.md)", (ROOT / "mkdocs.yml").read_text()):
        files.append(File.generated(config, f"{FOLDER}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """The text, with links to places in the repository as links to pages of the site."""
    source = page.file.src_uri
    path = source.removeprefix(f"{FOLDER}/") if source.startswith(f"{FOLDER}/") else f"docs/{source}"

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link["place"]))
        if target == "README.md":  # the start page of the repository
            target = "docs/README.md"
        if target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif files.get_file_from_path(f"{FOLDER}/{target}"):
            target = f"{FOLDER}/{target}"
        else:
            return link["text"] if (ROOT / target).exists() else link[0]
        place = posixpath.relpath(target, posixpath.dirname(source) or ".")
        return f"[{link['text']}]({place}{link['anchor'] or ''})"

    return LINK.sub(rewritten, markdown)
