"""The documents: all of them are in the navigation of the site, and links between them resolve."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
MADE = {"build", "demo-output", "dist", "runs"}
DOCUMENTS = sorted(
    path
    for place in ROOT.iterdir()
    if place.name not in MADE and not place.name.startswith(".")
    for path in ([place] if place.suffix == ".md" else place.rglob("*.md"))
)
STATUS = re.compile(r"accepted|rejected|superseded by \[(\d{4})\]\((\d{4}-[\w-]+\.md)\)")


def without_code(text: str) -> str:
    """The text without blocks of code, in which brackets and `#` mean other things."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them: a repeated one has a number."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        names.add(name if not found[name] else f"{name}-{found[name]}")
        found[name] += 1
    return names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_resolve(path):
    text = re.sub(r"`[^`\n]*`", "", without_code(path.read_text(encoding="utf-8")))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = unquote(link).partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


def test_the_navigation_of_the_site_names_each_document_once():
    # Decisions are listed by their own index, which the next test reads.
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2].partition("\nnot_in_nav")[0]
    named = [
        ROOT / name.removeprefix("repository/") if name.startswith("repository/") else DOCS / name
        for name in re.findall(r"(\S+\.md)$", navigation, flags=re.MULTILINE)
    ]
    everywhere = [path for path in DOCUMENTS if path != ROOT / "README.md" and path not in DECISIONS]
    assert sorted(named) == everywhere


def test_the_index_of_decisions_says_what_their_files_say():
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\d{4})\]\((\S+?)\) \| (.+?) \| (.+?) \| (.+?) \|$", index, flags=re.MULTILINE)
    assert [name for _, name, *_ in rows] == [path.name for path in DECISIONS]
    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))
    for (number, name, title, date, status), path in zip(rows, DECISIONS, strict=True):
        head = f"# {title}\n\n- Date: {date}\n- Status: {status}\n\n## Context\n"
        assert path.read_text(encoding="utf-8").startswith(head), path.name
        known = STATUS.fullmatch(status)
        assert name.startswith(number)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
        assert known, f"{name}: {status}"
        if known[1]:
            assert known[2].startswith(known[1])
            assert (path.parent / known[2]).exists(), f"{name}: {status}"


def test_tables_of_measured_figures_are_up_to_date():
    script = ROOT / "benchmarks" / "documents.py"
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, f"run python benchmarks/documents.py: {checked.stdout}{checked.stderr}"


def test_a_table_is_made_of_recorded_figures(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("documents", ROOT / "benchmarks" / "documents.py")
    assert spec is not None
    assert spec.loader is not None
    documents = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(documents)
    monkeypatch.setattr(documents, "FIGURES", tmp_path)
    table = {
        "engines": ["told", "alone"],
        "columns": ["after 1", "after 5"],
        "mean": [[1.204, 1.196], [0.08, 0.995]],
        "more_than_first": [[0.0, -0.008], [0.0, 0.915]],
        "error": [[0.0, 0.004], [0.0, 0.1]],
        "more": {"trials": [25.0, 101.4]},
    }
    (tmp_path / "some.json").write_text(json.dumps({"all": table}))
    text = "<!-- figures: {} some all alone told -->\nold\n<!-- end of figures -->\nrest"
    made = documents.written(text.format("engines")).splitlines()
    assert made[3:5] == [
        "| without them | **1.20** | .99 | 101 |",
        "| with the earlier studies | **1.20** | **.08** | 25 |",
    ]
    assert made[-1] == "rest"
    differences = documents.written(text.format("engine_differences")).splitlines()
    assert differences[3] == "| without them | -.01 ± 0 | .92 ± .10 |"
    with pytest.raises(KeyError):
        documents.written(text.format("no_such_table"))


def test_every_decision_says_what_was_decided():
    for path in DECISIONS:
        sections = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert sections in (["Context", "Decision"], ["Context", "Decision", "Figures"]), path.name
