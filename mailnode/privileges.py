"""Starting as root: what has to be done before the process becomes another user, and what is wrong after."""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from typing import Final

FOLDER: Final = 0o700


def give_folder(path: str, uid: int | None, gid: int | None) -> None:
    """Makes the data folder for whom the process is going to be, while it is root.

    A folder that is there is left as it is, unless it is root's and empty. OSError if it cannot be made.
    """
    if os.geteuid() != 0 or not uid:
        return
    if gid is None:
        gid = pwd.getpwuid(uid).pw_gid  # as twistd has it
    parent = os.path.dirname(path)
    if parent:
        os.makedirs(parent, 0o755, exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(path, FOLDER)
    # By descriptor and without links: nobody can put another folder in its place meanwhile.
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(folder).st_uid == 0 and not os.listdir(folder):
            os.fchown(folder, uid, gid)
            os.fchmod(folder, FOLDER)
    finally:
        os.close(folder)


def doubts(data: str, needs_root: bool) -> list[str]:
    """What an operator should know of the rights that this process has: a line each."""
    found = []
    if os.geteuid() == 0 and not needs_root:
        found.append("runs as root; give twistd --uid and --gid, or let systemd choose the user")
    elif os.geteuid() != 0 and 0 in (os.getegid(), *os.getgroups()):
        found.append("is still in the group root; give twistd another --gid")
    if stat.S_IMODE(os.stat(data).st_mode) & 0o006:
        found.append(f"has a data folder that is open to everybody on this host: chmod 700 {data}")
    return found
