"""TLS of the gRPC door: certificates are read anew when their files change, without a restart."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc

from host.observe import PluginLog
from host.rpc_address import TlsFiles, check_files
from plugin_api.servers import StartRefused

_log = PluginLog("host")
_Seen = tuple[tuple[int, int, int], ...]


def make_credentials(files: TlsFiles) -> Any:
    """What a server is given. OSError when the files cannot be read now."""
    source = _Source(files)
    return grpc.dynamic_ssl_server_credentials(
        source.first(), source.fetch, require_client_authentication=files.client_authority is not None
    )


class _Source:
    """Tells the library, at every new connection, whether the certificates have changed; from its own threads."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._guard = threading.Lock()
        self._seen: _Seen = ()

    def first(self) -> Any:
        """The certificates as they are."""
        self._seen = self._look()
        return self._read()

    def fetch(self) -> Any:
        """The certificates, when they have changed; None otherwise, and when what is there now does not hold."""
        with self._guard:
            try:
                now = self._look()
                if now == self._seen:
                    return None
                self._seen = now
                check_files(self._files)
                found = self._read()
            except (OSError, StartRefused) as error:
                _log.error("new certificates of gRPC cannot be used; the former ones serve on", why=str(error))
                return None
        _log.info("gRPC has new certificates", file=self._files.certificate)
        return found

    def _paths(self) -> list[Path]:
        files = self._files
        return [Path(name) for name in (files.certificate, files.key, files.client_authority) if name is not None]

    def _look(self) -> _Seen:
        found = [path.stat() for path in self._paths()]
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)

    def _read(self) -> Any:
        certificate, key, *authority = [path.read_bytes() for path in self._paths()]
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority[0] if authority else None)
