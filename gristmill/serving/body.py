"""Reading request bodies with a bound."""

from __future__ import annotations

import asyncio

from fastapi import Request

from gristmill.serving.errors import ApiError

PATIENCE_BYTES = 16 * 1024 * 1024
PATIENCE_SECONDS = 2.0
"""So much of a body that is too long is read and thrown away, for so long at most: a client that is still sending when
the connection closes would see a reset instead of the answer."""


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; ApiError 413 where it is longer than `limit` bytes, which are never kept."""
    parts, size = [], 0
    declared = request.headers.get("content-length", "0")
    if (declared.isdigit() and int(declared[:20]) <= limit) or not declared.isdigit():
        async for part in request.stream():
            size += len(part)
            if size > limit:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    parts.clear()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit + PATIENCE_BYTES:
                    break
    except TimeoutError:
        pass
    raise ApiError(413, f"The body is longer than {limit} bytes.", code="body_too_large")
