"""Personal data in text: found with checks, counted, replaced or reason to drop a document.

`find` gives the places, `masked` the text without them, `examine` what the options say of a document. The patterns
behind these are built when one of them is first used; the options alone load nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gristmill.data.pii.options import CODE_KINDS, KINDS, REASON, Kind, Pii, Span

if TYPE_CHECKING:
    from gristmill.data.pii.masking import Examined, examine, masked
    from gristmill.data.pii.spans import find

__all__ = ["CODE_KINDS", "KINDS", "REASON", "Examined", "Kind", "Pii", "Span", "examine", "find", "masked"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from gristmill.data.pii import masking

        return getattr(masking, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
