"""Our own server as a writer: what it answers is what the model answers in this process."""

import pytest

from gristmill.core.artifact import Artifact
from gristmill.core.stage import Runtime
from gristmill.core.writer import Request
from gristmill.data.augment.server import Server, ServerWriter
from gristmill.pipeline.writers import writer_opener


@pytest.mark.slow
def test_served_and_local_answers_are_the_same(served, tiny_model):
    model = served.openai().models.list().data[0].id
    there = ServerWriter(Server(base_url=f"{served.url}/v1", model=model))
    here = writer_opener(Runtime(device="cpu"))(Artifact.from_folder(tiny_model, "model"))
    requests = [Request("What does this do?", seed, 10, 0.7, 0.9) for seed in (1, 2**31 - 1)]
    requests.append(Request("Say it.", 3, 6, 0.0))
    for one, other in zip(there.write(requests), here.write(requests), strict=True):
        assert one.text == other.text
        assert (one.finish, one.prompt_tokens, one.completion_tokens) == (
            other.finish, other.prompt_tokens, other.completion_tokens)
    long = there.write([Request("word " * 400, 1, 4, 0.7)])[0]
    assert long.finish == "does_not_fit", long.detail
