"""Writes measured figures into the documents, so that nobody types them.

    python benchmarks/documents.py [--check]

A table of a document is made here if it stands between these lines:

    <!-- figures: NAME ARGUMENTS -->
    <!-- end of figures -->

NAME is a function of `TABLES`, and the arguments are its file in `benchmarks/recorded/figures/` and what follows it.
The files are what the commands of [evaluation](../docs/evaluation.md) and of this folder write: `optimization.json`,
`calibration.json`, and the `--figures` of `prior_studies.py`, `pruning.py` and `final_values.py`.

With `--check` nothing is written, and the exit code is 1 if a document is not up to date.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
FIGURES: Final = ROOT / "benchmarks" / "recorded" / "figures"
BLOCK: Final = re.compile(r"(<!-- figures: (.+?) -->\n).*?(<!-- end of figures -->)", flags=re.DOTALL)
OPTIMIZERS: Final[Mapping[str, str]] = {
    "random_search": "random search",
    "tpe": "Optuna's TPE",
    "gp": "Optuna's GP",
    "told": "told of the earlier studies",
    "alone": "without them",
    "misled": "told of them negated",
    "alone+best": "without them, after the best trial of each",
    "tpe+best": "Optuna's TPE, after the best trial of each",
    "gp+best": "Optuna's GP, after the best trial of each",
}
FAMILIES: Final[Mapping[str, str]] = {
    "all": "all",
    "yahpo": "YAHPO",
    "tables": "measured tables",
    "bbob": "BBOB's training functions",
    "prior": "the prior",
}

MODEL: Final = "optformer"
PROCESS: Final = "gp_averaged"

Figures = Mapping[str, Any]


def documents() -> list[Path]:
    """Those that may hold tables."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("optformer/pretrained/*/*.md"))]


def written(text: str) -> str:
    """The document with its tables made anew.

    Raises:
      KeyError, OSError: a table or file that is not there.
    """

    def table(found: re.Match[str]) -> str:
        name, file, *arguments = found[2].split()
        figures = json.loads((FIGURES / f"{file}.json").read_text(encoding="utf-8"))
        return found[1] + TABLES[name](figures, *arguments) + found[3]

    return BLOCK.sub(table, text)


# --- Tables ---


def regrets(figures: Figures, setting: str, *optimizers: str) -> str:
    """Mean regret by family: of `evaluate optimization --suite`; the best of each column in bold."""
    groups = figures["settings"][setting]["regret"]
    rows = []
    for family, after in groups.items():
        shown = [name for name in optimizers if all(name in at for at in after.values())]
        columns = [_bold([at[name]["mean"] for name in shown]) for at in after.values()]
        for index, name in enumerate(shown):
            rows.append(
                [FAMILIES[family] if not index else "", _optimizer(name), *(column[index] for column in columns)]
            )
    return _markdown(["problems", "optimizer", *(f"after {at}" for at in groups["all"])], rows, 2)


def differences(figures: Figures, setting: str, *optimizers: str) -> str:
    """How much more regret than the first checkpoint's, over all problems: means and standard errors."""
    after = figures["settings"][setting]["regret"]["all"]
    rows = [
        [_optimizer(name), *(_difference(at[name]["more_than_first"], at[name]["error"]) for at in after.values())]
        for name in optimizers
    ]
    return _markdown(["optimizer", *(f"after {at}" for at in after)], rows, 1)


def densities(figures: Figures, *data: str) -> str:
    """Log density of the checkpoint and of the averaged process: of `evaluate calibration --suite`."""
    rows = []
    for name in data:
        for index, found in enumerate(each for each in figures["summaries"] if each["data_set"] == name):
            model, process = found["predictors"][MODEL], found["predictors"][PROCESS]
            own, other = _bold([-model["relative"]["value"], -process["relative"]["value"]], -1.0)
            difference = found["against"][PROCESS]["difference"]
            rows.append(
                [
                    FAMILIES[name] if not index else "",
                    str(found["history"]),
                    own,
                    other,
                    _short(difference["value"]),
                    f"{_short(difference['low'])}, {_short(difference['high'])}",
                    f"{100 * model['calibration_error']['value']:.1f}",
                ]
            )
    heads = ["data", "known trials", "model", "GP, averaged", "difference", "95 % interval", "calibration error, %"]
    return _markdown(heads, rows, 1)


def engines(figures: Figures, group: str, *names: str) -> str:
    """Mean regret of engines: of `prior_studies.py` and `pruning.py`."""
    table = figures[group]
    shown = [table["engines"].index(name) for name in names]
    columns = [_bold([column[index] for index in shown]) for column in table["mean"]]
    rows = [[_optimizer(name), *(column[row] for column in columns)] for row, name in enumerate(names)]
    heads = ["engine", *table["columns"]]
    for head, values in table.get("more", {}).items():
        heads.append(head)
        for row, index in zip(rows, shown, strict=True):
            row.append(f"{values[index]:.0f}")
    return _markdown(heads, rows, 1)


def engine_differences(figures: Figures, group: str, *names: str) -> str:
    """How much more regret than the first engine: means and standard errors."""
    table = figures[group]
    rows = [
        [
            _optimizer(name),
            *(
                _difference(difference[index], error[index])
                for difference, error in zip(table["more_than_first"], table["error"], strict=True)
            ),
        ]
        for name in names
        for index in [table["engines"].index(name)]
    ]
    return _markdown(["engine", *table["columns"]], rows, 1)


def final_values(figures: Figures) -> str:
    """Predictions of final values: of `final_values.py`."""
    rows = []
    for source, found in figures.items():
        densities = _bold([-each["log_density"] for each in found.values()], -1.0)
        errors = _bold([each["median_error"] for each in found.values()])
        for index, (name, each) in enumerate(found.items()):
            held = f"{100 * each['inside_90']:.0f} %"
            rows.append([source if not index else "", name, densities[index], held, errors[index]])
    heads = ["trials of", "predicted by", "log density", "90 % intervals hold", "median error"]
    return _markdown(heads, rows, 2)


TABLES: Final[Mapping[str, Callable[..., str]]] = {
    "regrets": regrets,
    "differences": differences,
    "densities": densities,
    "engines": engines,
    "engine_differences": engine_differences,
    "final_values": final_values,
}


def _optimizer(name: str) -> str:
    return OPTIMIZERS.get(name, f"`{name}`")


def _short(value: float) -> str:
    """Two decimals, without the zero before them."""
    text = f"{value:.2f}"
    return "0" if text in ("0.00", "-0.00") else text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def _difference(value: float, error: float) -> str:
    return f"{_short(value)} ± {_short(error)}"


def _bold(values: Sequence[float], sign: float = 1.0) -> list[str]:
    """Each times `sign`; the least of them in bold."""
    texts = [_short(sign * value) for value in values]
    least = texts[min(range(len(values)), key=values.__getitem__)]
    return [f"**{text}**" if text == least else text for text in texts]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """A table whose first columns, as many as `words`, are aligned left."""
    ruler = "|" + "---|" * words + "--:|" * (len(heads) - words)
    lines = [f"| {' | '.join(heads)} |", ruler, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(line.replace("|  |", "| |") for line in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is not up to date")
    check = parser.parse_args().check
    stale = []
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = written(before)
        if before != after:
            stale.append(path)
            if not check:
                path.write_text(after, encoding="utf-8")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'not up to date' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
