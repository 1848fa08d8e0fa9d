"""Personal data: MB a second beside datatrove's PIIFormatter on the same documents, and recall on planted values.

    python benchmarks/data_pii.py [--datatrove PYTHON] [--documents 1500] [--rounds 5] [--planted 400] [--out F]

PYTHON: of an environment with datatrove 0.10.1; without it only ours is measured. Documents: pieces of about 3 kB of
the novels and web pages of the shared test data. Each side is a process of its own that answers in turn; CPU time,
taken inside, medians. `same kinds` is ours with e-mail and IP addresses only, which is what datatrove looks for.
`hostile` is a text of 10 kB without one address, `a!a!...`: how long an unlucky document takes.

Recall: valid values in usual forms, made with the check digits of python-stdnum and the numbers of phonenumbers, are
put into real passages, one each; a value is found if a span of its kind covers it.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import itertools
import json
import os
import platform
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HOSTILE = "a!" * 5_000
Work = Callable[[list[str]], Any]


def theirs() -> Work:
    from datatrove.pipeline.formatters import PIIFormatter

    formatter = PIIFormatter()
    return lambda texts: [formatter.format(text) for text in texts]


def ours(kinds: list[str] | None) -> Work:
    from gristmill.data.pii import Pii, masked

    options = Pii(kinds=kinds) if kinds else Pii()  # type: ignore[arg-type]
    masked("call +44 20 7946 1234 or 020 7946 1234", options)  # patterns are built on first use
    return lambda texts: [masked(text, options)[0] for text in texts]


def serve(side: str, documents: str) -> None:
    """Answer lines that name a text set with a line of JSON, until there are no more."""
    sys.path.insert(0, str(ROOT))
    work = theirs() if side == "datatrove" else ours(["email", "ip"] if side == "same kinds" else None)
    texts: list[str] = json.loads(Path(documents).read_text("utf-8"))
    for line in sys.stdin:
        chosen = [HOSTILE] if line.strip() == "hostile" else texts
        began = time.process_time()
        cleaned = work(chosen)
        print(json.dumps({"seconds": time.process_time() - began, "sha256": digest(chosen),
                          "changed": sum(a != b for a, b in zip(chosen, cleaned, strict=True))}), flush=True)


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


class Side:
    def __init__(self, side: str, python: str, documents: Path) -> None:
        self.process = subprocess.Popen(
            [python, __file__, "--serve", side, "--file", str(documents)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})

    def ask(self, question: str) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def speed(texts: list[str], pythons: dict[str, str], rounds: int) -> list[dict[str, Any]]:
    size = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "documents.json"
        file.write_text(json.dumps(texts), "utf-8")
        sides = {name: Side(name, python, file) for name, python in pythons.items()}
        seconds: dict[tuple[str, str], list[float]] = {}
        changed: dict[str, int] = {}
        for turn in range(rounds + 1):  # the first warms up
            for question in ("documents", "hostile"):
                for name, side in sides.items():
                    answer = side.ask(question)
                    assert answer["sha256"] == digest([HOSTILE] if question == "hostile" else texts)
                    if question == "documents":
                        changed[name] = answer["changed"]
                    if turn:
                        seconds.setdefault((name, question), []).append(answer["seconds"])
        for side in sides.values():
            side.close()
    results = []
    for name in sides:
        if name == "datatrove":
            continue
        took = seconds[name, "documents"]
        found: dict[str, Any] = {"name": name, "unit": "MB/s per core", "runs": rounds,
                                 "ours": round(size / statistics.median(took), 2), "changed_documents": changed[name],
                                 "hostile_seconds": round(statistics.median(seconds[name, "hostile"]), 4)}
        if "datatrove" in sides:
            peer = seconds["datatrove", "documents"]
            ratios = [b / a for a, b in zip(took, peer, strict=True)]
            found |= {"peer": "datatrove", "peer_version": "0.10.1", "theirs": round(size / statistics.median(peer), 2),
                      "ratio": round(statistics.median(ratios), 2),
                      "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
                      "their_changed_documents": changed["datatrove"],
                      "their_hostile_seconds": round(statistics.median(seconds["datatrove", "hostile"]), 4)}
        results.append(found)
    return results


def planted_values(chance: random.Random) -> dict[str, Callable[[], tuple[str, str]]]:
    """kind -> (words before, value) in one of the usual forms."""
    import phonenumbers
    from stdnum import iban as ibans
    from stdnum import luhn

    def digits(count: int) -> str:
        return "".join(chance.choice(string.digits) for _ in range(count))

    def word() -> str:
        return "".join(chance.choice(string.ascii_lowercase) for _ in range(chance.randrange(3, 9)))

    def email() -> tuple[str, str]:
        local = chance.choice(["{0}", "{0}.{1}", "{0}_{1}", "{0}{2}", "{0}-{1}", "{0}+{1}"]).format(word(), word(),
                                                                                                    digits(2))
        domain = chance.choice(["{0}.com", "{0}.org", "mail.{0}.co.uk", "{0}-{1}.de", "{0}.io", "{0}.edu"])
        return chance.choice(["", "email: ", "mailto:", "<"]), f"{local}@{domain.format(word(), word())}"

    def phone(national: bool, named: bool = False) -> tuple[str, str]:
        from gristmill.data.pii import Pii
        while True:
            region = chance.choice(Pii().regions if national else sorted(phonenumbers.SUPPORTED_REGIONS))
            kind = chance.choice([phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE])
            number = phonenumbers.example_number_for_type(region, kind)
            if number is None:
                continue
            value = str(number.national_number)
            number.national_number = int(value[:-4] + digits(4))
            if not phonenumbers.is_valid_number(number) or "55501" in value:
                continue
            form = phonenumbers.PhoneNumberFormat
            style = form.NATIONAL if national else chance.choice([form.INTERNATIONAL, form.E164])
            said = phonenumbers.format_number(number, style)
            if not national and chance.random() < 0.3:
                said = said.replace(" ", chance.choice(["-", "."]))
            return "" if not named else chance.choice(["Tel: ", "call ", "phone ", "Fax. "]), said

    def ip() -> tuple[str, str]:
        if chance.random() < 0.3:
            return "", "2a0" + ":".join([digits(1), *(f"{chance.randrange(1, 65536):x}" for _ in range(7))])
        return chance.choice(["", "from ", "IP "]), f"{chance.randrange(11, 99)}." + ".".join(
            str(chance.randrange(10, 255)) for _ in range(3))

    def card() -> tuple[str, str]:
        prefix, size = chance.choice([("4", 16), ("51", 16), ("55", 16), ("34", 15), ("37", 15), ("6011", 16),
                                      ("3530", 16)])
        number = prefix + digits(size - len(prefix) - 1)
        number += luhn.calc_check_digit(number)
        form = chance.choice(["", " ", "-"])
        groups = (4, 6, 5) if size == 15 else (4, 4, 4, 4)
        cuts = [sum(groups[:place]) for place in range(len(groups) + 1)]
        return chance.choice(["", "card "]), form.join(number[a:b] for a, b in itertools.pairwise(cuts))

    def iban() -> tuple[str, str]:
        country, form = chance.choice([("DE", 18), ("GB", 0), ("FR", 23), ("NL", 0), ("ES", 20), ("PL", 24),
                                       ("AT", 16), ("CH", 17)])
        body = digits(form) if form else {"GB": f"BARC{digits(14)}", "NL": f"INGB{digits(10)}"}[country]
        number = country + ibans.calc_check_digits(f"{country}00{body}") + body
        return chance.choice(["", "IBAN "]), ibans.format(number) if chance.random() < 0.5 else number

    return {"email": email, "phone, international": lambda: phone(False), "phone, national": lambda: phone(True),
            "phone, national, behind a word": lambda: phone(True, True),
            "ip": ip,
            "card": card, "iban": iban, **planted_ids(chance, digits), "wallet": lambda: ("", _bitcoin(chance))}


def planted_ids(chance: random.Random, digits: Callable[[int], str]) -> dict[str, Callable[[], tuple[str, str]]]:
    """The ids of ten countries: those taken anywhere, and those that need a word before them, with it."""
    from stdnum.br import cpf
    from stdnum.es import dni
    from stdnum.fr import nir
    from stdnum.in_ import aadhaar
    from stdnum.nl import bsn
    from stdnum.pl import pesel
    from stdnum.us import ssn

    def until(make: Callable[[], str], good: Callable[[str], bool]) -> str:
        while True:
            if good(number := make()):
                return number

    def day(form: str) -> str:
        return form.format(chance.randrange(50, 99), chance.randrange(1, 13), chance.randrange(1, 29))

    def anywhere() -> tuple[str, str]:
        kind = chance.randrange(4)
        if kind == 0:
            return "", ssn.format(until(lambda: digits(9), ssn.is_valid))
        if kind == 1:
            return "", cpf.format(until(lambda: digits(11), cpf.is_valid))
        if kind == 2:
            number = digits(8)
            return "", number + dni.calc_check_digit(number)
        number = chance.choice("12") + day("{0:02d}{1:02d}") + "75" + digits(6)
        return "", nir.format(number + nir.calc_check_digits(number))

    def named() -> tuple[str, str]:
        kind = chance.randrange(3)
        if kind == 0:
            return chance.choice(["BSN ", "burgerservicenummer: "]), until(lambda: digits(9), bsn.is_valid)
        if kind == 1:
            return "PESEL: ", until(lambda: day("{0:02d}{1:02d}{2:02d}") + digits(5), pesel.is_valid)
        return "Aadhaar number ", aadhaar.format(until(lambda: digits(12), aadhaar.is_valid))

    return {"national id": anywhere, "national id behind its name": named}


def _bitcoin(chance: random.Random) -> str:
    data = b"\0" + chance.randbytes(20)
    data += hashlib.sha256(hashlib.sha256(data).digest()).digest()[:4]
    value, text = int.from_bytes(data, "big"), ""
    while value:
        value, rest = divmod(value, 58)
        text = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[rest] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def recall(texts: list[str], count: int) -> list[dict[str, Any]]:
    """How many planted values of each kind are found, whole and at all."""
    from gristmill.data.pii import find

    chance = random.Random(0)
    results = []
    for name, make in planted_values(chance).items():
        kind = {"national id": "national_id", "national id behind its name": "national_id"}.get(name,
                                                                                                name.split(",")[0])
        counts = Counter[str]()
        for _ in range(count):
            before, value = make()
            words = chance.choice(texts)[:1500].split(" ")
            place = chance.randrange(1, len(words)) if len(words) > 1 else 0
            text = " ".join(words[:place]) + f" {before}"
            start, end = len(text), len(text) + len(value)
            text += value + chance.choice(["", ".", ",", ")"]) + " " + " ".join(words[place:])
            spans = [span for span in find(text) if span.start < end and start < span.end]
            counts["found"] += any(span.kind == kind and span.start <= start and end <= span.end for span in spans)
            counts["whole"] += any((span.kind, span.start, span.end) == (kind, start, end) for span in spans)
            counts["any"] += bool(spans)
        results.append({"name": f"recall: {name}", "planted": count,
                        **{key: counts[key] / count for key in ("found", "whole", "any")}})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datatrove", help="Python of an environment with datatrove 0.10.1")
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--planted", type=int, default=400, help="values of each kind; 0 leaves recall out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the results to this file")
    parser.add_argument("--serve", choices=("datatrove", "same kinds", "all kinds"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.file)
    sys.path.insert(0, str(ROOT))
    from tests.data.signals.documents import real_documents

    texts = real_documents(options.documents)
    pythons = {"same kinds": sys.executable, "all kinds": sys.executable}
    if options.datatrove:
        pythons["datatrove"] = options.datatrove
    results = speed(texts, pythons, options.rounds) + (recall(texts, options.planted) if options.planted else [])
    for found in results:
        print(json.dumps(found) if options.json else ", ".join(f"{key} {value}" for key, value in found.items()))
    if options.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                                check=False).stdout.strip()
        options.out.write_text(json.dumps({
            "date": datetime.date.today().isoformat(), "commit": commit, "processor": platform.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(), "documents": len(texts), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
