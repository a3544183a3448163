"""The UNIX sockets on which a node listens: what a process that was killed has left of them."""

from __future__ import annotations

import errno
import os
import socket
import stat


def remove_stale(path: str) -> None:
    """Removes the socket of a process that was killed; OSError if it is another's or no socket at all."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        # ECONNREFUSED: nobody listens any more. EAGAIN: somebody does, and has much to do.
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, "another node listens there")
    os.unlink(path)
