"""A client of gRPC that is quicker than any server in Python: prepared HTTP/2 frames on plain sockets, several calls under way on
each connection, header fields indexed after the first call as every client does.

See load.py for why. Usage: `rpc_load.py PORT COUNT ANSWER_BYTES < JSON`, which has `path`, `metadata` and `message` (hex); exit
status 0 when each call was answered with a message of that many bytes, which no refusal is.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

CONNECTIONS, CALLS = 4, 8
SILENCE_S = 20.0
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
FIRST_DYNAMIC = 62
Field = tuple[str, str]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value: str) -> bytes:
    """A text as HPACK has it, not compressed."""
    encoded = value.encode()
    left = len(encoded) - 127
    if left < 0:
        return bytes([len(encoded)]) + encoded
    length = bytearray([127])
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes([*length, left]) + encoded


class Connection:
    """One connection, with calls under way."""

    def __init__(self, port: int, fields: Sequence[Field], message: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._fields, self._message = fields, message
        self._stream, self._rest = 1, b""
        self._lengths: dict[int, int] = {}
        window = frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535))
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"") + window)

    def call(self) -> bytes:
        """The frames of the next call; the first one fills the table of header fields."""
        stream, self._stream = self._stream, self._stream + 2
        first = b"\x83\x86" + b"".join(b"\x40" + text(name) + text(value) for name, value in self._fields)
        known = b"\x83\x86" + bytes(128 | FIRST_DYNAMIC + at for at in reversed(range(len(self._fields))))
        head = frame(HEADERS, END_HEADERS, stream, first if stream == 1 else known)
        body = b"\0" + struct.pack(">I", len(self._message)) + self._message
        return head + frame(DATA, END_STREAM, stream, body)

    def _frames(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        data, at = self._rest + data, 0
        while len(data) - at >= 9:
            length = int.from_bytes(data[at : at + 3])
            if len(data) - at - 9 < length:
                break
            kind, flags, stream = struct.unpack_from(">BBI", data, at + 3)
            yield kind, flags, stream, data[at + 9 : at + 9 + length]
            at += 9 + length
        self._rest = data[at:]

    def ended(self, data: bytes) -> list[int]:
        """The lengths of the messages of the calls that these bytes end; ConnectionError when the server hangs up."""
        found, out = list[int](), b""
        for kind, flags, stream, payload in self._frames(data):
            if kind in (GOAWAY, RESET):
                raise ConnectionError(payload)
            if kind == SETTINGS and not flags & ACK:
                out += frame(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                out += frame(PING, ACK, 0, payload)
            elif kind == DATA:
                self._lengths[stream] = self._lengths.get(stream, -5) + len(payload)
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                found.append(self._lengths.pop(stream, 0))
        if out:
            self.socket.sendall(out)
        return found


def run(port: int, count: int, expected: int, fields: Sequence[Field], message: bytes) -> int:
    """Make `count` calls; how many were answered otherwise."""
    poll, by_descriptor, wrong = select.epoll(), dict[int, Connection](), 0
    to_send, to_read = count, count
    for _ in range(CONNECTIONS):
        connection = Connection(port, fields, message)
        poll.register(connection.socket.fileno(), select.EPOLLIN)
        by_descriptor[connection.socket.fileno()] = connection
        begun = min(CALLS, to_send)
        connection.socket.sendall(b"".join(connection.call() for _ in range(begun)))
        to_send -= begun
    while to_read:
        ready = poll.poll(SILENCE_S)
        if not ready:
            return wrong + to_read
        for descriptor, _ in ready:
            connection = by_descriptor[descriptor]
            data = connection.socket.recv(262_144)
            if not data:
                return wrong + to_read
            lengths = connection.ended(data)
            wrong += sum(length != expected for length in lengths)
            to_read -= len(lengths)
            more = min(len(lengths), to_send)
            to_send -= more
            if more:
                connection.socket.sendall(b"".join(connection.call() for _ in range(more)))
    return wrong


def main() -> int:
    """Read what to ask, and ask."""
    port, count, expected = map(int, sys.argv[1:4])
    asked = json.load(sys.stdin)
    head = [(":path", asked["path"]), (":authority", f"127.0.0.1:{port}"), ("content-type", "application/grpc")]
    more = [("te", "trailers"), ("user-agent", "bench"), ("grpc-timeout", "10S")]
    fields = [*head, *more, *asked["metadata"]]
    return 1 if run(port, count, expected, fields, bytes.fromhex(asked["message"])) else 0


if __name__ == "__main__":
    sys.exit(main())
