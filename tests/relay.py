"""What stands between a server and its clients, and ends the one or the talk once enough was sent."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from threading import Event, Thread

from instructdiffusion.components.process import LOOPBACK
from instructdiffusion.components.servers import Server


class Relay:
    """Lets `left` bytes of the server through and then kills it, or with `kill` off is deaf until there are more."""

    def __init__(self, server: Server, *, kill: bool = True) -> None:
        self._server, self._kill, self.left, self.broken = server, kill, 2**62, Event()
        self._listener = socket.create_server((LOOPBACK, 0))
        self.endpoint = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        self._to = (LOOPBACK, int(server.address.rpartition(":")[2]))
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            near = self._listener.accept()[0]
            try:
                if self.left < 0:
                    raise OSError
                far = socket.create_connection(self._to)
            except OSError:  # it is down
                near.close()
                continue
            for way in ((near, far, False), (far, near, True)):
                Thread(target=self._pass, args=way, daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := one.recv(4096):
                other.sendall(data)
                self.left -= len(data) * counts
                if self.left < 0:
                    if self._kill and not self.broken.is_set():
                        os.kill(self._server.process.pid, signal.SIGKILL)
                    self.broken.set()
                    break
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
