"""Secrets of users and peers in a file: who is right is found out in a thread, and who is not there costs
the same work.

The lines of the file are those of `mailnode.access.kept`; it is 0600, read again whenever it has changed.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import tempfile
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol, TypeVar

from twisted.internet.defer import Deferred

from mailnode.access.kept import (
    ITERATIONS,
    KEY_SIZE,
    NOTHING,
    SALT_SIZE,
    SCRYPT,
    Kept,
    add,
    keep,
    matches,
    octets_of,
    read_line,
    scram_part,
)
from mailnode.access.turnstile import Turnstile
from mailnode.mail import ScramKeys
from mailnode.smtp.sasl.preparation import saslprep

FILE_SIZE: Final = 8 << 20  # octets
RUNNING: Final = 2  # checks at the same time: 16 MiB and a core each
WAITING: Final = 32  # checks that wait: about half a second

T = TypeVar("T")


class DeferToThread(Protocol):
    """Runs a function in a thread and fires with its result."""

    def __call__(self, work: Callable[[], T], /) -> Deferred[T]: ...


class _File(NamedTuple):
    """What was read, and of which file."""

    identity: tuple[int, ...]
    entries: Mapping[str, Kept]
    iterations: int  # of most names' SCRAM keys


class Passwords:
    """The secrets in the file `path`, read again whenever it was replaced or changed.

    `random` gives so many random octets. A file that is missing holds nobody; other OSErrors come to who
    asks. One instance should live as long as the process: what it says of unknown names hangs on it.
    """

    def __init__(
        self,
        path: str,
        defer_to_thread: DeferToThread,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.path = path
        self._defer_to_thread = defer_to_thread
        self._random = random
        self._turnstile = Turnstile(RUNNING, WAITING)
        self._read = _File((), {}, ITERATIONS)
        # What an unknown name is compared with, so that its answer takes as long.
        n, r, p = SCRYPT
        salt, key = b64encode(random(SALT_SIZE)).decode(), b64encode(random(KEY_SIZE)).decode()
        self._nobody_hash = f"scrypt${n}${r}${p}${salt}${key}"
        self._nobody_key = random(KEY_SIZE)

    # ------------------------------------------------------------- asking, in a thread

    def verify(self, name: str, secret: str) -> Deferred[bool]:
        """Whether `secret`, as it was said, is the password of `name`; the same work if there is none.
        FullError if too many wait."""
        return self._turnstile.enter(lambda: self._defer_to_thread(lambda: self.check(name, secret)))

    def verify_digest(self, name: str, challenge: bytes, digest: str) -> Deferred[bool]:
        """Whether `digest` is the HMAC-MD5 of `challenge` by the readable secret of `name` (RFC 2195 2); the
        same work if there is none. FullError if too many wait."""
        return self._turnstile.enter(
            lambda: self._defer_to_thread(lambda: self.check_digest(name, challenge, digest))
        )

    def keys(self, name: str) -> Deferred[ScramKeys]:
        """The SCRAM keys of `name`; if it has none, ones that no secret fits, the same each time."""
        return self._defer_to_thread(lambda: self.find_keys(name))

    # ------------------------------------------------------------- asking, at once

    def check(self, name: str, secret: str) -> bool:
        """As `verify`, at once: it takes some 30 ms. OSError if the file cannot be read."""
        kept = self._file().entries.get(name, NOTHING)
        prepared = saslprep(secret) or ""
        # A hash without SCRAM keys beside it is older than SASLprep here: made from what was typed.
        said = prepared if kept.scram is not None else secret
        right = matches(said, kept.scrypt or self._nobody_hash)
        if kept.scrypt:
            return right
        return kept.secret is not None and hmac.compare_digest(octets_of(kept.secret), octets_of(secret))

    def check_digest(self, name: str, challenge: bytes, digest: str) -> bool:
        """As `verify_digest`, at once. OSError if the file cannot be read."""
        secret = self._file().entries.get(name, NOTHING).secret
        key = self._nobody_key if secret is None else octets_of(secret)
        made = hmac.digest(key, challenge, "md5").hex()
        right = hmac.compare_digest(made.encode(), digest.encode("utf-8", "replace"))
        return right and secret is not None

    def find_keys(self, name: str) -> ScramKeys:
        """As `keys`, at once. OSError if the file cannot be read."""
        file = self._file()
        # Made for everybody, so that nobody's answer takes longer.
        salt, stored, server = (
            hmac.digest(self._nobody_key, word + name.encode("utf-8", "replace"), "sha256")
            for word in (b"salt:", b"stored:", b"server:")
        )
        nobody = ScramKeys(salt[:SALT_SIZE], file.iterations, stored, server)
        return file.entries.get(name, NOTHING).scram or nobody

    def names(self) -> list[str]:
        """Who has a secret. OSError if the file cannot be read."""
        return sorted(self._file().entries)

    def kept(self, name: str) -> Kept:
        """All that is kept for `name`. OSError if the file cannot be read."""
        return self._file().entries.get(name, NOTHING)

    def recoverable(self, name: str) -> str | None:
        """The secret of `name` in clear, None if there is none or only its hash. OSError."""
        return self.kept(name).secret

    # ------------------------------------------------------------- writing

    def set(self, name: str, secret: str, recoverable: bool = False) -> None:
        """Gives `name` a new secret, durably; with `recoverable` it can be said again, not only checked.

        ValueError for a name or secret that cannot be; OSError.
        """
        if read_line(f"{name}:secret$x") != (name, "secret$x"):
            raise ValueError("that is not a user name")
        self._rewrite(name, [f"{name}:{part}" for part in keep(secret, self._random, recoverable)])

    def set_keys(self, name: str, keys: ScramKeys) -> None:
        """Gives `name` a secret of which nothing but the keys is known, durably. ValueError; OSError."""
        part = scram_part(keys)
        if read_line(f"{name}:{part}") != (name, part):
            raise ValueError("that is not a user name")
        self._rewrite(name, [f"{name}:{part}"])

    def remove(self, name: str) -> bool:
        """Takes the secret of `name` away, durably; whether there was one. OSError."""
        there = name in self._file().entries
        if there:
            self._rewrite(name, [])
        return there

    # ------------------------------------------------------------- the file

    def _file(self) -> _File:
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
                known = self._read
                if identity == known.identity:
                    return known
                octets = file.read(FILE_SIZE + 1)
        except FileNotFoundError:
            return _File((), {}, ITERATIONS)
        if len(octets) > FILE_SIZE:
            raise OSError(f"the passwords file is larger than {FILE_SIZE} octets")
        read = _parsed(identity, octets)
        self._read = read  # one assignment: other threads see the old file or the new one
        return read

    def _rewrite(self, name: str, new: list[str]) -> None:
        folder = os.path.dirname(os.path.abspath(self.path))
        with _locked_folder(folder) as folder_descriptor:
            try:
                with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
                    old, status = file.read(FILE_SIZE).split("\n"), os.fstat(file.fileno())
            except FileNotFoundError:
                old, status = [], os.fstat(folder_descriptor)
            kept = [line for line in old if line and line.partition(":")[0].strip() != name]
            descriptor, draft = tempfile.mkstemp(prefix=".passwords-", dir=folder)  # 0600
            try:
                with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                    file.write("".join(line + "\n" for line in [*kept, *new]))
                    if os.geteuid() == 0:  # the node reads it, not root
                        os.fchown(file.fileno(), status.st_uid, status.st_gid)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(draft, self.path)
            except BaseException:
                os.unlink(draft)
                raise
            os.fsync(folder_descriptor)


def _parsed(identity: tuple[int, ...], octets: bytes) -> _File:
    entries: dict[str, Kept] = {}
    for line in octets.decode("utf-8", "replace").split("\n"):
        if (found := read_line(line)) is not None:
            name, part = found
            kept = add(entries.get(name, NOTHING), part)
            if kept != NOTHING:
                entries[name] = kept
    # A name that is not there must look like the others, whoever has written their keys.
    counts = Counter(kept.scram.iterations for kept in entries.values() if kept.scram)
    return _File(identity, entries, counts.most_common(1)[0][0] if counts else ITERATIONS)


@contextmanager
def _locked_folder(folder: str) -> Iterator[int]:
    """The folder's descriptor, locked against others who would write the same file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
