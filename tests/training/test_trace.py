"""What a run draws for TensorBoard, also after it was killed."""

from pathlib import Path

import pytest

from gristmill.training.trace import TensorBoard, Traces

reading = pytest.importorskip("tensorboardX.record_writer")


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


def test_the_step_is_where_a_number_stands_and_no_number(tmp_path):
    seen = []
    traces = Traces(tmp_path, -1, lambda step, values: seen.append((step, dict(values))))
    traces.update({"step": 3, "tokens": 24, "loss": 2.5}, {"seconds": 0.5})
    traces.close()
    assert seen == [(3, {"train/tokens": 24, "train/loss": 2.5, "speed/seconds": 0.5})]
    assert (tmp_path / "trace.jsonl").read_text() == '{"step": 3, "tokens": 24, "loss": 2.5}\n'
