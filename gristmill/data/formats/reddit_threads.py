"""Threads put together from a stream of posts and comments, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gristmill.data.documents import Document

_COST = 500
"""Bytes of memory of a post beside its text."""


@dataclass(slots=True)
class Post:
    """A post or comment as a document, with the names of itself, of what it answers and of its thread. opens: is it
    the post that the thread is about?"""

    document: Document
    name: str
    parent: str
    thread: str
    opens: bool


@dataclass(slots=True)
class _Thread:
    posts: list[Post] = field(default_factory=list)
    size: int = 0


class Threads:
    """Gathers posts; a thread comes out at the end, or when more than `memory` bytes are held and it is the one that
    was added to longest ago. What comes out depends on nothing but the posts and their order."""

    def __init__(self, memory: int) -> None:
        self.memory, self.held = memory, 0
        self.open: dict[str, _Thread] = {}

    def add(self, post: Post) -> Iterator[Document]:
        """Take a post; gives the threads that had to go."""
        thread = self.open.pop(post.thread, None) or _Thread()
        self.open[post.thread] = thread  # now the last
        size = 4 * len(post.document.text) + _COST
        thread.posts.append(post)
        thread.size += size
        self.held += size
        while self.held > self.memory and self.open:
            name = next(iter(self.open))
            oldest = self.open.pop(name)
            self.held -= oldest.size
            yield _document(oldest.posts, whole=False)

    def rest(self) -> Iterator[Document]:
        """All that is left, the longest waiting first."""
        for thread in self.open.values():
            yield _document(thread.posts, whole=True)
        self.open.clear()
        self.held = 0


def _document(posts: list[Post], *, whole: bool) -> Document:
    """A thread as one document: what opens it, then each reply below what it answers, those of equal rank in order."""
    first = posts[0].document
    names = {post.name for post in posts}
    replies: dict[str, list[Post]] = {}
    roots: list[Post] = []
    for post in posts:
        if post.opens or post.parent not in names or post.parent == post.name:
            roots.append(post)
        else:
            replies.setdefault(post.parent, []).append(post)
    roots.sort(key=lambda post: not post.opens)
    ordered: list[Post] = []
    waiting = roots[::-1]
    while waiting:  # not recursive: replies may be 100,000 deep
        post = waiting.pop()
        ordered.append(post)
        waiting += replies.pop(post.name, [])[::-1]
    for left in replies.values():  # replies in a circle
        ordered += left
    opening = next((post.document for post in ordered if post.opens), first)
    metadata = {**opening.metadata, **{key: first.metadata[key] for key in ("path", "offset")},
                "messages": len(posts), "group": posts[0].thread, "whole": whole}
    metadata.pop("parent", None)
    return Document(first.id, "\n\n".join(post.document.text for post in ordered), first.source, opening.domain,
                    first.language, metadata)
