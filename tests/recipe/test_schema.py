"""Recipes as typed values, and every message of a wrong one."""

# ruff: noqa: E501  (messages stand whole)

import textwrap

import pytest
import toy_stages

from gristmill.recipe import Recipe, RecipeError, load_recipe
from gristmill.recipe.registry import STAGES


def problems(tmp_path, stages, top="name: toy\n"):
    """The problems of a recipe whose `stages:` are the given lines; the first of them stands on line 3."""
    path = tmp_path / "r.yaml"
    path.write_text(top + "stages:\n" + textwrap.indent(textwrap.dedent(stages), "  "))
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    text = str(error.value)
    assert all(str(problem) in text for problem in error.value.problems)
    return [str(p).replace(str(path), "r.yaml") for p in error.value.problems]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (
            "a: {uses: toy_model, budget: {minuts: 3}}",
            "r.yaml:3: stages.a.budget.minuts: unknown key; did you mean `minutes`? choices: minutes, steps",
        ),
        (
            "a: {uses: toy_model, steps: 3}",
            (
                "r.yaml:3: stages.a.steps: unknown key; it belongs under `budget`, as `budget.steps`; choices: corpus, tokenizer, "
                "start, budget, mode, width, rate, fast, prompts"
            ),
        ),
        (
            'a:\n  uses: toy_model\n  budget:\n    steps: "5"',
            'r.yaml:6: stages.a.budget.steps: expected a whole number, got the text "5"; write 5 without quotes',
        ),
        (
            "a: {uses: toy_model, budget: {steps: 5_000}}",
            'r.yaml:3: stages.a.budget.steps: expected a whole number, got the text "5_000"; write 5000',
        ),
        (
            "a: {uses: toy_model, budget: {steps: 1e3}}",
            "r.yaml:3: stages.a.budget.steps: expected a whole number, got the number 1000.0; write 1000",
        ),
        (
            "a: {uses: toy_model, budget: {steps: 0}}",
            "r.yaml:3: stages.a.budget.steps: must be at least 1, got the number 0",
        ),
        (
            "a: {uses: toy_model, budget: {steps: 1, minutes: 2}}",
            "r.yaml:3: stages.a.budget: give one of minutes, steps",
        ),
        (
            "a: {uses: toy_model, budget: 5}",
            "r.yaml:3: stages.a.budget: expected a mapping with minutes, steps, got the number 5",
        ),
        (
            "a: {uses: toy_model, fast: yes}",
            'r.yaml:3: stages.a.fast: expected true or false, got the text "yes"; `yes` is text in YAML 1.2: write true',
        ),
        ("a: {uses: toy_model, rate: true}", "r.yaml:3: stages.a.rate: expected a number, got the truth value `true`"),
        (
            "a: {uses: toy_model, rate: }",
            "r.yaml:3: stages.a.rate: expected a number, got nothing (null); leave the key out to get its default",
        ),
        (
            "a: {uses: toy_model, prompts: hello}",
            'r.yaml:3: stages.a.prompts: expected a list (text each), got the text "hello"; write [hello] for a list of one',
        ),
        (
            "a: {uses: toy_model, prompts: [a, 1]}",
            'r.yaml:3: stages.a.prompts.1: expected text, got the number 1; write "1" in quotes for the text',
        ),
        (
            "a: {uses: toy_model, mode: plane}",
            (
                'r.yaml:3: stages.a.mode: the text "plane" is not known here; did you mean `plain`? choices: plain, fail, '
                "write_hole, disk_full, nan, memory"
            ),
        ),
        (
            "a: {uses: toy_model, mode: PLAIN}",
            (
                'r.yaml:3: stages.a.mode: the text "PLAIN" is not known here; did you mean `plain`? choices: plain, fail, '
                "write_hole, disk_full, nan, memory"
            ),
        ),
        (
            "a: {uses: toy_model, width: wide}",
            'r.yaml:3: stages.a.width: expected a whole number or one of `auto`, got the text "wide"',
        ),
        ("a: {uses: toy_tokenizer}", "r.yaml:3: stages.a.corpus: required, but missing: the name of a corpus"),
        (
            "a: {uses: toy_corpus, sources: [{kind: fils, path: x}]}",
            'r.yaml:3: stages.a.sources.0.kind: the text "fils" is not known here; did you mean `files`? choices: files, numbers',
        ),
        (
            "a:\n  uses: toy_corpus\n  sources:\n    - {kind: numbers, count: many}",
            'r.yaml:6: stages.a.sources.0.count: expected a whole number, got the text "many"',
        ),
        (
            "a: {uses: toy_corpus, sources: [{path: x, contents: y}]}",
            "r.yaml:3: stages.a.sources.0.kind: required, but missing; choices: files, numbers",
        ),
        (
            "a: {uses: toy_corpus, sources: [python]}",
            'r.yaml:3: stages.a.sources.0: expected a mapping with `kind`, got the text "python"; kind is one of: files, numbers',
        ),
        (
            "a: {uses: toy_corpse}",
            (
                'r.yaml:3: stages.a.uses: unknown stage kind the text "toy_corpse"; did you mean '
                f"`toy_corpus`? choices: {', '.join(STAGES)}"
            ),
        ),
        ("a: {corpus: b}", f"r.yaml:3: stages.a.uses: required, but missing; choices: {', '.join(STAGES)}"),
        ("a: 5", "r.yaml:3: stages.a: expected a mapping with `uses`, got the number 5"),
        (
            "../a: {uses: toy_corpus}",
            (
                "r.yaml:3: stages.../a: cannot be a stage's name; use letters, digits, `.`, `_` and `-`, "
                "at most 64, beginning with a letter, a digit or `_`"
            ),
        ),
        (
            "corpus: {uses: toy_corpus}\nt: {uses: toy_tokenizer, corpus: corpse}",
            "r.yaml:4: stages.t.corpus: there is no stage `corpse`; did you mean `corpus`? stages that make a corpus: corpus",
        ),
        (
            "t: {uses: toy_tokenizer, corpus: corpus}",
            "r.yaml:3: stages.t.corpus: there is no stage `corpus`; no stage here makes a corpus",
        ),
        (
            "corpus: {uses: toy_corpus}\nm: {uses: toy_model}\nt: {uses: toy_tokenizer, corpus: m}",
            "r.yaml:5: stages.t.corpus: `m` makes a model, but a corpus is needed here; stages that make one: corpus",
        ),
        (
            "m: {uses: toy_model, start: m}",
            "r.yaml:3: stages.m.start: the stage `m` refers to itself; name another stage",
        ),
        (
            "a: {uses: toy_model, start: b}\nb: {uses: toy_model, start: c}\nc: {uses: toy_model, start: a}",
            "r.yaml:3: stages.a: stages need each other in a circle: a -> b -> c -> a; remove one reference",
        ),
        (
            "m: {uses: toy_model, start: ./nowhere}",
            "r.yaml:3: stages.m.start: the path `./nowhere` does not exist; give an existing folder, or the name of a stage",
        ),
        (
            "m: {uses: toy_model, start: base@new}",
            "r.yaml:3: stages.m.start: `base@new` is no artifact name; write name@version with a number, such as base@1",
        ),
        (
            "s: {uses: toy_scores, models: [m, n]}\nm: {uses: toy_model}",
            "r.yaml:3: stages.s.models.1: there is no stage `n`; stages that make a model: m",
        ),
    ],
)
def test_each_problem_says_what_where_and_how(tmp_path, stages, expected):
    assert problems(tmp_path, stages) == [expected]


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        (
            "nam: toy\n",
            [
                "r.yaml:1: nam: unknown key; did you mean `name`? choices: name, seed, description, stages",
                "r.yaml:1: name: required, but missing: the run's folder is called so",
            ],
        ),
        (
            "name: ../../etc\n",
            [
                (
                    'r.yaml:1: name: the text "../../etc" cannot be a name; use letters, digits, `.`, `_` and `-`, '
                    "at most 64, beginning with a letter, a digit or `_`"
                )
            ],
        ),
        (
            "name: 5\n",
            [
                (
                    "r.yaml:1: name: the number 5 cannot be a name; use letters, digits, `.`, `_` and `-`, at most 64, "
                    "beginning with a letter, a digit or `_`"
                )
            ],
        ),
        ("name: x\nseed: -1\n", ["r.yaml:2: seed: expected a whole number from 0 to 2^63 - 1, got the number -1"]),
        ("name: x\nseed: abc\n", ['r.yaml:2: seed: expected a whole number from 0 to 2^63 - 1, got the text "abc"']),
        ("name: x\ndescription: [1]\n", ["r.yaml:2: description: expected text, got a list of 1"]),
    ],
)
def test_the_top_of_a_recipe_is_checked(tmp_path, top, expected):
    assert problems(tmp_path, "a: {uses: toy_corpus}", top) == expected


@pytest.mark.parametrize("stages", [{}, None, [], 5])
def test_a_recipe_without_stages_is_refused(stages):
    with pytest.raises(RecipeError, match=r"stages: expected at least one named stage, got .* for example `corpus: "):
        load_recipe({"name": "x", "stages": stages})


def test_all_problems_come_at_once_in_the_order_of_their_lines(tmp_path):
    found = problems(tmp_path, """\
        corpus: {uses: toy_corpus, parts: many, text: 5}
        t: {uses: toy_tokenizer, corpus: corpse}
        m: {uses: toy_model, budget: {minuts: 1, steps: x}, start: n}
        n: {uses: toy_model, start: m, tokenizer: t}
        """)
    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == sorted(lines)
    assert len(found) == 5
    # A stage whose own fields are wrong can still be referred to: no second, misleading problem.
    assert not any("there is no stage `m`" in problem for problem in found)


def test_a_class_that_cannot_be_imported_breaks_only_recipes_that_use_it(monkeypatch, tmp_path):
    monkeypatch.setitem(STAGES, "toy_absent", "package_that_is_not_here.stage:Absent")
    assert load_recipe({"name": "x", "stages": {"a": {"uses": "toy_corpus"}}}).order() == ["a"]
    found = problems(tmp_path, "a: {uses: toy_absent}")
    assert found == [("r.yaml:3: stages.a: the stage kind `toy_absent` needs the package `package_that_is_not_here`; "
                     "pip install package_that_is_not_here")]


def test_python_objects_and_mappings_are_the_same_recipe():
    from_mapping = load_recipe(toy_stages.RECIPE)
    built = Recipe(name="toy", seed=7, stages={
        "scores": toy_stages.ToyScores(models=["base", "tuned"]),
        "corpus": toy_stages.ToyCorpus(parts=2),
        "tokenizer": toy_stages.ToyTokenizer(corpus="corpus"),
        "base": toy_stages.ToyModel(corpus="corpus", tokenizer="tokenizer"),
        "tuned": toy_stages.ToyModel(start="base", budget=toy_stages.ToyBudget(steps=2)),
    })
    assert load_recipe(built) == from_mapping
    assert load_recipe(from_mapping.to_plain()) == from_mapping
    mixed = {**toy_stages.RECIPE, "stages": {**toy_stages.RECIPE["stages"], "corpus": toy_stages.ToyCorpus(parts=2)}}
    assert load_recipe(mixed) == from_mapping


def test_objects_built_in_python_are_checked_as_strictly():
    wrong = Recipe(name="toy", stages={"corpus": toy_stages.ToyCorpus(parts="5")})
    with pytest.raises(RecipeError, match=r"stages.corpus.parts: expected a whole number, got the text"):
        load_recipe(wrong)


def test_values_that_are_no_json_are_refused():
    with pytest.raises(RecipeError, match=r"stages.a: a value cannot be stored as JSON"):
        load_recipe({"name": "x", "stages": {"a": {"uses": "toy_corpus", "text": object()}}})
    with pytest.raises(RecipeError, match=r"stages.a: a value cannot be stored as JSON"):
        load_recipe({"name": "x", "stages": {"a": {"uses": "toy_model", "rate": float("nan")}}})


def test_order_follows_references_and_otherwise_the_file():
    assert load_recipe(toy_stages.RECIPE).order() == ["corpus", "tokenizer", "base", "tuned", "scores"]


def test_an_unknown_source_is_named_with_what_was_meant(tmp_path):
    problem, = problems(tmp_path, "a: {uses: data, sources: [{kind: Python_Stdlib}]}")
    assert 'stages.a.sources.0.kind: the text "Python_Stdlib" is not known here; did you mean `python_stdlib`?' in problem
