"""A TCP proxy before the loopback Hub that loses the connection after so many bytes, as a network does."""

import socket
import threading
from urllib.parse import urlsplit


class CuttingProxy:
    """Pass bytes on in both directions, until a budget is used up; then drop all connections, and new ones too.

    Args:
        upstream (`str`): Address of the server, such as `http://127.0.0.1:80`.
    """

    def __init__(self, upstream: str) -> None:
        place = urlsplit(upstream)
        self._upstream = (place.hostname, place.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.passed, self._budget = 0, None
        threading.Thread(target=self._serve, daemon=True).start()

    def allow(self, budget: int | None) -> None:
        """Let so many bytes pass from now on, or any number of them."""
        with self._lock:
            self.passed, self._budget = 0, budget

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with self._lock:
                if self._budget is not None and self.passed >= self._budget:
                    client.close()
                    continue
                server = socket.create_connection(self._upstream)
                for connection in (client, server):  # or each answer waits some 40 ms for an acknowledgement
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    left = len(data) if self._budget is None else self._budget - self.passed
                    self.passed += min(len(data), max(left, 0))
                    if left < len(data):
                        if left > 0:
                            sink.sendall(data[:left])
                        self._cut()
                        return
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # cut by another thread
            return

    def _cut(self) -> None:
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed by its peer before
                continue
        for connection in self._open:
            connection.close()
        self._open.clear()
