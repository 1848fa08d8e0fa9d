"""Real labelled texts: what docs/data/learned.md claims stays within reach."""

import gzip
import json

import pytest

from gristmill.core.progress import Silent
from gristmill.data.classifier.examples import Examples
from gristmill.data.classifier.stage import TrainClassifier, train_on
from tests.shared import DATA

SMS, TWEETS = DATA / "classification/sms_spam.tsv.gz", DATA / "toxicity/davidson_tweets.csv.gz"


def trained(folder, examples):
    return train_on(TrainClassifier(examples=[examples]), {}, seed=1, work=folder, scratch=folder, progress=Silent())


@pytest.mark.skipif(not SMS.exists(), reason="the shared SMS messages are not here")
def test_spam(tmp_path):
    lines = gzip.decompress(SMS.read_bytes()).decode("utf-8").split("\n")
    rows = [dict(zip(("label", "text"), line.split("\t", 1), strict=True)) for line in lines if line]
    (tmp_path / "sms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = trained(tmp_path, Examples(path=str(tmp_path / "sms.jsonl"), label_column="label"))
    assert report["read"]["duplicates"] > 300
    spam = report["held_out"]["labels"]["spam"]
    assert spam["f1"]["value"] > 0.88
    assert spam["precision"]["value"] > 0.93
    assert report["held_out"]["calibration_error"] < 0.03


@pytest.mark.slow
@pytest.mark.skipif(not TWEETS.exists(), reason="the shared tweets are not here")
def test_offensive_tweets_from_the_table_as_it_is(tmp_path):
    report = trained(tmp_path, Examples(path=str(TWEETS), column="tweet", label_column="class"))
    assert sum(sum(part.values()) for part in report["texts"].values()) + report["read"]["duplicates"] == 24_783
    assert report["held_out"]["accuracy"]["value"] > 0.87
    assert report["held_out"]["labels"]["2"]["auc"]["low"] > 0.95
