"""A client that is quicker than any server here: plain sockets and epoll, one request under way on each connection.

A client that lags behind would be woken for free by a quick server and dearly by a slow one, and the comparison would be
of wake-ups. Usage: `load.py PORT COUNT EXPECTED_STATUS < request`; exit status 0 when every answer was as expected.
"""

from __future__ import annotations

import select
import socket
import sys

CONNECTIONS = 32
SILENCE_S = 20.0


def is_whole(answer: bytes) -> bool:
    """Whether this is one whole answer."""
    head, found, body = answer.partition(b"\r\n\r\n")
    at = head.lower().find(b"\r\ncontent-length:")
    length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return bool(found) and len(body) == length


def run(port: int, count: int, expected: bytes, request: bytes) -> int:
    """Send `count` requests; how many answers were wrong."""
    poll, sockets, wrong = select.epoll(), dict[int, socket.socket](), 0
    parts: dict[int, bytes] = {}
    for _ in range(min(CONNECTIONS, count)):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(connection.fileno(), select.EPOLLIN)
        sockets[connection.fileno()] = connection
        connection.sendall(request)
    to_send, to_read = count - len(sockets), count
    while to_read:
        ready = poll.poll(SILENCE_S)
        if not ready:
            return wrong + to_read
        for descriptor, _ in ready:
            answer = sockets[descriptor].recv(262_144)
            if not answer:
                return wrong + to_read
            answer = parts.pop(descriptor, b"") + answer
            if not is_whole(answer):
                parts[descriptor] = answer
                continue
            to_read -= 1
            wrong += not answer.startswith(expected)
            if to_send > 0:
                to_send -= 1
                sockets[descriptor].sendall(request)
    for connection in sockets.values():
        connection.close()
    return wrong


if __name__ == "__main__":
    missing = run(int(sys.argv[1]), int(sys.argv[2]), b"HTTP/1.1 " + sys.argv[3].encode(), sys.stdin.buffer.read())
    sys.exit(0 if missing == 0 else 1)
