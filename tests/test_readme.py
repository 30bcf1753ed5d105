"""The README's programs, and those of earlier studies, beliefs and costs, run as they are printed."""

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
            if "tuner" in names:
                names["tuner"].close()
    assert (tmp_path / "tuning.jsonl").is_file(), "the journal of the plain loop"


@pytest.mark.integration
def test_the_program_of_earlier_studies_runs():
    text = (ROOT / "docs" / "suggesting.md").read_text(encoding="utf-8")
    section = text[text.index("\n## Earlier studies\n") :]
    program = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0]
    names: dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(program, "suggesting.md, earlier studies", "exec"), names)
    assert len(names["study"].trials) == 5
    assert "optformer:reason" in names["study"].trials[-1].system_attrs, "the model has chosen it"


@pytest.mark.integration
@pytest.mark.parametrize("page", ["beliefs", "cost"])
def test_the_programs_of_beliefs_and_costs_run(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(program, f"{page}.md", "exec"), names)
    if page == "beliefs":
        assert names["first"].reason["source"] == "belief"
        assert names["first"].parameters["optimizer"] == "adam"
    else:
        assert "cost" in json.loads(names["study"].trials[-1].system_attrs["optformer:reason"])
