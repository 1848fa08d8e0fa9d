"""What is said of input that cannot be read: a reason in snake_case, as a Reject has it, and the detail."""

from __future__ import annotations


class Damaged(Exception):
    """This cannot be read further."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail

    @property
    def said(self) -> tuple[str, str]:
        """The reason and the detail."""
        return self.reason, self.detail
