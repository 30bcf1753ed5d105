"""What the Containerfile says fits the program: its options, ports, health check, and what is installed."""

import argparse
import json
import re
import tomllib
from pathlib import Path

import pytest

from optformer.commands import serve
from optformer.serve.access import Access, AccessError
from optformer.serve.http_api import HEALTH_PATH
from optformer.serve.http_server import HTTP_PORT

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
# Of an instruction that stands there several times, the last one.
SAID = {line.split()[0]: line.partition(" ")[2].strip() for line in TEXT.splitlines() if re.match(r"[A-Z]+ ", line)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def command() -> list[str]:
    """What is run where nothing else is asked for."""
    return json.loads(SAID["ENTRYPOINT"]) + json.loads(SAID["CMD"])


def options() -> argparse.Namespace:
    """Options of the command, as the program understands them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.add_arguments(parser)
    return parser.parse_args(command()[2:])


def test_the_command_is_one_of_the_program():
    assert command()[:2] == [*PROJECT["scripts"], "serve"]
    assert options().http
    assert options().database_url.startswith(f"sqlite:///{SAID['VOLUME']}/")
    assert SAID["ENV"].startswith(f"OPTFORMER_COMPILATION_CACHE={SAID['VOLUME']}/")


def test_other_machines_need_the_token():
    assert options().token_file
    assert not options().insecure
    with pytest.raises(AccessError, match="--token-file"):
        Access().check(options().host)


def test_the_ports_are_those_that_are_listened_on():
    assert options().http_port is None
    assert {int(port) for port in SAID["EXPOSE"].split()} == {options().port, HTTP_PORT}
    assert f"http://127.0.0.1:{HTTP_PORT}{HEALTH_PATH}" in SAID["HEALTHCHECK"]


def test_the_program_is_process_1_and_not_root():
    assert command()[0] == "optformer", "no shell, which would keep signals to itself"
    assert SAID["STOPSIGNAL"] == "SIGTERM"
    assert SAID["USER"] == "optformer"
    assert "useradd --uid 1000" in TEXT


def test_what_is_installed_exists():
    extras = re.findall(r"\.whl\)\[([\w,-]+)\]", TEXT)
    assert extras == ["serve"]
    assert "serve" in PROJECT["optional-dependencies"]
    (python,) = set(re.findall(r"^FROM \S+/python:([\d.]+)-slim\b", TEXT, flags=re.MULTILINE))
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    links = {link.name for link in (ROOT / "optformer").iterdir() if link.is_symlink()}
    copied = {place for line in re.findall(r"^COPY (.+) \S+$", TEXT, flags=re.MULTILINE) for place in line.split()}
    assert copied == {"optformer", *links, "pyproject.toml", "README.md", "LICENSE"}
