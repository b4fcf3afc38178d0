"""Bodies that come and go in pieces: what operations marked `stream=True` are given, and what they may answer.

They stand outside what other operations have around them: their body is not read before they run, their answer is sent while
it is made, and sending is free of the call's deadline. REST alone has them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol


class Transfer(Protocol):
    """One request beside its fields; the `transfer` of the call of a streaming operation."""

    method: str
    """HEAD for a GET whose answer's body nobody wants; the host drops it, so a Stream may be answered all the same."""
    content_type: str
    """Of the body, as sent; empty when nothing was."""
    length: int | None
    """Bytes of the body, None when they were not announced."""
    byte_range: str
    """The field Range (RFC 9110, section 14.2), empty without one."""
    if_none_match: str
    """The field If-None-Match, empty without one; If-Match is `call.if_match`."""
    last_event_id: str
    """The field Last-Event-ID (HTML, server-sent events), empty without one."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body, once, in pieces as they come.

        Raises:
            Unreadable: code `malformed_body`: it broke off.
            DeadlinePassed: nothing came for 30 s.
        """
        ...


class Stream:
    """An answer that is sent in pieces: `async def download(self, call: Call, request: Ref) -> Stream`.

    `chunks` is read no faster than the client reads; a client that reads nothing for 60 s is dropped. `length` is what they
    have together; without it the client still notices an answer that broke off. `close` is called in any case, also when
    nothing was read.

    One that is `endless` goes on until its client leaves, and the host ends it when its plugin or worker is about to stop, so
    that nobody waits for it; clients come again. Before each piece its caller is asked for anew: whose session, key or
    permission is gone gets no further one. It counts among the requests in flight only until it begins; whoever makes such
    streams bounds how many there are, and sends something now and then, so that clients that have gone are noticed.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        content_type: str,
        length: int | None = None,
        status: int = 200,
        headers: tuple[tuple[str, str], ...] = (),
        close: Callable[[], Awaitable[None]] | None = None,
        endless: bool = False,
    ) -> None:
        self.chunks = chunks
        self.content_type = content_type
        self.length = length
        self.status = status
        self.headers = headers
        self.close = close
        self.endless = endless
