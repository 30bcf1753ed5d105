"""The README's programs run as they are printed."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.integration
def test_the_programs_of_the_readme_run(tmp_path, monkeypatch):
    programs = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(programs) >= 3
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
