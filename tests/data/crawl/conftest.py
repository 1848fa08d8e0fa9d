"""Sites on this machine and crawls of them."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest

from gristmill.data.crawl.crawler import crawl
from gristmill.data.crawl.settings import Limits, Network, Politeness
from gristmill.data.crawl.stage import Crawl
from tests.data.crawl.site_server import Site
from tests.shared import HANG


@pytest.fixture
def site():
    """Makes sites: `site(pages, pause=..., certificate=...)`."""
    made: list[Site] = []

    def make(pages=None, *, pause=0.0, certificate=""):
        made.append(Site(dict(pages or {}), pause).start(certificate))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def run(tmp_path):
    """Crawls: `run(site or address, ...)` gives the folder and the summary; quick and on this machine by default."""

    def do(start, *, folder="crawl", limits=None, politeness=None, network=None, resolver=None, earlier=None, seed=0,
           **fields):
        starts = [one if isinstance(one, str) else one.url + "/" for one in
                  (start if isinstance(start, list) else [start])]
        config = Crawl(
            start=starts, contact="tests@example.org", **fields,
            limits=dataclasses.replace(Limits(silence_seconds=HANG, total_seconds=HANG), **(limits or {})),
            politeness=dataclasses.replace(Politeness(delay=0, backoff=0.05), **(politeness or {})),
            network=dataclasses.replace(Network(allow=["127.0.0.1"]), **(network or {})))
        place = tmp_path / folder
        more = {"resolver": resolver} if resolver else {}
        return place, crawl(config, place, seed=seed, earlier=earlier, **more).summary

    return do


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 and localhost that nobody has signed, with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:site.test", "-keyout", str(folder / "key.pem"),
         "-out", str(folder / "cert.pem")], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"openssl cannot make a certificate here: {done.stderr[-200:]}")
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both, folder / "cert.pem"
