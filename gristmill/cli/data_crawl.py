"""`gristmill data crawl`: a polite crawl of web sites into web archives, by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Start = Annotated[list[str], typer.Argument(metavar="URL...", help="Where to begin: http(s) addresses.")]
Into = Annotated[Path, typer.Option(help="The folder for the archives; an interrupted crawl there goes on.")]
Contact = Annotated[str, typer.Option(help="A mail address or web page of yours; it goes into every request.")]
Scope = Annotated[str, typer.Option(
    help="host: the hosts of the start addresses; domain: also hosts below them; prefix: what begins as a start "
         "address does; any: wherever links lead.")]
Pages = Annotated[int, typer.Option(min=1, help="Pages that are asked for altogether.")]
Depth = Annotated[int, typer.Option(min=0, help="Links from a start address to the farthest page.")]
Delay = Annotated[float, typer.Option(
    min=0, help="Seconds between two requests to a host; a longer Crawl-delay in its robots.txt stands over this.")]
Include = Annotated[list[str] | None, typer.Option(help="A regular expression that must be found in an address.")]
Exclude = Annotated[list[str] | None, typer.Option(help="A regular expression that must not be found in one.")]
Sitemaps = Annotated[bool, typer.Option("--sitemaps", help="Read the sitemaps that robots.txt files name, too.")]
Earlier = Annotated[Path | None, typer.Option(
    help="The folder of an earlier crawl: pages are asked for only if they changed since.")]
Allow = Annotated[list[str] | None, typer.Option(
    metavar="ADDRESS", help="An address or network that is private and may be crawled all the same: 10.1.0.0/16.")]
Settings = Annotated[list[str] | None, typer.Option(
    "--set", metavar="KEY=VALUE", help="Any other setting, as in a recipe: limits.page_mb=20, network.ca_file=my.pem.")]
Seed = Annotated[int, typer.Option(help="Another seed spreads pauses after failures otherwise.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")]


def command(start: Start, into: Into, contact: Contact, scope: Scope = "host", pages: Pages = 1000, depth: Depth = 10,
            delay: Delay = 1.0, include: Include = None, exclude: Exclude = None, sitemaps: Sitemaps = False,
            earlier: Earlier = None, allow: Allow = None, setting: Settings = None, seed: Seed = 0,
            as_json: AsJson = False) -> None:
    """Fetch the pages of web sites politely into web archives, which the source `warc` reads.

    robots.txt is always obeyed, one request at a time goes to a host, private addresses are refused. Stop it with
    Ctrl-C (or kill it) and give the same command again: it goes on, and no page that was kept is fetched twice.

    Example:  gristmill data crawl https://example.org/ --into pages/ --contact you@example.org --pages 200
    """
    from gristmill.core import interrupt
    from gristmill.core.progress import for_stream
    from gristmill.data.crawl.crawler import crawl

    config = _config({
        "start": start, "contact": contact, "scope": scope, "pages": pages, "depth": depth, "sitemaps": sitemaps,
        "politeness": {"delay": delay},
        **({"include": include} if include else {}), **({"exclude": exclude} if exclude else {}),
        **({"network": {"allow": allow}} if allow else {}), **({"earlier": str(earlier)} if earlier else {}),
    }, setting or [])
    with interrupt.handlers():
        result = crawl(config, into, seed=seed, earlier=earlier, progress=for_stream())
    typer.echo(json.dumps(result.summary) if as_json else _text(result.summary, into))


def _config(body: dict[str, Any], settings: list[str]) -> Any:
    """The stage `crawl` with these settings, read and checked as a recipe is."""
    from gristmill.recipe import load_recipe

    recipe = {"name": "crawl", "stages": {"crawl": {"uses": "crawl", **body}}}
    return load_recipe(recipe, [f"stages.crawl.{text}" for text in settings]).stages["crawl"]


def _text(summary: dict[str, Any], into: Path) -> str:
    size = f"{summary['bytes'] / 1e6:,.1f} MB in {summary['requests']:,} requests"
    lines = [f"{summary['pages']:,} pages of {summary['hosts']:,} hosts are in {into} ({size})"]
    if summary["unchanged"]:
        lines.append(f"{summary['unchanged']:,} of them have not changed since the earlier crawl")
    if summary["redirects"]:
        lines.append(f"{summary['redirects']:,} redirects were followed")
    if summary["left_out"]:
        lines.append("left out (each address with its reason in rejects.parquet):")
        lines += [f"  {reason:40} {count:>10,}" for reason, count in summary["left_out"].items()]
    return "\n".join(lines)
