"""What is said of work that was begun earlier: all of it counts, and only what is done now makes the rate."""

import io
import time

from gristmill.core import progress
from gristmill.core.progress import Lines, Terminal


def test_what_was_done_before_counts_but_not_for_the_rate(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    said = io.StringIO()
    with Lines(every=10, stream=said).bar("model", 334, "steps", 84) as bar:
        clock[0] += 10
        bar.advance(10)
        clock[0] += 10
        bar.advance(10, "loss 4.5")
    assert said.getvalue().splitlines() == [
        "  model: 94/334 steps, 1/s, 4:00 left", "  model: 104/334 steps, 1/s, 3:50 left | loss 4.5",
        "  model: 20 steps in 0:20 | loss 4.5"]


def test_a_live_bar_begins_where_the_work_stood():
    terminal = Terminal()
    terminal.console.file = io.StringIO()
    with terminal.bar("model", 334, "steps", 84) as bar:
        bar.start -= 10
        task, = bar.rich.tasks
        assert task.completed == 84
        bar.advance(10)
        assert task.completed == 94
        assert task.fields["count"].startswith(f"94/{progress._quantity(334)} steps 1")


def test_slow_work_says_how_long_one_takes_and_when_it_ends(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    said = io.StringIO()
    with Lines(every=10, stream=said).bar("model", 10, "steps") as bar:
        for seconds in (40, 110):
            clock[0] += seconds
            bar.advance()
    assert said.getvalue().splitlines()[:2] == [
        "  model: 1/10 steps, 40.0 s each, 6:00 left", "  model: 2/10 steps, 1:15 each, 10:00 left"]


def test_a_live_bar_of_slow_work_shows_the_time_left(monkeypatch):
    terminal = Terminal()
    terminal.console.file = io.StringIO()
    with terminal.bar("model", 10, "steps") as bar:
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now)
        bar.start = now - 100
        bar.advance(2)
        task, = bar.rich.tasks
        assert (task.fields["count"], task.fields["left"]) == ("2/10 steps 50.0 s each", "left 6:40")


def test_slow_reading_is_told_in_what_is_read_each_second(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    said = io.StringIO()
    with Lines(every=10, stream=said).bar("reading", 0.8, "MB") as bar:
        clock[0] += 20
        bar.advance(0.4)
    assert said.getvalue().splitlines()[0] == "  reading: 0.4/0.8 MB, 20 kB/s, 0:20 left"
