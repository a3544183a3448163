"""Secrets of users and peers: a file of `name:scrypt$n$r$p$salt$key`, checked in a thread.

A secret that this node itself must say (to a host that it calls) cannot be hashed: its line is
`name:secret$base64`, and the file is 0600.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from twisted.internet.defer import Deferred

FILE_SIZE: Final = 8 << 20  # octets
SECRET_SIZE: Final = 1024  # octets; longer ones are nobody's

_N, _R, _P = 2**14, 8, 1  # RFC 7914: 16 MiB of memory and some 50 ms
_SALT_SIZE: Final = 16
_KEY_SIZE: Final = 32

_line = re.compile(r"([A-Za-z0-9._+-]{1,64}+):((?:scrypt|secret)\$[0-9$A-Za-z+/=]{1,1500}+)\Z").match
_recoverable = re.compile(r"secret\$([A-Za-z0-9+/=]+)\Z").match
_hash = re.compile(
    r"scrypt\$([0-9]{1,8})\$([0-9]{1,3})\$([0-9]{1,3})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)\Z"
).match

DeferToThread = Callable[[Callable[[], bool]], "Deferred[bool]"]


def hash_secret(secret: str, salt: bytes) -> str:
    """The line's part behind the name. ValueError for a secret that is empty or too long."""
    octets = secret.encode("utf-8", "surrogateescape")
    if not 0 < len(octets) <= SECRET_SIZE:
        raise ValueError(f"a password has 1 to {SECRET_SIZE} octets")
    key = hashlib.scrypt(octets, salt=salt, n=_N, r=_R, p=_P, dklen=_KEY_SIZE)
    return f"scrypt${_N}${_R}${_P}${b64encode(salt).decode()}${b64encode(key).decode()}"


def keep_secret(secret: str) -> str:
    """The line's part behind the name, for a secret that must be said again. ValueError as `hash_secret`."""
    octets = secret.encode("utf-8", "surrogateescape")
    if not 0 < len(octets) <= SECRET_SIZE:
        raise ValueError(f"a password has 1 to {SECRET_SIZE} octets")
    return f"secret${b64encode(octets).decode()}"


def reveal(kept: str) -> str | None:
    """The secret that `keep_secret` kept, None if it was hashed or is malformed."""
    match = _recoverable(kept)
    if match is None:
        return None
    try:
        return b64decode(match[1], validate=True).decode("utf-8", "surrogateescape")
    except ValueError:
        return None


def matches(secret: str, hashed: str) -> bool:
    """Whether `hashed` was made from `secret`. Constant time over the key; False if it is malformed."""
    octets = secret.encode("utf-8", "surrogateescape")
    match = _hash(hashed)
    if match is None:
        return False
    n, r, p = int(match[1]), int(match[2]), int(match[3])
    try:
        salt, key = b64decode(match[4], validate=True), b64decode(match[5], validate=True)
        made = hashlib.scrypt(octets[:SECRET_SIZE], salt=salt, n=n, r=r, p=p, dklen=len(key), maxmem=64 << 20)
    except ValueError:  # not base64, or parameters that scrypt refuses
        return False
    return hmac.compare_digest(made, key) and 0 < len(octets) <= SECRET_SIZE


class Passwords:
    """The secrets in the file `path`, read again whenever it was replaced or changed.

    `defer_to_thread` runs a function in a thread and fires with its result; `random` gives so many
    random octets. A file that is missing holds nobody; other OSErrors come to who asks.
    """

    def __init__(
        self,
        path: str,
        defer_to_thread: DeferToThread,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._path = path
        self._defer_to_thread = defer_to_thread
        self._random = random
        self._read: tuple[tuple[int, ...], Mapping[str, str]] = ((), {})
        # What an unknown name is compared with, so that its answer takes as long.
        salt, key = b64encode(random(_SALT_SIZE)).decode(), b64encode(random(_KEY_SIZE)).decode()
        self._nobody = f"scrypt${_N}${_R}${_P}${salt}${key}"

    def verify(self, name: str, secret: str) -> Deferred[bool]:
        """Whether `secret` is the password of `name`; takes the same time if there is none."""
        return self._defer_to_thread(lambda: self.check(name, secret))

    def check(self, name: str, secret: str) -> bool:
        """As `verify`, at once: it takes some 50 ms. OSError if the file cannot be read."""
        hashed = self._entries().get(name)
        kept = reveal(hashed) if hashed else None
        if kept is not None:
            hashed = hash_secret(kept, self._random(_SALT_SIZE))  # takes the time that others take
        right = matches(secret, hashed or self._nobody)
        return right and hashed is not None

    def names(self) -> list[str]:
        """Who has a secret. OSError if the file cannot be read."""
        return sorted(self._entries())

    def recoverable(self, name: str) -> str | None:
        """The secret of `name` in clear, None if there is none or only its hash. OSError."""
        kept = self._entries().get(name)
        return reveal(kept) if kept else None

    def set(self, name: str, secret: str, recoverable: bool = False) -> None:
        """Gives `name` a new secret, durably; with `recoverable` it can be said again, not only checked.

        ValueError for a name or secret that cannot be; OSError.
        """
        kept = keep_secret(secret) if recoverable else hash_secret(secret, self._random(_SALT_SIZE))
        line = f"{name}:{kept}"
        if not _line(line):
            raise ValueError("that is not a user name")
        self._rewrite(name, [line])

    def remove(self, name: str) -> bool:
        """Takes the secret of `name` away, durably; whether there was one. OSError."""
        there = name in self._entries()
        if there:
            self._rewrite(name, [])
        return there

    def _entries(self) -> Mapping[str, str]:
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
                known, entries = self._read
                if identity == known:
                    return entries
                octets = file.read(FILE_SIZE + 1)
        except FileNotFoundError:
            return {}
        if len(octets) > FILE_SIZE:
            raise OSError(f"the passwords file is larger than {FILE_SIZE} octets")
        lines = octets.decode("utf-8", "replace").split("\n")
        entries = {match[1]: match[2] for line in lines if (match := _line(line.strip())) is not None}
        self._read = (identity, entries)  # one assignment: other threads see the old pair or the new one
        return entries

    def _rewrite(self, name: str, new: list[str]) -> None:
        folder = os.path.dirname(os.path.abspath(self._path))
        with _locked_folder(folder) as folder_descriptor:
            try:
                with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
                    old, status = file.read(FILE_SIZE).split("\n"), os.fstat(file.fileno())
            except FileNotFoundError:
                old, status = [], None
            kept = [line for line in old if line and line.partition(":")[0].strip() != name]
            descriptor, draft = tempfile.mkstemp(prefix=".passwords-", dir=folder)  # 0600
            try:
                with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                    file.write("".join(line + "\n" for line in [*kept, *new]))
                    if status is not None and os.geteuid() == 0:  # the node reads it, not root
                        os.fchown(file.fileno(), status.st_uid, status.st_gid)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(draft, self._path)
            except BaseException:
                os.unlink(draft)
                raise
            os.fsync(folder_descriptor)


@contextmanager
def _locked_folder(folder: str) -> Iterator[int]:
    """The folder's descriptor, locked against others who would write the same file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
