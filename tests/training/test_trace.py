"""What a run writes and draws, also after it was killed."""

import os
import resource
from pathlib import Path

import pytest

from gristmill.core.errors import Told, UserError
from gristmill.training.trace import TensorBoard, TraceFile, Traces


def drawn(folder: Path) -> dict[int, float]:
    """Step -> value of one scalar, as TensorBoard reads it: files by name, and what a new start says is to go, goes."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[int, list[float]] = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == SessionLog.START:
                found = {step: values for step, values in found.items() if step < event.step}
            for value in event.summary.value:
                found.setdefault(event.step, []).append(value.simple_value)
    assert all(len(values) == 1 for values in found.values()), "drawn twice"
    return {step: values[0] for step, values in found.items()}


def test_every_step_is_drawn_once_after_a_start_that_was_killed(tmp_path):
    """A writer that is left without a word has drawn what came before the checkpoint, and maybe some of the rest."""
    pytest.importorskip("tensorboardX.record_writer")
    lost = TensorBoard(tmp_path)
    for step in range(1, 9):
        lost.write(step, {"train/loss": step, "text": "no number"})
        if step in (4, 7):  # a checkpoint; that of step 7 was damaged
            lost.flush()
    assert set(range(1, 8)) <= drawn(tmp_path).keys()
    again = TensorBoard(tmp_path, 4)
    for step in range(5, 11):
        again.write(step, {"train/loss": 10 * step})
    again.close()
    assert drawn(tmp_path) == {**{step: step for step in range(1, 5)}, **{step: 10 * step for step in range(5, 11)}}


def written(path: Path) -> TraceFile:
    file = TraceFile(path, 0)
    for step in range(1, 7):
        file.write({"step": step, "loss": 1 / step, "text": "ä"})
    file.close()
    return file


def test_lines_after_the_checkpoint_are_cut_and_the_others_stay_as_they_are(tmp_path):
    path = written(tmp_path / "trace.jsonl").path
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("ab") as file:
        file.write(b'{"step": 7, "lo')
    again = TraceFile(path, 4)
    again.close()
    assert (again.kept, path.read_bytes()) == (4, b"".join(lines[:4]))


def test_a_start_that_cannot_write_takes_no_line_of_what_is_done(tmp_path):
    path = written(tmp_path / "trace.jsonl").path
    before = path.read_bytes()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))
        try:
            TraceFile(path, 5)
        except (OSError, Told):
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert path.read_bytes() == before


def test_a_broken_line_is_named(tmp_path):
    path = written(tmp_path / "trace.jsonl").path
    data = path.read_bytes()
    path.write_bytes(data[:40] + bytes(20) + data[60:])
    with pytest.raises(UserError, match=r"trace\.jsonl, line 2: this line is not valid JSON") as error:
        TraceFile(path, 5)
    assert "delete this line" in str(error.value)


def test_the_step_is_where_a_number_stands_and_no_number(tmp_path):
    seen = []
    traces = Traces(tmp_path, -1, lambda step, values: seen.append((step, dict(values))))
    traces.update({"step": 3, "tokens": 24, "loss": 2.5}, {"seconds": 0.5})
    traces.close()
    assert seen == [(3, {"train/tokens": 24, "train/loss": 2.5, "speed/seconds": 0.5})]
    assert (tmp_path / "trace.jsonl").read_text() == '{"step": 3, "tokens": 24, "loss": 2.5}\n'
