"""The page itself: sections in their order, one template each, escaped throughout, with no way out to any network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gristmill.core.errors import UserError
from gristmill.core.files import write_atomic
from gristmill.pipeline.report import account, assessment, corpus, overview, predictions, training
from gristmill.pipeline.report.formatting import FILTERS
from gristmill.pipeline.report.run import Missing, Run, read_run

TEMPLATES = Path(__file__).parent / "templates"
SECTIONS: tuple[tuple[str, str, Callable[[Run], dict[str, Any]]], ...] = (
    ("timeline", "What happened", overview.timeline),
    ("lineage", "Lineage", overview.lineage),
    ("data", "Data", corpus.data),
    ("tokenizer", "Tokenizer", corpus.tokenizers),
    ("training", "Training", training.training),
    ("predictions", "Predicted and actual", predictions.predictions),
    ("trace", "Prediction trace", training.trace),
    ("adaptation", "Fine-tuning and preferences", assessment.adaptation),
    ("evaluation", "Evaluation", assessment.evaluation),
    ("samples", "Samples", assessment.samples),
    ("costs", "Costs", account.costs),
    ("reproduce", "Reproduce", account.reproduce),
)


@dataclass(frozen=True)
class Section:
    """A part of the page; missing: the one line that stands for it when its input is not there."""

    id: str
    title: str
    body: Markup
    missing: str = ""


def write_report(run_folder: Path) -> Path:
    """Write `run_folder/report.html` atomically; the same run gives the same bytes. Returns its path.

    Raises UserError where no run lies.
    """
    path = Path(run_folder) / "report.html"
    write_atomic(path, storable(render(read_run(run_folder))))
    return path


def storable(text: str) -> str:
    """Text as a page can hold it: models may leave halves of characters and zero bytes."""
    return text.replace("\x00", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def render(run: Run) -> str:
    """The page as text."""
    templates = environment()
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    # The script is allowed by its digest: even a text that escaped its place could not run.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = _section(templates, run, "headline", "Overview", overview.headline)
    sections = [_section(templates, run, *entry) for entry in SECTIONS]
    return templates.get_template("page.html.jinja").render(
        run=run, head=head, sections=sections, policy=policy, script=Markup(script), style=Markup(style)
    )


def environment() -> jinja2.Environment:
    """Our own templates, every value escaped."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters.update({**FILTERS, "flops": account.flops})
    return found


def _section(
    templates: jinja2.Environment, run: Run, name: str, title: str, build: Callable[[Run], dict[str, Any]]
) -> Section:
    """A section whose input is missing or broken says so; the rest of the page does not suffer from it."""
    try:
        values = build(run)
        return Section(name, title, Markup(templates.get_template(f"{name}.html.jinja").render(run=run, **values)))
    except Missing as missing:
        return Section(name, title, Markup(), str(missing))
    except UserError as error:
        where = Path(error.where).name if error.where else name
        return Section(name, title, Markup(), f"This part cannot be shown: {where}: {error.what}.")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, jinja2.UndefinedError) as error:
        return Section(
            name,
            title,
            Markup(),
            f"This part cannot be shown, its input has an unknown shape ({type(error).__name__}: {error}).",
        )
