"""Jobs for the tests of this room."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from gristmill.pipeline.launch.job import Job

RECIPE = "name: toy\nseed: 1\nstages: {}\n"


def job(**given: Any) -> Job:
    return Job(**{"name": "toy", "recipe": "recipes/toy.yaml", "workdir": "/work/place", "recipe_text": RECIPE,
                  **given})


NASTY = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.sampled_from([
        "a b", "it's", 'say "so"', "$(touch broken)", "`touch broken`", "${HOME}", "$$", "$$(X)", "a\nb",
        "a\n#SBATCH -N 9", "\n", "!x", "\\", "\\n", "* ? [a]", "~", "; exit 7", "&& false", "é 漢 🙂", "\x85",
        "\u2028", "\ufeffx", "1e3", "0o7", "yes", "y", "null", "- a", "a: b", "# x", "%TAG", "|", "'", '"', "\t x",
        " x ", "a\r\nb", "=", "--x=", "EOF", "@{}", "}}", "\x7f", "\x1b[0m"]))
"""Texts that break out of careless quoting."""

PATHS = NASTY.map(lambda text: "/p/" + text)
VARIABLES = st.dictionaries(st.from_regex(r"\A[A-Z_][A-Z0-9_]{0,5}\Z").map(lambda name: f"V_{name}"), NASTY, max_size=3)
