"""Programs of the README and of some documents run as they are printed."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


@pytest.mark.integration
def test_the_programs_of_the_readme_run(tmp_path, monkeypatch):
    programs = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(programs) >= 2
    assert "OptFormerSampler" in programs[0], "Optuna comes first"
    monkeypatch.chdir(tmp_path)
    for number, program in enumerate(programs, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            names: dict[str, Any] = {"__name__": "__main__"}
            exec(compile(program, f"README.md, program {number}", "exec"), names)
    assert (tmp_path / "tuning.jsonl").is_file(), "the journal of the plain loop"


def run_programs(page: str) -> dict[str, Any]:
    """The names that the Python programs of a document leave, run one after the other."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, program in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL), 1):
            exec(compile(program, f"{page}.md, program {number}", "exec"), names)
    return names


@pytest.mark.integration
def test_the_programs_of_the_first_study_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_programs("start")
    names["tuner"].close()
    assert len(names["tuner"].trials) == 10
    assert names["prediction"].mean.shape == (1,)
    assert (tmp_path / "tuning.jsonl").is_file(), "the journal"


@pytest.mark.integration
def test_the_program_of_earlier_studies_runs(monkeypatch):
    monkeypatch.setattr("optformer.data.sources.read", lambda *_, **__: [])  # the second program reads a folder
    names = run_programs("earlier-studies")
    assert len(names["study"].trials) == 5
    assert "optformer:reason" in names["study"].trials[-1].system_attrs, "the model has chosen it"


@pytest.mark.integration
def test_the_program_of_beliefs_runs():
    names = run_programs("beliefs")
    assert names["first"].reason["source"] == "belief"
    assert names["first"].parameters["optimizer"] == "adam"


@pytest.mark.integration
def test_the_program_of_costs_runs():
    names = run_programs("cost")
    assert "cost" in json.loads(names["study"].trials[-1].system_attrs["optformer:reason"])
