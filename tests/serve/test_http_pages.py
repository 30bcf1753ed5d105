"""The pages of the HTTP service for people: what they show, to whom, and what they cost; one test in a real browser."""

import base64
import contextlib
import html
import http.client
import json
import os
import re
import shutil
import subprocess
import threading
import time

import pytest
from vizier import pyvizier as vz
from vizier._src.service import study_pb2
from vizier.service import pyvizier as svz

from optformer.serve import gallery
from optformer.serve.access import Access
from optformer.serve.grpc_server import Settings
from optformer.serve.http_server import HttpServer
from optformer.serve.studies import StudyService
from optformer.serve.vizier import OptFormerPolicyFactory

pytestmark = pytest.mark.integration

TOKEN = "correct-horse-battery-staple"
SECONDS = 120.0
"""After which something that was waited for counts as lost."""
ODD = "<b>odd<b> & $x^2$ \"quoted'"


class Server:
    """A service, and what its callers do."""

    def __init__(self, model, access=None):
        self.studies = StudyService("sqlite:///:memory:", OptFormerPolicyFactory(model, seed=1))
        self.http = HttpServer(self.studies, model, Settings(port=0, grace_seconds=2.0), access)
        self.token = None if access is None else access.token

    def request(self, method, path, body=None, headers=None):
        """Status, headers and content of the answer."""
        own = {"content-type": "application/json"}
        if self.token is not None:
            own["authorization"] = f"Bearer {self.token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.http.port, timeout=SECONDS)
        with contextlib.closing(connection):
            sent = own if headers is None else {"content-type": "application/json", **headers}
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()

    def call(self, method, path, body=None):
        status, _, content = self.request(method, path, body)
        assert status == 200, content
        return json.loads(content)

    def page(self, path, headers=None):
        """What a browser would show."""
        status, _, content = self.request("GET", path, headers=headers)
        assert status == 200
        return content.decode()

    def finished_page(self, path):
        """The page when all has been read and drawn."""
        deadline = time.monotonic() + SECONDS
        while 'data-refresh="4"' not in (page := self.page(path)):
            assert time.monotonic() < deadline, f"waited in vain for {path}: {page}"
            time.sleep(0.02)
        return page

    def make(self, name, owner="me", metrics=(("loss", "minimize"),), parameter="rate", **further):
        space = [
            {"type": "float", "name": parameter, "min": 1e-4, "max": 1, "scale": "log"},
            {"type": "categorical", "name": "kind", "values": ["a", "b<i>"]},
        ]
        goals = [{"name": metric, "goal": goal} for metric, goal in metrics]
        study = {"name": name, "algorithm": "QUASI_RANDOM_SEARCH", "search_space": space, "metrics": goals}
        self.call("POST", f"/v1/owners/{owner}/studies", study | further)

    def add(self, name, value, owner="me"):
        """A finished trial (value), a failed one ("failed"), or one that runs (None)."""
        study = f"/v1/owners/{owner}/studies/{name}"
        (trial,) = self.call("POST", f"{study}/suggestions", {"client_id": "worker"})["trials"]
        if value is not None:
            metrics = {"infeasible_reason": "out of memory"} if value == "failed" else {"metrics": {"loss": value}}
            self.call("POST", f"{study}/trials/{trial['id']}/complete", metrics)


@contextlib.contextmanager
def serving(model, access=None):
    server = Server(model, access)
    try:
        yield server
    finally:
        server.http.stop()


@pytest.fixture(scope="module")
def server(model):
    with serving(model) as server:
        fill(server)
        yield server


def fill(server):
    server.make("tuned")
    for value in (0.5, 0.25, "failed", 0.75, 1000.0, None):
        server.add("tuned", value)
    server.make(ODD, metrics=(("m<i>", "maximize"), ("cost", "minimize")), parameter="<script>alert(1)</script>")
    server.make("mine", owner="someone<b>")


def text_of(page):
    """The text of a page's main part, cells apart."""
    return html.unescape(re.sub(r"<[^>]+>", "|", page[page.index("<main") : page.index("</main>")]))


def cells_of(page):
    """Rows of the list: the texts of their cells."""
    rows = re.findall(r"<tr><td.*?</tr>", page, re.S)
    return {cells[0]: cells for row in rows if (cells := [c for c in text_of(f"<main>{row}</main>").split("|") if c])}


# What is shown.


def test_the_list_tells_how_each_study_stands(server):
    rows = cells_of(server.finished_page("/"))
    assert set(rows) == {"tuned", ODD, "mine"}
    # study, owner, objective, best, of trial; trials: all, finished, running, stopped, failed
    assert rows["tuned"] == ["tuned", "me", "minimize loss", "0.25", "2", "6", "4", "1", "0", "1"]
    assert rows[ODD][2] == "minimize cost, maximize m<i>"
    assert rows["mine"][1] == "someone<b>"


def test_a_long_list_has_pages(server, monkeypatch):
    monkeypatch.setattr("optformer.serve.http_pages._LISTED", 2)
    first = server.finished_page("/")
    (more,) = re.findall(r'<nav><a href="([^"]+)">', first)
    second = server.finished_page(html.unescape(more))
    assert len(cells_of(first)) == 2
    assert len(cells_of(second)) == 1
    assert cells_of(first).keys() | cells_of(second).keys() == {"tuned", ODD, "mine"}


def test_a_study_has_the_pictures_of_its_report(server):
    page = server.finished_page("/owners/me/studies/tuned")
    pictures = re.findall(r'<img alt="([^"]+)" src="([^"]+)"', page)
    assert [re.search(r"/([\w-]+)\.png", address)[1] for _, address in pictures] == [
        "best-0",
        "slices-0",
        "importance-0",
        "held-out-0",
    ]
    for _, address in pictures:
        status, headers, content = server.request("GET", html.unescape(address))
        assert status == 200
        assert headers["content-type"] == "image/png"
        assert content.startswith(b"\x89PNG")
    text = text_of(page)
    assert "|0.25||best loss, trial 2|" in text
    assert "|3||failed||out of memory|" in text
    assert "Running trials" in text


def test_a_study_links_to_the_earlier_ones_that_it_names(server):
    server.make("tuned again", owner="heir")
    server.make(ODD, owner="heir", prior_studies=["tuned again"])
    server.make("third", owner="heir", prior_studies=["tuned again", ODD])
    page = server.finished_page("/owners/heir/studies/third")
    line = re.search(r"earlier studies: (.*?)</p>", page)[1]
    assert "|tuned again|" in text_of(page)
    assert ODD in text_of(page)
    assert "<b>odd" not in line
    for address in re.findall(r'href="([^"]+)"', line):
        assert "owner: heir" in text_of(server.finished_page(html.unescape(address)))
    assert "earlier studies" not in server.finished_page("/owners/heir/studies/tuned%20again")


def test_names_are_text_and_nothing_else(server):
    address = re.search(r'href="(/owners/me/studies/[^"]*odd[^"]*)"', server.finished_page("/"))[1]
    page = server.finished_page(html.unescape(address))
    assert f"|{ODD}|" in text_of(page)
    server.add(address.removeprefix("/owners/me/studies/"), None)
    page = server.finished_page(html.unescape(address))
    assert "|<script>alert(1)</script>|" in text_of(page)
    for content in (page, server.finished_page("/")):
        assert "<b>odd" not in content
        assert "<i>" not in content
        assert content.count("<script") == 1


def test_names_of_older_databases_make_no_terminal_do_anything(model):
    config = svz.StudyConfig(metric_information=[vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE)])
    config.search_space.root.add_float_param("x\x1b[31m", 0, 1)
    study = study_pb2.Study(name="owners/o\x07/studies/s\x1b[2J", display_name="s\x1b[2J", study_spec=config.to_proto())
    with serving(model) as server:
        server.studies.datastore.create_study(study)
        pages = server.finished_page("/") + server.finished_page("/owners/o%07/studies/s%1B%5B2J")
    assert "\\x1b[2J" in pages
    assert not re.search(r"[\x00-\x08\x0e-\x1f\x7f]", pages)


def test_a_study_that_cannot_be_represented_says_why(model):
    config = svz.StudyConfig(metric_information=[vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE)])
    parent = config.search_space.root.add_int_param("n<i>", 1, 5000)
    parent.select_values([1]).add_float_param("x", 0, 1)
    study = study_pb2.Study(name="owners/me/studies/s", display_name="s", study_spec=config.to_proto())
    with serving(model) as server:
        server.studies.datastore.create_study(study)
        for path in ("/", "/owners/me/studies/s"):
            assert "cannot be shown: " in server.finished_page(path)
            assert "'n&lt;i&gt;'" in server.finished_page(path).replace("&#x27;", "'")


def test_a_study_that_could_not_be_read_is_read_again(model, monkeypatch, caplog):
    monkeypatch.setattr(gallery, "_LEAST_SECONDS", 0.0)
    path = "/owners/me/studies/s"
    with serving(model) as server:
        server.make("s")
        server.add("s", 0.5)
        broken = [True]
        read = server.studies.datastore.list_trials
        monkeypatch.setattr(server.studies.datastore, "list_trials", lambda name: 1 / 0 if broken else read(name))
        while "could not be shown; the server&#x27;s log says why" not in (page := server.page(path)):
            time.sleep(0.01)
        assert "ZeroDivision" not in page
        broken.clear()
        assert "|0.5||best loss, trial 1|" in text_of(server.finished_page(path))
    assert any("ZeroDivisionError" in str(record.exc_info) for record in caplog.records)


@pytest.mark.parametrize("path", ["/owners/me/studies/none", "/owners/me/studies/tuned/none.png"])
def test_what_does_not_exist_is_told_by_a_page(server, path):
    status, headers, content = server.request("GET", path)
    assert status == 404
    assert headers["content-type"].startswith("text/html")
    assert b"<h1>Not Found</h1>" in content


# To whom.


def test_browsers_give_the_token_as_a_password(model):
    def basic(words):
        return {"authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}

    with serving(model, Access(token=TOKEN)) as server:
        server.make("tuned")
        pages = ("/", "/owners/me/studies/tuned", "/owners/me/studies/none", "/owners/x")
        wrong = [{}, basic(TOKEN), basic(f"{TOKEN}:"), basic(f"me:{TOKEN}x"), basic(":"), {"authorization": "Basic ?"}]
        wrong.append({"authorization": f"Digest {TOKEN}"})
        for path in pages:
            for headers in wrong:
                status, sent, content = server.request("GET", path, headers=headers)
                assert status == 401
                assert sent["www-authenticate"].startswith('Basic realm="')
                assert b"tuned" not in content
        for headers in (basic(f"me:{TOKEN}"), basic(f":{TOKEN}"), {"authorization": f"Bearer {TOKEN}"}):
            assert "<h1>Studies</h1>" in server.page("/", headers)
        # A browser sends a password along with whatever a page of others asks for, so it opens nothing else.
        for method, path in (
            ("GET", "/v1/owners/me/studies"),
            ("GET", "/metrics"),
            ("DELETE", "/v1/owners/me/studies/tuned"),
            ("POST", "/"),
            ("DELETE", "/owners/me/studies/tuned"),
        ):
            status, sent, _ = server.request(method, path, headers=basic(f"me:{TOKEN}"))
            assert (status, sent["www-authenticate"]) == (401, "Bearer")


def test_pages_load_nothing_from_elsewhere_and_are_framed_by_nobody(server):
    for path in ("/", "/owners/me/studies/tuned", "/owners/me/studies/none"):
        _, headers, content = server.request("GET", path)
        policy = dict(each.strip().split(" ", 1) for each in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["connect-src"] == "'self'"
        assert re.fullmatch(r"'sha256-[\w+/=]+'", policy["script-src"])
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert not re.search(rb"(?:src|href)=\"(?!/|data:)", content)
        assert b"://" not in content.replace(b"http://www.w3.org/2000/svg", b"")


# What they cost.


def test_what_has_not_changed_is_neither_sent_nor_drawn_again(server, monkeypatch):
    path = "/owners/me/studies/tuned"
    server.finished_page(path)
    drawn = []
    monkeypatch.setattr(gallery, "png", lambda figure: drawn.append(figure))
    _, headers, _ = server.request("GET", path)
    for _ in range(20):
        status, _, content = server.request("GET", path, headers={"if-none-match": headers["etag"]})
        assert (status, content) == (304, b"")
    server.make("another")
    assert server.request("GET", path, headers={"if-none-match": headers["etag"]})[0] == 304
    assert drawn == []


def test_a_study_that_changes_all_the_time_is_drawn_now_and_then(model, monkeypatch):
    path = "/owners/me/studies/busy"
    with serving(model) as server:
        server.make("busy")
        server.add("busy", 0.5)
        before = server.finished_page(path)
        server.add("busy", 0.25)
        # The old page, until it is due to be made anew.
        page = server.page(path)
        assert text_of(page) == text_of(before)
        assert 'data-refresh="1"' in page
        monkeypatch.setattr(gallery, "_LEAST_SECONDS", 0.0)
        monkeypatch.setattr(gallery, "_REST", 0)
        shelf = server.http._gallery._exhibits
        shelf.kept = type(shelf.kept)((name, kept._replace(due=0.0)) for name, kept in shelf.kept.items())
        assert "|0.25||best loss, trial 2|" in text_of(server.finished_page(path))


def test_a_page_waits_for_no_picture(model, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(gallery, "png", lambda figure: released.wait(SECONDS) or b"")
    with serving(model) as server:
        try:
            server.make("slow")
            server.add("slow", 0.5)
            while "is being drawn" not in server.page("/owners/me/studies/slow"):
                time.sleep(0.01)
            # Suggestions, results and other pages come meanwhile.
            server.add("slow", 0.25)
            assert "0.25" in server.finished_page("/")
            assert "is being drawn" in server.page("/owners/me/studies/slow")
        finally:
            released.set()


def test_tables_and_pictures_of_many_studies_are_not_all_kept(model, monkeypatch):
    monkeypatch.setattr(gallery, "_PAGE_BYTES", 1)
    with serving(model) as server:
        for name in ("first", "second"):
            server.make(name)
            server.add(name, 0.5)
            server.finished_page(f"/owners/me/studies/{name}")
        assert list(server.http._gallery._exhibits.kept) == ["owners/me/studies/second"]


# In a browser.


@pytest.fixture(scope="session")
def browser():
    """The program; installed from Debian's packages where that is possible."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "check": False}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], **quiet)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("no Chromium here, and none could be installed: apt-get install chromium")
    return found


def browse(browser, address, profile):
    """The page as scripts have left it after some minutes of the browser's own time, and what its console says."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=300000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_a_real_browser_shows_live_pages(browser, model, tmp_path, monkeypatch):
    with serving(model, Access(token=TOKEN)) as server:
        fill(server)
        shown, picture = set(), server.http._gallery.picture
        monkeypatch.setattr(server.http._gallery, "picture", lambda *names: shown.add(names) or picture(*names))
        at = f"127.0.0.1:{server.http.port}"
        # At first the study is being read: what is shown in the end has been fetched by the script.
        address = f"http://me:{TOKEN}@{at}/owners/me/studies/tuned"
        page, console = browse(browser, address, tmp_path)
        assert console == []
        assert "|0.25||best loss, trial 2|" in text_of(page)
        assert 'class="fresh"' in page
        server.finished_page("/owners/me/studies/tuned")
        _, console = browse(browser, address, tmp_path)
        assert console == []
        names = {"best-0", "slices-0", "importance-0", "held-out-0"}
        assert shown == {("owners/me/studies/tuned", name) for name in names}
        page, console = browse(browser, f"http://me:{TOKEN}@{at}/", tmp_path)
        assert console == []
        assert cells_of(page.replace("<tbody>", "<tbody>\n"))["tuned"][3] == "0.25"
        assert ODD in text_of(page)
        page, _ = browse(browser, f"http://{at}/", tmp_path / "stranger")
        assert "tuned" not in page
