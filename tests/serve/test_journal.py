"""The journal of the plain loop: programs go on from it, and what is damaged or could not be written is noticed."""

import contextlib
import json
import resource
import signal
import subprocess
import sys

import pytest

from optformer.serve.ask_tell import AskTell
from optformer.serve.journal import Journal
from tests.serve.test_ask_tell import SPACE, cost

pytestmark = pytest.mark.integration


def test_a_program_goes_on_from_its_journal(model, tmp_path):
    journal = tmp_path / "tuning.jsonl"
    straight = AskTell(SPACE, model, seed=1)
    for number in range(9):
        if number in (0, 4, 7):
            tuner = AskTell(SPACE, model, seed=1, journal=journal)
        trials = [tuner.ask(), straight.ask()]
        assert trials[0] == trials[1]
        value = None if number == 5 else cost(trials[0].parameters)
        tuner.tell(trials[0], value)
        straight.tell(trials[1], value)
        if number in (3, 6):
            assert tuner.ask() == straight.ask()  # still running when the program ends
            tuner.close()
    tuner.close()
    with AskTell(SPACE, model, seed=1, journal=journal) as tuner:
        assert tuner.trials == straight.trials
        assert tuner.running == straight.running
        assert len(tuner.running) == 2


def test_a_line_that_was_cut_off_is_dropped(model, tmp_path):
    journal = tmp_path / "tuning.jsonl"
    with AskTell(SPACE, model, journal=journal) as tuner:
        first = tuner.ask()
        tuner.tell(first, 1.0)
        second = tuner.ask()
    whole = journal.read_bytes()
    for cut in (b'{"tell": 2, "val', b""):
        journal.write_bytes(whole[:20] if not cut else whole + cut)
        AskTell(SPACE, model, journal=journal).close()
        assert journal.read_bytes() == (whole if cut else whole.splitlines(keepends=True)[0])
    journal.write_bytes(whole + b'{"tell": 2, "val')
    with AskTell(SPACE, model, journal=journal) as tuner:
        assert (tuner.running, [trial.number for trial in tuner.trials]) == ([second], [1])
        tuner.tell(second, 2.0)
    assert journal.read_bytes().startswith(whole)
    assert json.loads(journal.read_bytes().splitlines()[-1]) == {"tell": 2, "values": {"objective": 2.0}}


@pytest.mark.parametrize(
    "line", ["1", '{"tell": 9, "values": null}', '{"ask": 1}', '{"ask": 1, "parameters": {"x": 7}}']
)
def test_a_journal_that_makes_no_sense_is_refused(line, model, tmp_path):
    journal = tmp_path / "tuning.jsonl"
    AskTell({"x": (0.0, 1.0)}, model, journal=journal).close()
    with journal.open("a") as file:
        file.write(line + "\n")
    before = journal.read_bytes()
    with pytest.raises(ValueError, match=r"tuning\.jsonl, line 2: "):
        AskTell({"x": (0.0, 1.0)}, model, journal=journal)
    assert journal.read_bytes() == before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([0, 1, 1, 2, 3, 4], r"line 3: trial 1 cannot follow trial 1\. Was a line removed"),
        ([0, 2, 3, 4], "line 2: trial 2 cannot follow trial 0"),
        ([0, 2, 1, 3, 4], "line 2: trial 2 cannot follow trial 0"),
        ([0, 1, 3, 4], "line 4: trial 2: no such trial"),
        ([0, 1, 2, 3, 3, 4], "line 5: trial 1: already has a result"),
    ],
)
def test_a_journal_whose_lines_do_not_follow_each_other_is_refused(lines, message, model, tmp_path):
    journal = tmp_path / "tuning.jsonl"
    with AskTell({"x": (0.0, 1.0)}, model, journal=journal) as tuner:
        first, second = tuner.ask(2)
        tuner.tell(first, 1.0)
        tuner.tell(second, 2.0)
    written = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(written[number] for number in lines))
    with pytest.raises(ValueError, match=message):
        AskTell({"x": (0.0, 1.0)}, model, journal=journal)


def test_an_earlier_journal_with_a_trial_twice_is_refused(model, tmp_path):
    journal = tmp_path / "tuning.jsonl"
    with AskTell({"x": (0.0, 1.0)}, model, journal=journal) as tuner:
        tuner.tell(tuner.ask(), 1.0)
    study, asked, told = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(study + asked + told + asked)
    with pytest.raises(ValueError, match=r"tuning\.jsonl, line 4: trial 1 appears twice"):
        AskTell({"x": (0.0, 1.0)}, model, prior_studies=[journal])


def test_a_damaged_line_of_a_journal_is_named(model, tmp_path):
    journal = tmp_path / "tuning.jsonl"
    with AskTell({"x": (0.0, 1.0)}, model, journal=journal) as tuner:
        tuner.tell(tuner.ask(), 1.0)
    first, *others = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([first, b"\0" * 8 + b"\n", *others]))
    with pytest.raises(ValueError, match=r"tuning\.jsonl, line 2: is damaged"):
        AskTell({"x": (0.0, 1.0)}, model, journal=journal)


def test_another_study_or_another_process_is_refused(model, tmp_path):
    journal = tmp_path / "tuning.jsonl"
    AskTell({"x": (0.0, 1.0)}, model, journal=journal).close()
    with pytest.raises(ValueError, match=r"tuning.jsonl: is the journal of another study: parameter 'x' is .*2\.0"):
        AskTell({"x": (0.0, 2.0)}, model, journal=journal)
    with pytest.raises(ValueError, match="another study: metric 'objective' is MAXIMIZE now and MINIMIZE in it"):
        AskTell({"x": (0.0, 1.0)}, model, goal="maximize", journal=journal)
    for content in (b"[1]\n", b"name,value\n", b'{"a": 1}\n', b"no line end", b"\n"):
        other = tmp_path / "other"
        other.write_bytes(content)
        with pytest.raises(ValueError, match="other: is not a journal"):
            AskTell({"x": (0.0, 1.0)}, model, journal=other)
        assert other.read_bytes() == content
    code = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(journal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "\n"
        with pytest.raises(OSError, match="another process has this journal open"):
            AskTell({"x": (0.0, 1.0)}, model, journal=journal)
    finally:
        process.communicate(timeout=30)
    AskTell({"x": (0.0, 1.0)}, model, journal=journal).close()


@contextlib.contextmanager
def room_for(path, more):
    """A disk on which files may grow by so many bytes, and no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("more", [0, 1, 20, 35])
def test_what_could_not_be_written_did_not_happen(model, tmp_path, more):
    """Asked again with room on the disk, results belong to the points that they were told for."""
    journal = tmp_path / "tuning.jsonl"
    with AskTell({"x": (0.0, 1.0)}, model, journal=journal) as tuner:
        for number in range(1, 6):
            tuner.enqueue({"x": number / 10})
        first = tuner.ask()
        calls = (
            lambda: tuner.ask(),
            lambda: tuner.ask(3),
            lambda: tuner.tell(first, 0.5 + 1e-17),
            lambda: tuner.add({"x": 0.75}, 0.125 + 1e-17),
        )
        for call in calls:
            before = journal.read_bytes(), tuner.running, tuner.trials
            with room_for(journal, more), pytest.raises(OSError):
                call()
            assert (journal.read_bytes(), tuner.running, tuner.trials) == before
        tuner.tell(first, first.parameters["x"])
        for _ in range(2):
            for asked in tuner.ask(2):  # what was enqueued is all still there, once
                tuner.tell(asked, asked.parameters["x"])
        tuner.add({"x": 0.75}, 0.75)
        there = tuner.trials
    assert [trial.parameters["x"] for trial in there] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.75]
    with AskTell({"x": (0.0, 1.0)}, model, journal=journal) as tuner:
        assert tuner.trials == there
        for trial in tuner.trials:
            assert trial.values == {"objective": trial.parameters["x"]}


def test_a_part_that_cannot_be_taken_back_is_taken_back_by_the_next_write(tmp_path):
    journal = Journal(tmp_path / "tuning.jsonl", {"parameters": {}, "metrics": {}})
    file, broken = journal._file, [True]

    class Half:
        """Writes half of a line, and then the disk is gone for a while."""

        def write(self, content):
            if broken:
                file.write(content[: len(content) // 2])
                raise OSError("the disk is gone")
            return file.write(content[: max(1, len(content) // 2)])  # bit by bit, as a file may

        def truncate(self, size):
            if broken and file.seek(0, 2) > size:
                raise OSError("the disk is gone")
            return file.truncate(size)

        def __getattr__(self, name):
            return getattr(file, name)

    journal._file = Half()
    with pytest.raises(OSError, match="gone"):
        journal.append({"ask": 1})
    assert not (tmp_path / "tuning.jsonl").read_bytes().endswith(b"\n")
    broken.clear()
    journal.append({"ask": 2}, {"tell": 2})
    journal.close()
    again = Journal(tmp_path / "tuning.jsonl", {"parameters": {}, "metrics": {}})
    assert again.records == [{"ask": 2}, {"tell": 2}]
    again.close()
