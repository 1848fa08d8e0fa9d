"""What README and docs tell people to type is true: recipes load, commands and options exist, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from gristmill.cli.app import app
from gristmill.recipe import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^(?:\.venv/bin/)?(gristmill [^#\n`]+)", re.MULTILINE)


def blocks(language: str) -> list[tuple[str, str]]:
    return [(page.name, body) for page in PAGES for kind, body in BLOCK.findall(page.read_text("utf-8"))
            if kind == language]


@pytest.mark.parametrize(("page", "text"), [(p, t) for p, t in blocks("yaml") if t.startswith("name:")])
def test_recipes_in_the_docs_load(page, text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    assert load_recipe(tmp_path / "recipe.yaml").stages


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda p: p.name)
def test_shipped_recipes_load(recipe):
    assert load_recipe(recipe).stages


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        inline = re.findall(r"`(gristmill [^`]+)`", text)
        listed = [c for _, body in BLOCK.findall(text) for c in COMMAND.findall(body)]
        found += [(page.name, c.strip()) for c in [*listed, *inline] if "..." not in c]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_in_the_docs_are_real(page, line):
    words = shlex.split(line.split(">")[0])[1:]
    group = typer.main.get_command(app)
    command = group.commands.get(words[0])  # type: ignore[attr-defined]
    while hasattr(command, "commands") and len(words) > 1:  # gristmill plan train ...
        command, words = command.commands.get(words[1]), words[1:]
    assert command is not None, f"{page}: {line}"
    # What stands after `--` is handed on to `gristmill run`.
    own, handed_on = (words, []) if "--" not in words else (words[:words.index("--")], words[words.index("--"):])
    run = group.commands["run"]  # type: ignore[attr-defined]
    for options, taker in ((own[1:], command), (handed_on[1:], run)):
        known = {option for p in taker.params for option in [*p.opts, *p.secondary_opts]}
        used = [w.split("=")[0] for w in options if w.startswith("--")]
        assert set(used) <= known | {"--help"}, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_that_the_docs_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:`|^)make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page.name, target)
