"""Stated licences: golden pages and sentences, and what is no statement."""

from __future__ import annotations

import pytest

from gristmill.data.signals.licences import PUBLIC_DOMAIN, RESERVED, is_open, license_v1, stated_license
from tests.shared import comes_to_an_end

STATED = [
    ("This work is licensed under CC BY 4.0.", "CC-BY-4.0"),
    ("Text is available under the Creative Commons Attribution-ShareAlike License 3.0; additional terms may apply.",
     "CC-BY-SA-3.0"),
    ("Released under a Creative Commons Attribution-NonCommercial-NoDerivatives 4.0 International License.",
     "CC-BY-NC-ND-4.0"),
    ("Licensed under CC-BY-SA.", "LicenseRef-CC-BY-SA"),
    ("Content: https://creativecommons.org/licenses/by-nc/2.5/", "CC-BY-NC-2.5"),
    ('<a rel="license" href="http://creativecommons.org/licenses/by-nc-sa/3.0/de/">here</a>', "CC-BY-NC-SA-3.0-DE"),
    ('<a href="http://creativecommons.org/licenses/by/3.0/fr/" rel="license">here</a>', "CC-BY-3.0"),
    ('<meta name="dc.rights" content="https://creativecommons.org/licenses/by-nd/4.0/">', "CC-BY-ND-4.0"),
    ('<script type="application/ld+json">{"license": "https://creativecommons.org/publicdomain/zero/1.0/"}</script>',
     "CC0-1.0"),
    ("https://creativecommons.org/publicdomain/mark/1.0/deed.en", "CC-PDM-1.0"),
    ("Data released under CC0.", "CC0-1.0"),
    ("# SPDX-License-Identifier: MIT OR Apache-2.0\nx = 1", "MIT OR Apache-2.0"),
    ("Licensed under the Apache License, Version 2.0 (the \"License\")", "Apache-2.0"),
    ("Permission is granted under the terms of the GNU Free Documentation License, Version 1.2", "GFDL-1.2"),
    ("The database is made available under the Open Database License.", "ODbL-1.0"),
    ("Dieses Werk ist lizenziert unter CC BY-SA 4.0.", "CC-BY-SA-4.0"),
    ("This work is in the public domain.", PUBLIC_DOMAIN), ("© 2020 Mill Ltd. All rights reserved.", RESERVED),
    ("Alle Rechte vorbehalten", RESERVED),
    ("Licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Logo all rights reserved.", "CC-BY-4.0"),
]
NOT_STATED = [
    "", "Nothing about it.", "We like the CC BY 4.0 licence a lot.", "The public domain is shrinking.",
    "His driving licence, a license to kill",
    "Photo 1: licensed under CC BY 2.0. Photo 2: licensed under CC BY-SA 3.0.",  # two: none holds for all
    "He asked about Creative Commons.", "MIT is in Cambridge; the GPL v3 was written later.",
]


@pytest.mark.parametrize(("text", "expected"), STATED)
def test_stated(text: str, expected: str) -> None:
    assert stated_license(text) == expected
    assert stated_license(f"Some words before it. And more of them.\n{text}\nThe end.") == expected


@pytest.mark.parametrize("text", NOT_STATED)
def test_not_stated(text: str) -> None:
    assert stated_license(text) == ""


@pytest.mark.parametrize(("license", "expected"), [
    ("CC-BY-4.0", True), ("CC-BY-SA-3.0-DE", True), ("CC0-1.0", True), ("LicenseRef-CC-BY", True),
    (PUBLIC_DOMAIN, True), ("MIT", True),
    ("GPL-3.0-or-later", True), ("MIT OR LicenseRef-own", True), ("GPL-2.0-only WITH Classpath-exception-2.0", True),
    ("CC-BY-NC-4.0", False), ("CC-BY-ND-4.0", False), ("CC-BY-NC-SA-3.0", False), ("LicenseRef-CC-BY-NC", False),
    (RESERVED, False),
    ("MIT AND LicenseRef-own", False), ("", False),
])
def test_open(license: str, expected: bool) -> None:
    assert is_open(license) is expected


def test_signal() -> None:
    assert license_v1("Licensed under CC BY-NC-SA 4.0") == {
        "stated": 1, "open": 0, "non_commercial": 1, "no_derivatives": 0, "share_alike": 1, "reserved": 0}
    assert license_v1("© Mill, all rights reserved")["reserved"] == 1
    assert set(license_v1("none").values()) == {0}


@pytest.mark.parametrize("unit", ["CC0 ", "licensed under ", "<a rel=license ", "<a ",
                                  "creativecommons.org/licenses/by", "\"license\":\"",
                                  "available a a a a ", "Creative Commons Attribution-", "© "])
def test_time_is_linear_for_whatever_repeats(unit: str) -> None:
    with comes_to_an_end():
        stated_license(unit * (200_000 // len(unit)))
