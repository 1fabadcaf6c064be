"""The process of a Sail server, which listens where nobody but its user gets.

`python -P sailprocess.py SOCKET`: Sail listens on TCP only and asks for no credential. So the thread in
which it begins to listen enters a network of its own, and what comes by a Unix socket is handed on there.
Its other threads stay in the machine's network: Python functions in queries call model endpoints. Where the
system allows no such network, Sail listens on loopback, and the line that is printed when ready says so.

It ends with its standard input, that is with its parent, however that one ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import runpy
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

_NEWNET = 0x40000000  # unshare(2)
_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x1 | 0x40  # netdevice(7)
_BYTES = 1 << 18


def _enter_network() -> bool:
    """Give this thread a network of its own, with a loopback device only; return success."""
    if not sys.platform.startswith("linux") or ctypes.CDLL(None).unshare(_NEWNET) != 0:
        return False
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14s", b"lo", _UP_AND_RUNNING, b""))
    return True


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Hand on bytes until one side has ended."""
    buffer = memoryview(bytearray(_BYTES))
    with contextlib.suppress(OSError):
        while size := source.recv_into(buffer):
            sink.sendall(buffer[:size])
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _relay(listener: socket.socket, address: tuple[str, int]) -> None:
    """Connect each caller with the server."""
    while True:
        caller, _ = listener.accept()
        server = socket.create_connection(address)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pair in ((caller, server), (server, caller)):
            threading.Thread(target=_pump, args=pair, daemon=True).start()


def _fail(failure: Any) -> None:
    """End the process with the failure of any of its threads: the workspace starts another one."""
    threading.__excepthook__(failure)
    os._exit(1)


def main(path: str) -> None:
    """Serve until standard input ends."""
    threading.excepthook = _fail
    isolate = runpy.run_path(str(Path(__file__).parents[1] / "keeper.py"))["isolate"]
    root, made, server = os.geteuid() == 0, threading.Event(), dict[str, Any]()
    if not root:
        isolate()  # while there is one thread; it also brings the right to make a network

    def listen() -> None:
        private = _enter_network()
        if root:
            isolate()
        made.wait()
        server["it"].start(background=True)
        address = server["it"].listening_address
        if not private:
            print(json.dumps(address), flush=True)  # noqa: T201 - for the parent
            return
        # By way of the folder's descriptor, for the name of a socket has 107 bytes at most.
        folder = os.open(Path(path).parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{Path(path).name}")
            listener.listen()
            print(json.dumps(None), flush=True)  # noqa: T201 - for the parent
            _relay(listener, address)

    threading.Thread(target=listen, daemon=True).start()
    if root:
        isolate()
    from pysail.spark import SparkConnectServer

    server["it"] = SparkConnectServer(ip="127.0.0.1", port=0)
    made.set()
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
