"""The wheel and the source distribution: what is in them, and that both are the same release."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from optformer.pretrained import pretrained_names

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
SUFFIXES = {".gz", ".js", ".json", ".md", ".model", ".py", ".safetensors", ".typed"}
"""Of the files that belong to the package."""


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds with what is installed, since tests download nothing."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A wheel of the checkout, a source distribution of it, and a wheel of that one."""
    folder = tmp_path_factory.mktemp("distributions")
    checkout = folder / "checkout"
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "demo-output", "docs", "runs")
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=left_out)
    # What work leaves behind.
    for name in ("runs/mine/config.json", "optformer/pretrained/__pycache__/x.pyc", "data/recorded/made.tmp"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("{}")
    wheel = build("wheel", checkout, folder / "wheel")
    shutil.rmtree(checkout / "build")
    shutil.rmtree(checkout / "optformer.egg-info")
    source = build("sdist", checkout, folder / "sdist")
    with tarfile.open(source) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return wheel, source, build("wheel", unpacked, folder / "again")


def files(wheel: Path) -> dict[str, int]:
    """Path -> checksum, for what is installed; the record of the wheel has the same again."""
    with zipfile.ZipFile(wheel) as archive:
        return {each.filename: each.CRC for each in archive.infolist() if not each.filename.endswith("/RECORD")}


@pytest.mark.integration
def test_the_wheel_has_every_stage_with_its_data(distributions):
    inside = files(distributions[0])
    walked = [(Path(folder), names) for folder, _, names in os.walk(ROOT / "optformer", followlinks=True)]
    on_disk = {(folder / name).relative_to(ROOT).as_posix() for folder, names in walked for name in names}
    on_disk = {name for name in on_disk if Path(name).suffix in SUFFIXES}
    assert {f"optformer/pretrained/{name}/weights/00001-of-00001.safetensors" for name in pretrained_names()} <= on_disk
    about = {"METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    assert set(inside) == on_disk | {f"optformer-{VERSION}.dist-info/{name}" for name in about}


@pytest.mark.integration
def test_the_source_distribution_makes_the_same_wheel(distributions):
    wheel, _, again = distributions
    assert again.name == wheel.name == f"optformer-{VERSION}-py3-none-any.whl"
    assert files(again) == files(wheel)


@pytest.mark.integration
def test_the_source_distribution_has_the_package_and_no_more(distributions):
    with tarfile.open(distributions[1]) as archive:
        assert all(each.isfile() or each.isdir() for each in archive), "links need a file system that has them"
        names = {each.name.partition("/")[2] for each in archive if each.isfile()}
    beside = {name.split("/")[0] for name in names} - {"optformer"}
    made = {"PKG-INFO", "optformer.egg-info", "setup.cfg"}
    assert beside - made == {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}


def test_the_release_has_one_number():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert newest
    assert newest[1] == VERSION
    if newest[2] != "unreleased":
        assert f"\nversion: {VERSION}\ndate-released: {newest[2]}\n" in citation
