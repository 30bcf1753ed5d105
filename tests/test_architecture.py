"""The shape of the project: which folder may import which, and what importing the core may cost."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

from optformer import cli

ROOT = Path(__file__).parent.parent
LINKS = {link.name: link for link in (ROOT / "optformer").iterdir() if link.is_symlink()}
COMMANDS = "optformer.commands"
# The package of each top-level folder, and the one of the commands.
FOLDERS = {"optformer": "optformer", COMMANDS: "optformer/commands"}
FOLDERS |= {f"optformer.{name}": name for name in sorted(LINKS)}

# DESIGN: arrows point one way.  The commands alone reach everything, lazily, and only what starts them imports them.
MAY_IMPORT = {
    "optformer": set(),
    COMMANDS: set(FOLDERS),
    "optformer.data": {"optformer"},
    "optformer.train": {"optformer", "optformer.data"},
    "optformer.serve": {"optformer"},
    "optformer.configs": {"optformer", "optformer.data", "optformer.train"},
    "optformer.evaluate": set(FOLDERS),
}
# Pictures of an Optuna study need it in the form of a problem: imported when they are given one.
ON_DEMAND = {"optformer/plot.py": "optformer.serve.optuna_spaces"}
STARTS_COMMANDS = {"optformer/cli.py", "train/__main__.py"}


def stage_of(module: str) -> str:
    """The top-level folder's package that a module belongs to."""
    named = [package for package in FOLDERS if module == package or module.startswith(package + ".")]
    return max(named, key=len)


def imported_modules(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrows"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "optformer"}


def sources() -> list[tuple[str, Path]]:
    found = {path: package for package, folder in FOLDERS.items() for path in sorted((ROOT / folder).rglob("*.py"))}
    return [(package, path) for path, package in found.items()]


def test_every_import_follows_the_arrows():
    wrong = []
    for package, path in sources():
        name = path.relative_to(ROOT).as_posix()
        for module in imported_modules(ast.parse(path.read_text())):
            target = stage_of(module)
            started = target == COMMANDS and name in STARTS_COMMANDS
            started |= name in ON_DEMAND and module.startswith(ON_DEMAND[name])
            if target != package and target not in MAY_IMPORT[package] and not started:
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_commands_import_other_stages_only_inside_functions():
    for path in sorted((ROOT / FOLDERS[COMMANDS]).glob("*.py")):
        top = ast.Module(
            [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)], []
        )
        assert {m for m in imported_modules(top) if stage_of(m) not in ("optformer", COMMANDS)} == set(), path.name


def test_every_command_has_the_same_two_functions():
    for words, (module, _) in cli.COMMANDS.items():
        assert module.__name__ == f"{COMMANDS}.{words.replace(' ', '_')}"
        assert list(inspect.signature(module.add_arguments).parameters) == ["parser"]
        assert list(inspect.signature(module.run).parameters) == ["arguments"]


def test_the_tables_of_the_architecture_name_each_module_once():
    # Modules stand in the first column, or behind the folder that does.  Each command is in `cli.COMMANDS`.
    text = (ROOT / "docs" / "architecture.md").read_text()
    sections = dict(re.findall(r"^## [^\n`]*\(`([\w/]+)/`\)[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert set(sections) >= set(LINKS) - {"configs"}
    named, there = [], []
    for section, body in sections.items():
        if section == FOLDERS[COMMANDS]:
            continue
        there += [path for path in (ROOT / section).rglob("*.py") if not path.name.startswith("__")]
        for line in body.splitlines():
            if line.startswith("|"):
                _, first, rest = line.split("|", 2)
                folder = re.fullmatch(r"`([\w/]+)/`", first.strip())
                for name in re.findall(r"`(\w+\.py)`", rest if folder else first):
                    path = ROOT / section / (folder[1] if folder else "") / name
                    named.append(path if path.exists() else ROOT / "optformer" / name)
    facade = ("facade.py", "explanation.py", "plot.py", "study_report.py", "page.py")
    beside = {ROOT / "optformer" / name for name in facade}
    assert sorted(named) == sorted({*there, *beside})


def test_the_stages_are_linked_into_the_package():
    assert {name: link.readlink().as_posix() for name, link in LINKS.items()} == {
        name: f"../{name}" for name in ("configs", "data", "evaluate", "serve", "train")
    }


def test_every_package_on_disk_is_in_the_distribution():
    from setuptools import find_packages

    on_disk = {
        ".".join([package, *init.parent.relative_to(ROOT / folder).parts])
        for package, folder in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert on_disk == set(find_packages(str(ROOT), include=["optformer*"]))


def run_python(code: str, forbidden: list[str], tmp_path: Path) -> str:
    """Runs code in a fresh interpreter in which importing a forbidden package raises, installed or not."""
    for name in forbidden:
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('imported {name}')\n")
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


TENSORFLOW = ["tensorflow", "tensorflow_datasets", "seqio", "tensorflow_text"]


def test_import_optformer_loads_no_tensorflow_and_is_quick(tmp_path):
    code = """
import time
start = time.perf_counter()
import optformer
optformer.OptFormer
print(time.perf_counter() - start)
"""
    # Twice, since the first one may have to read everything from disk.
    assert min(float(run_python(code, TENSORFLOW, tmp_path)) for _ in range(2)) < 4


def test_the_trainer_needs_neither_vizier_nor_tensorflow(tmp_path):
    # An accelerator machine has jax, flax, optax, orbax, safetensors, numpy and sentencepiece, and nothing of this:
    code = "import optformer.model, optformer.train.loop, optformer.data.prior, optformer.data.corpus"
    run_python(code, [*TENSORFLOW, "vizier", "tensorboardX", "sklearn", "optuna"], tmp_path)


def test_serving_needs_no_tensorflow(tmp_path):
    run_python("import optformer.serve.vizier, optformer.serve.optuna", TENSORFLOW, tmp_path)


def test_each_promise_of_security_is_held_by_a_test_that_exists():
    promises = (ROOT / "docs" / "security.md").read_text().partition("## What is promised")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in promises.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    for row in rows:
        file, named = "", re.findall(r"`([^`]+)`", row)
        assert named, row
        for each in named:
            file, _, test = (each if not each.startswith("::") else file + each).partition("::")
            path = ROOT / file if file.startswith("tests/") else ROOT / "tests" / "serve" / file
            assert path.exists(), each
            assert not test or f"def {test}(" in path.read_text(), each
