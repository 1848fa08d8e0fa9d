"""A worker process of the local executor: reads tasks as JSON lines, answers with JSON lines."""

from __future__ import annotations

import json
import os
import sys

from gristmill.data.executors.job import described, resolve


def main(job: str) -> None:
    """A worker's life: read a task, do it, answer, until the input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    function = resolve(job)
    for line in sys.stdin.buffer:
        try:
            answer = {"result": function(**json.loads(line))}
        except Exception as error:  # every failure travels to the parent, which raises it
            answer = {"error": described(error)}
        try:
            answers.write(json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:  # the parent was killed
            return


if __name__ == "__main__":
    main(sys.argv[1])
