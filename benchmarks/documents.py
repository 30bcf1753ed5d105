"""Writes measured figures into the documents, so that nobody types them.

    python benchmarks/documents.py [--check]

A table of a document is made here if it stands between these lines:

    <!-- figures: NAME ARGUMENTS -->
    <!-- end of figures -->

NAME is a function of `TABLES`, and the arguments are its file in `benchmarks/recorded/figures/` and what follows it.
The files are what the commands of [evaluation](../docs/evaluation.md) and of this folder write: `optimization.json`,
`calibration.json`, and the `--figures` of the scripts in this folder that have it.

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
    "quasi_random": "quasi-random search",
    "tpe": "Optuna's TPE",
    "gp": "Optuna's GP",
    "cma_es": "Optuna's CMA-ES",
    "smac": "SMAC",
    "hebo": "HEBO",
    "told": "with the earlier studies",
    "alone": "without them",
    "misled": "with the earlier studies negated",
    "alone+best": "without them, after the best trial of each",
    "tpe+best": "Optuna's TPE, after the best trial of each",
    "gp+best": "Optuna's GP, after the best trial of each",
    "ours": "the model, no pruner",
    "ours+median": "the model, MedianPruner",
    "ours+hyperband": "the model, HyperbandPruner",
    "ours+percentile": "the model, PercentilePruner(75)",
    "ours+own": "the model, OptFormerPruner",
    "tpe+median": "Optuna's TPE, MedianPruner",
    "tpe+hyperband": "Optuna's TPE, HyperbandPruner",
    "tpe+percentile": "Optuna's TPE, PercentilePruner(75)",
    "named": "with the real names",
    "unnamed": "without names",
    "misnamed": "with the names exchanged",
    "model_first": "`OptFormerSampler`",
    "random_first": "the same, after a random first trial",
    "default": "EI on the best predicted mean of a trial (the default)",
    "ei_margin": "EI on .05 good ranges more than that",
    "observed": "EI on the best observed objective",
    "ei_explores": "EI, and UCB for every fifth trial",
    "pi_random_margin": "probability of improvement on a random margin",
}
FAMILIES: Final[Mapping[str, str]] = {
    "all": "all",
    "yahpo": "YAHPO",
    "tables": "measured tables",
    "bbob": "BBOB's training functions",
    "prior": "the prior",
}
HELD_OUT: Final[Mapping[str, str]] = {
    "bbob": "BBOB's five held-out functions",
    "sklearn": "scikit-learn's held-out pairs",
    "yahpo": "YAHPO's held-out data sets",
}

CHOICES: Final = (
    (
        "yahpo",
        "a machine-learning model on a data set (131 tasks of YAHPO)",
        (("10", "optformer"), ("50", "optformer")),
    ),
    (
        "tables",
        "a measured system: kernels, LightGBM, experiments (18 tables)",
        (("10", "optformer"), ("25", "optformer or a GP"), ("50", "optformer or random search")),
    ),
    (
        "bbob",
        "a mathematical function (48 variants of BBOB's functions)",
        (("10", "optformer"), ("50", "optformer")),
    ),
)
"""Families of the real validation: what they stand for, and after how many trials which optimizer is the choice."""
OTHER_CHOICES: Final = (
    ("a smooth function whose optimum you need to many digits", "over 50", "a GP"),
    ("any problem", "over 500", "TPE"),
    ("trials that take less than a second", "any", "TPE"),
    ("a machine without 1 GB of free disk space", "any", "TPE"),
)
MODEL: Final = "optformer"
PROCESS: Final = "gp_averaged"

SOURCES: Final[Mapping[str, str]] = {"YAHPO": "YAHPO's held-out data sets", "logs": "held-out logged studies"}

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
    groups, counts = figures["settings"][setting]["regret"], figures["settings"][setting]["counts"]
    rows = []
    for family, after in groups.items():
        problems = f"{FAMILIES[family]}, {counts[family]} problems"
        shown = [name for name in optimizers if all(name in at for at in after.values())]
        columns = [_bold([at[name]["mean"] for name in shown]) for at in after.values()]
        for index, name in enumerate(shown):
            rows.append([problems if not index else "", _optimizer(name), *(column[index] for column in columns)])
    return _markdown(["problems", "optimizer", *(f"after {at}" for at in groups["all"])], rows, 2)


def one_family(figures: Figures, setting: str, family: str, *optimizers: str) -> str:
    """Mean regret on one family."""
    after = figures["settings"][setting]["regret"][family]
    columns = [_bold([at[name]["mean"] for name in optimizers]) for at in after.values()]
    rows = [[_optimizer(name), *(column[index] for column in columns)] for index, name in enumerate(optimizers)]
    return _markdown(["optimizer", *(f"after {at}" for at in after)], rows, 1)


def choices(figures: Figures, setting: str, checkpoint: str) -> str:
    """The table of the README: which optimizer to take for what."""
    optimizers = (checkpoint, "gp", "tpe", "random_search")
    rows = []
    for family, words, cases in CHOICES:
        for index, (trials, use) in enumerate(cases):
            at = figures["settings"][setting]["regret"][family][trials]
            cells = _bold([at[name]["mean"] for name in optimizers])
            rows.append([words if not index else "", trials, use, *cells])
    rows += [[words, trials, use, "", "", "", ""] for words, trials, use in OTHER_CHOICES]
    heads = ["your problem", "trials", "use", "optformer", "Optuna's GP", "Optuna's TPE", "random search"]
    return _markdown(heads, rows, 1).replace("|---|--:|--:|", "|---|--:|---|", 1)


def differences(figures: Figures, setting: str, *optimizers: str) -> str:
    """How much more regret than the first checkpoint's, over all problems: means and standard errors."""
    after = figures["settings"][setting]["regret"]["all"]
    rows = [
        [_optimizer(name), *(_difference(at[name]["more_than_first"], at[name]["error"]) for at in after.values())]
        for name in optimizers
    ]
    return _markdown(["optimizer", *(f"after {at}" for at in after)], rows, 1)


def held_out(figures: Figures) -> str:
    """Mean regret, rank and time of a suggestion: of `evaluate optimization --budget`."""
    last = str(figures["at"][-1])
    names = sorted(figures["regret"][last], key=lambda name: float(figures["regret"][last][name]["mean"]))
    columns = [_bold([at[name]["mean"] for name in names], digits=3) for at in figures["regret"].values()]
    rows = []
    for index, name in enumerate(names):
        interval = figures["regret"][last][name]
        rows.append(
            [
                f"`{figures['checkpoint']}`" if name == MODEL else _optimizer(name),
                *(column[index] for column in columns),
                f"{_short(interval['low'], 3)}, {_short(interval['high'], 3)}",
                f"{figures['rank'][last][name]['mean']:.2f}",
            ]
        )
    heads = [f"after {at}" for at in figures["at"]]
    return _markdown(["optimizer", *heads, "its 95 % interval", f"rank after {last}"], rows, 1)


def held_out_families(figures: Figures) -> str:
    """Mean regret by family: of `evaluate optimization --budget`."""
    rows = []
    for family, after in figures["families"].items():
        names = sorted(after[str(figures["at"][-1])], key=after[str(figures["at"][-1])].__getitem__)
        columns = [_bold([at[name] for name in names], digits=3) for at in after.values()]
        for index, name in enumerate(names):
            optimizer = f"`{figures['checkpoint']}`" if name == MODEL else _optimizer(name)
            words = HELD_OUT[family] if not index else ""
            rows.append([words, optimizer, *(column[index] for column in columns)])
    return _markdown(["problems", "optimizer", *(f"after {at}" for at in figures["at"])], rows, 2)


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
    """Mean regret of engines: of `first_trials.py`, `names.py`, `prior_studies.py` and others."""
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


def chances(figures: Figures) -> str:
    """How often suggestions are new best trials, by the predicted probability of that: of `search_settings.py`."""
    rows = [
        [
            f"{_short(each['low'])} to {_short(each['high'])}",
            f"{each['count']:,}",
            _short(each["mean"]),
            _short(each["share"]),
        ]
        for each in figures["chances"]
    ]
    return _markdown(["predicted probability", "suggestions", "its mean", "share of new best trials"], rows, 1)


def final_values(figures: Figures) -> str:
    """Predictions of final values: of `final_values.py`."""
    rows = []
    for source, found in figures.items():
        words = SOURCES[source]
        densities = _bold([-each["log_density"] for each in found.values()], -1.0)
        errors = _bold([each["median_error"] for each in found.values()])
        for index, (name, each) in enumerate(found.items()):
            held = f"{100 * each['inside_90']:.0f} %"
            rows.append([words if not index else "", name, densities[index], held, errors[index]])
    heads = ["trials of", "predicted by", "log density", "inside 90 % intervals", "median error"]
    return _markdown(heads, rows, 2)


def final_value_differences(figures: Figures) -> str:
    """How far the model is ahead in log density of the other predictions of final values."""
    rows = [
        [SOURCES[source] if not index else "", name, _difference(each["ahead_by"], each["error"])]
        for source, found in figures.items()
        for index, (name, each) in enumerate(list(found.items())[1:])
    ]
    return _markdown(["trials of", "beside", "ahead by"], rows, 2)


def imitation(figures: Figures) -> str:
    """How faithful the policy is: of `evaluate imitation`."""
    rows = []
    for index, name in enumerate(figures["teachers"]):
        last = figures["progress"][name][-1]
        rows.append(
            [
                name.replace("_", " "),
                f"{100 * figures['identification']['matrix'][index][index]:.0f} %",
                _short(figures["divergence"][name]["model"]),
                _difference(last["teacher"], last["teacher_error"]),
                _difference(last["model"], last["model_error"]),
            ]
        )
    return _markdown(["optimizer", "attributed", "divergence", "its best value", "the model's"], rows, 1)


TABLES: Final[Mapping[str, Callable[..., str]]] = {
    "regrets": regrets,
    "one_family": one_family,
    "choices": choices,
    "differences": differences,
    "held_out": held_out,
    "held_out_families": held_out_families,
    "densities": densities,
    "engines": engines,
    "engine_differences": engine_differences,
    "chances": chances,
    "final_values": final_values,
    "final_value_differences": final_value_differences,
    "imitation": imitation,
}


def _optimizer(name: str) -> str:
    return OPTIMIZERS.get(name, f"`{name}`")


def _short(value: float, digits: int = 2) -> str:
    """So many decimals, without the zero before them."""
    text = f"{value:.{digits}f}"
    return "0" if float(text) == 0 else re.sub(r"^(-?)0\.", r"\1.", text)


def _difference(value: float, error: float) -> str:
    return f"{_short(value)} ± {_short(error)}"


def _bold(values: Sequence[float], sign: float = 1.0, digits: int = 2) -> list[str]:
    """Each times `sign`; the least of them in bold."""
    texts = [_short(sign * value, digits) for value in values]
    least = texts[min(range(len(values)), key=values.__getitem__)]
    return [f"**{text}**" if text == least else text for text in texts]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """A table whose first columns, as many as `words`, are aligned left."""
    ruler = "|" + "---|" * words + "--:|" * (len(heads) - words)
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in (heads, *rows)]
    return "\n".join([lines[0], ruler, *lines[1:]]) + "\n"


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
