"""`gristmill plan scaling` and `plan fit`: what a person types, the JSON that scripts rely on, the page, the errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gristmill.cli.app import app
from gristmill.planning.scaling_laws import BESIROGLU, LAWS

INTERVAL = {"low", "expected", "high"}


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    return done.output


@pytest.fixture
def points(tmp_path: Path) -> Path:
    path = tmp_path / "points.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "parameters", "tokens", "loss"])
        for n in (1e5, 4e5, 1.6e6, 6.4e6):
            for d in (4e6, 2e7, 1e8):
                writer.writerow([f"{n:g}-{d:g}", n, d, BESIROGLU.loss(n, d)])
    return path


def test_the_schema_of_scaling_is_stable():
    found = json.loads(call("plan", "scaling", "--flops", "5.76e23", "--served-tokens", "1T", "--unique-tokens", "1T",
                            "--json"))
    assert set(found) == {"budget", "unique_tokens", "repetition", "laws", "serving"}
    assert set(found["budget"]["flops"]) == INTERVAL
    assert [row["law"] for row in found["laws"]] == list(LAWS)
    for row in found["laws"]:
        assert set(row) == {"law", "title", "source", "equation", "note", "parameters", "tokens", "flops", "loss",
                            "tokens_per_parameter", "epochs", "outside", "parameters_range", "tokens_range"}
    first = found["laws"][0]
    assert (first["law"], round(first["tokens_per_parameter"], 1)) == ("besiroglu", 18.4)
    assert found["serving"]["parameters"] < first["parameters"]
    assert set(found["serving"]) == {"law", "parameters", "tokens", "served_tokens", "loss", "flops",
                                     "flops_compute_optimal", "saving", "tokens_per_parameter"}


def test_money_becomes_flops_with_the_assumptions_told():
    found = json.loads(call("plan", "scaling", "--budget-usd", 3000, "--price", 3, "--mfu", "0.4", "--json"))
    # 1,000 hours of 989 TFLOP/s at 40 %.
    assert found["budget"]["flops"]["expected"] == pytest.approx(1000 * 3600 * 989e12 * 0.4)
    assert {u["name"] for u in found["budget"]["assumptions"]} == {"usd_per_hour", "peak_flops", "mfu"}
    hours = json.loads(call("plan", "scaling", "--device-hours", 1000, "--mfu", "0.4", "--json"))
    assert hours["budget"]["flops"] == found["budget"]["flops"]


def test_scaling_for_a_person():
    text = call("plan", "scaling", "--parameters", "70B", "--law", "besiroglu", "--law", "kaplan")
    assert "1.29 T" in text
    assert "hoffmann-1" not in text
    assert "never losses" in text


def test_pages_are_whole_and_need_no_network(tmp_path, points):
    call("plan", "scaling", "--flops", "1e21", "--served-tokens", "1T", "--html", tmp_path / "s.html")
    call("plan", "fit", points, "--predict", "100M:2B", "--resamplings", 20, "--html", tmp_path / "f.html")
    for name, words in (("s.html", ("Scaling-law plot", "Smaller, for cheaper serving", "Besiroglu")),
                        ("f.html", ("Scaling-law plot", "Constants", "Predictions"))):
        page = (tmp_path / name).read_text("utf-8")
        assert all(word in page for word in words)
        assert page.count("<svg") >= 2
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert 'src="http' not in page
        assert "nan" not in page.lower().replace("finance", "")


def test_a_fit_from_a_table(tmp_path, points):
    found = json.loads(call("plan", "fit", points, "--predict", "100M:2B", "--hold-out", "--resamplings", 20,
                            "--out", tmp_path / "law.json", "--json"))
    assert set(found) == {"law", "intervals", "relative_error", "points", "warnings", "predictions", "held_out",
                          "rejected"}
    assert len(found["points"]) == 9
    assert len(found["held_out"]) == 3
    assert all(abs(row["relative_error"]) < 0.02 for row in found["held_out"])
    assert set(found["predictions"][0]["loss"]) == INTERVAL
    assert found["predictions"][0]["loss"]["expected"] == pytest.approx(BESIROGLU.loss(1e8, 2e9), rel=0.02)
    # The law can be planned with.
    text = call("plan", "scaling", "--flops", "1e18", "--law", tmp_path / "law.json")
    assert "your own (law.json)" in text


def test_a_fit_for_a_person(points):
    text = call("plan", "fit", points, "--resamplings", 20, "--predict", "100M:2B")
    assert "fitted on 12 runs" in text
    assert "95 % interval" in text
    assert "predicted loss of 100 M parameters on 2 B tokens" in text


@pytest.mark.parametrize(("arguments", "says"), [
    ((), "give exactly one of --flops"),
    (("--flops", "1e20", "--tokens", "1B"), "--flops, --tokens"),
    (("--flops", "-1"), "no positive number"),
    (("--flops", "many"), "no positive number"),
    (("--flops", "1e20", "--law", "newton"), "the law 'newton' is not known"),
    (("--budget-usd", "100", "--hardware", "abacus"), "abacus"),
    (("--flops", "1e20", "--unique-tokens", "0"), "no positive number"),
])
def test_nonsense_to_scaling_is_refused(arguments, says):
    assert says in refused("plan", "scaling", *arguments).replace("\n", " ")


def test_nonsense_to_fit_is_refused(tmp_path, points):
    assert "no SIZE:TOKENS" in refused("plan", "fit", points, "--predict", "100M")
    assert "no such run" in refused("plan", "fit", "nothing")
    few = tmp_path / "few.csv"
    few.write_text("\n".join(points.read_text().splitlines()[:5]))
    assert "4 points are too few" in refused("plan", "fit", few)
    line = tmp_path / "line.csv"
    line.write_text("parameters,tokens,loss\n" + "\n".join(f"{n},{20 * n},{BESIROGLU.loss(n, 20 * n)}" for n in (
        1e5, 2e5, 4e5, 8e5, 1.6e6, 3.2e6, 6.4e6)))
    assert "rise together in all runs" in refused("plan", "fit", line).replace("\n", " ")
