import threading
import time
from collections import Counter
from functools import partial

import pytest

from gristmill.core.errors import MachineError, UserError
from gristmill.core.writer import Answer
from gristmill.data.augment.ask import GIVE_UP, Asking, Job
from gristmill.data.augment.journal import Journal
from gristmill.data.augment.method import Original
from gristmill.data.augment.rewriting import BackTranslation, LocalModel, Paraphrase, most_tokens, writing

LOCAL = LocalModel(model="m")
TEXT = "The old mill number {} stood by the river. Nobody had worked in it.\n\nIt burnt down in the end.\n"


class Writer:
    """Answers with the prompt's words turned round; counts what it is asked."""

    def __init__(self, name="w", concurrency=1, batch=1, answer=None):
        self.name = self.identity = name
        self.concurrency, self.batch, self.answer = concurrency, batch, answer
        self.asked = Counter()
        self.groups = []
        self.lock = threading.Lock()

    def write(self, requests):
        with self.lock:
            self.groups.append([request.seed for request in requests])
            self.asked.update((request.prompt, request.seed) for request in requests)
        return [self.answer(request) if self.answer else self.turned(request) for request in requests]

    def turned(self, request):
        words = request.prompt.split("\n\n", 1)[1].split()
        return Answer(" ".join(reversed(words)), "stop", len(words), 10, self.name)

    def most_prompt_tokens(self, prompt):
        return len(prompt.split())


def originals(count):
    return [Original(f"d{i}", TEXT.format(i), "en") for i in range(count)]


def asked(tmp_path, writer, method=None, count=20, journal="j", back=None, **budget):
    """(asking, texts of the jobs within the budget) of `count` documents."""
    method = method or Paraphrase(writer=LOCAL)
    writers = [writer, *([back] if back else [])]
    journals = [Journal(tmp_path / f"{journal}-{one.identity}") for one in writers]
    asking = Asking(writers, journals, **budget)
    jobs = []
    for original in originals(count):
        requests, tokens = most_tokens(original, method, writer.most_prompt_tokens)
        jobs.append(Job(partial(writing, original, method, "p", 1, 3), requests, tokens))
    asking.run(iter(jobs))
    return asking, [asking.replay(job.script()) for job in jobs[: asking.asked.within]]


@pytest.mark.parametrize(("concurrency", "batch"), [(1, 1), (4, 1), (1, 3), (3, 4)])
def test_the_texts_do_not_depend_on_how_they_are_asked_for(tmp_path, concurrency, batch):
    plain = asked(tmp_path, Writer(), journal="plain")[1]
    asking, texts = asked(tmp_path, Writer(concurrency=concurrency, batch=batch))
    assert [made.text for made in texts] == [made.text for made in plain]
    assert (asking.asked.jobs, asking.asked.within, asking.asked.requests, asking.asked.new) == (20, 20, 20, 20)
    assert all(made.reason == "" and made.about["model"] == "w" for made in texts)


def test_nothing_is_asked_twice(tmp_path):
    writer = Writer()
    _, texts = asked(tmp_path, writer, count=12)
    again, more = asked(tmp_path, writer, count=20)
    assert max(writer.asked.values()) == 1
    assert len(writer.asked) == 20
    assert again.asked.new == 8
    assert [made.text for made in more[:12]] == [made.text for made in texts]


def test_a_batch_that_was_interrupted_is_the_same_batch_again(tmp_path):
    whole = Writer(batch=4)
    asked(tmp_path, whole, count=8)
    path = tmp_path / "j-w"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]))
    again = Writer(batch=4)
    asked(tmp_path, again, count=8)
    assert again.groups == [whole.groups[1]]
    assert path.read_bytes().splitlines() == [line.strip() for line in lines]


GERMAN = "Die alte Mühle stand am Fluss, und niemand hatte viele Jahre lang darin gearbeitet."


def test_back_translation_asks_twice_and_its_second_question_holds_the_first_answer(tmp_path):
    there, back = Writer("there", answer=lambda request: Answer(GERMAN, "stop", model="there")), Writer("back")
    method = BackTranslation(writer=LOCAL, back_writer=LOCAL, pivot="de")
    _, texts = asked(tmp_path, there, method, count=3, back=back)
    assert {made.text for made in texts} == {" ".join(reversed(GERMAN.split())) + "\n"}
    assert {prompt.split(".")[0] for prompt, _ in there.asked} == {"Translate the following text into German"}
    assert {prompt.split(".")[0] for prompt, _ in back.asked} == {"Translate the following text into English"}
    assert texts[0].about == {"prompt": texts[0].about["prompt"], "pivot": "de", "model": "there, back"}


def test_a_translation_that_is_none_is_not_translated_back(tmp_path):
    there, back = Writer("there", answer=lambda request: Answer(request.prompt[-80:], "stop")), Writer("back")
    _, texts = asked(tmp_path, there, BackTranslation(writer=LOCAL, back_writer=LOCAL, pivot="de"), count=2, back=back)
    assert [made.reason for made in texts] == ["other_language"] * 2
    assert not back.asked
    _, texts = asked(tmp_path, there, BackTranslation(writer=LOCAL, pivot="en"), count=1)
    assert texts[0].reason == "in_the_pivot_language"
    script = writing(Original("n", "1 2 3 4 5", "und"), BackTranslation(writer=LOCAL), "b", 1, 1)
    with pytest.raises(StopIteration) as ended:
        next(script)
    assert ended.value.value.reason == "unknown_language"


def test_a_piece_that_fails_ends_the_text_and_costs_nothing_more(tmp_path):
    writer = Writer(answer=lambda request: Answer("", "refused", detail="no") if "mill" in request.prompt else None)
    _, texts = asked(tmp_path, writer, Paraphrase(writer=LOCAL, piece=100), count=2)
    assert [made.reason for made in texts] == ["refused", "refused"]
    assert writer.asked.total() == 2
    _, texts = asked(tmp_path, Writer("x"), Paraphrase(writer=LOCAL, piece=100, most_pieces=1),
                     count=1, journal="k")
    assert texts[0].reason == ""
    long = Original("d", "Words. " * 100, "en")
    assert most_tokens(long, Paraphrase(writer=LOCAL, piece=100, most_pieces=1), len) == (0, 0)


@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_budgets_take_a_prefix_whatever_the_speed(tmp_path, concurrency, batch):
    def unevenly(request):
        time.sleep(request.seed % 5 / 1000)
        return Answer("Some words of an answer.", "stop", 30, request.seed % 40, "w")

    plain, _ = asked(tmp_path, Writer(answer=unevenly), Paraphrase(writer=LOCAL, max_tokens=40), journal="a",
                     most_tokens=600)
    asking, _ = asked(tmp_path, Writer(concurrency=concurrency, batch=batch, answer=unevenly),
                      Paraphrase(writer=LOCAL, max_tokens=40), most_tokens=600)
    assert 5 < asking.asked.within < 20
    assert asking.asked.tokens <= 600
    if batch == 1:
        assert asking.asked.within == plain.asked.within
    assert asking.asked.jobs == 20
    again, _ = asked(tmp_path, Writer(concurrency=3, batch=batch, answer=unevenly),
                     Paraphrase(writer=LOCAL, max_tokens=40), most_tokens=600)
    assert (again.asked.within, again.asked.new) == (asking.asked.within, 0)
    few, texts = asked(tmp_path, Writer("f", concurrency=concurrency, batch=batch), most_requests=7)
    assert (few.asked.within, few.asked.requests, len(texts)) == (7, 7, 7)


def test_single_failures_are_rejects_and_are_asked_again_next_time(tmp_path):
    failing = Writer(answer=lambda request: Answer("", "failed", detail="HTTP 500") if request.seed % 3 == 0
                     else Answer("All is well here.", "stop"))
    _, texts = asked(tmp_path, failing)
    reasons = Counter(made.reason for made in texts)
    assert 0 < reasons["no_answer"] < 20
    assert {made.detail for made in texts if made.reason} == {"HTTP 500"}
    again, texts = asked(tmp_path, Writer())
    assert again.asked.new == reasons["no_answer"]
    assert all(not made.reason for made in texts)


@pytest.mark.parametrize("finish", ["failed", "refused"])
def test_a_server_that_answers_nobody_stops_the_work(tmp_path, finish):
    writer = Writer(concurrency=3, answer=lambda request: Answer("", finish, detail="HTTP 503: busy"))
    with pytest.raises(MachineError, match="20 requests in a row were not answered: HTTP 503: busy"):
        asked(tmp_path, writer, count=100)
    assert GIVE_UP <= writer.asked.total() < GIVE_UP + 10
    mended = Writer()
    _, texts = asked(tmp_path, mended, count=100)
    assert mended.asked.total() == 100  # none of the refusals was kept
    assert all(not made.reason for made in texts)


def test_single_refusals_are_kept(tmp_path):
    def picky(request):
        return Answer("", "refused", detail="no") if request.seed % 4 == 0 else Answer("All is well here.", "stop")

    _, first = asked(tmp_path, Writer(answer=picky))
    again, second = asked(tmp_path, Writer(answer=picky))
    assert again.asked.new == 0
    assert [made.reason for made in first] == [made.reason for made in second]
    assert {made.reason for made in first} == {"", "refused"}


def test_an_error_of_the_writer_comes_out(tmp_path):
    def wrong(request):
        raise UserError("the server refuses the key")

    with pytest.raises(UserError, match="refuses the key"):
        asked(tmp_path, Writer(concurrency=3, answer=wrong))
