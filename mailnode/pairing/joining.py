"""The home node's side of a pairing: uses an invitation, writes down what came of it, and tries it out.

In this order, so that a failure at any moment loses nothing and the same command goes on from there:

1. our new secret is on disk, in a file that nobody reads but the next attempt;
2. the hub is told its keys, by XPAIR, which ends the invitation;
3. the secret goes to the passwords file, and the call becomes part of the configuration;
4. that file is removed; the hub is called by the new secret.

If 2 has happened and the reply was lost, the hub says that the invitation was used. With the secret of 1 we
can find out whether that was us.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from mailnode.mail import Reply
from mailnode.pairing.calling import Called, UnverifiedError, WrongCertificateError
from mailnode.pairing.files import prepare_folder, read_file, remove_file, write_file
from mailnode.pairing.invitation import identity, keys_of
from mailnode.pairing.token import SECRET_SIZE, Token, is_name, new_secret, said
from mailnode.pairing.words import parse_moment
from mailnode.smtp.events import Ending
from mailnode.smtp.pairing import format_keys
from mailnode.smtp.script import Plan

WAIT: Final = "30s"  # between signs of life on the open line
CLOCKS: Final = 60.0  # seconds by which two clocks may differ without a word
OUR_COMMANDS: Final = ("TURN", "ATRN", "XWAIT")


class JoinError(Exception):
    """The pairing did not come about, or, if `paired`, cannot be used yet; the text is one line, the status
    one of sysexits(3)."""

    def __init__(self, text: str, status: int, paired: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.paired = paired


class CallHub(Protocol):
    """Calls the hub. OSError if it cannot be reached; WrongCertificateError, UnverifiedError."""

    def __call__(self, plan: Plan, verify: bool) -> Called: ...


Say = Callable[[str, str], None]  # what, how it is with that


class _Begun(Struct, frozen=True):
    """What an attempt leaves for the next one."""

    id: str  # of the invitation
    secret: bytes


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the hub said when it took the keys."""

    clock: float | None = None  # seconds since the epoch
    held: int | None = None  # messages


@dataclass(frozen=True, slots=True)
class Home:
    """The node that joins. `write_dial` puts a table of [[dial]] where the configuration finds it, `keep` a
    secret into the passwords file, readable; both durably."""

    hostname: str
    folder: str  # where an attempt keeps what the next one needs
    write_dial: Callable[[Mapping[str, Any]], None]
    keep: Callable[[str, str], None]


class Joining:
    """One attempt to join by `token`. `name` is what our call is to be named; `random` gives so many octets,
    `now` seconds since the epoch. `say` hears line by line what works."""

    def __init__(
        self,
        token: Token,
        name: str,
        home: Home,
        call: CallHub,
        say: Say,
        random: Callable[[int], bytes],
        now: Callable[[], float],
    ) -> None:
        self._token = token
        self._name = name
        self._home = home
        self._call = call
        self._say = say
        self._random = random
        self._now = now
        self._file = f".joining-{name}"

    def run(self) -> None:
        """JoinError, OSError of the disk."""
        secret, again = self._prepare()
        welcome = self._use(secret, again)
        self._home.keep(self._token.name, said(secret))
        self._home.write_dial(dial_table(self._token, self._name, verified=False))
        remove_file(self._home.folder, self._file)
        self._say("paired", f"this node is {self._token.name} there; the token is used up")
        self._tell(welcome)
        self._try_out(secret)

    def _prepare(self) -> tuple[bytes, bool]:
        """Our new secret, and whether an earlier attempt may have told the hub of it."""
        prepare_folder(self._home.folder)
        octets = read_file(self._home.folder, self._file)
        if octets is not None:
            try:
                begun = msgspec.json.decode(octets, type=_Begun)
            except msgspec.DecodeError:
                begun = _Begun("", b"")
            if begun.id == self._token.id and len(begun.secret) == SECRET_SIZE:
                return begun.secret, True
        secret = new_secret(self._random)
        write_file(self._home.folder, self._file, msgspec.json.encode(_Begun(self._token.id, secret)))
        return secret, False

    # ------------------------------------------------------------- the invitation

    def _use(self, secret: bytes, again: bool) -> Welcome:
        token = self._token
        plan = self._plan(
            name=identity(token.name, token.id),
            secret=token.password,
            pair=format_keys(keys_of(secret, self._random)),
        )
        try:
            called = self._reach(plan)
        except JoinError as error:
            raise _again(error) from None
        ended = called.ended
        if ended.ending is Ending.DONE and ended.reply.code == 250:
            return _welcome(ended.reply)
        if (called.pairing and ended.ending is Ending.BROKEN) or (again and ended.reply.code in (535, 550)):
            try:
                if self._is_paired(secret):
                    return Welcome()
            except JoinError as error:
                raise _again(error) from None
        raise self._why_not(called)

    def _is_paired(self, secret: bytes) -> bool:
        """Whether the hub knows us by our new secret."""
        return self._reach(self._our_plan(secret)).ended.ending is Ending.DONE

    def _our_plan(self, secret: bytes) -> Plan:
        wait = int(WAIT.removesuffix("s"))
        return self._plan(name=self._token.name, secret=said(secret), wait=wait)

    def _plan(self, **more: Any) -> Plan:
        """A call under TLS with the certificate that the token names, whichever way TLS begins."""
        if self._token.implicit:
            return Plan(self._home.hostname, private=True, secure=True, **more)
        return Plan(self._home.hostname, tls="required", known=True, **more)

    def _reach(self, plan: Plan, verify: bool = False) -> Called:
        where = f"{self._token.host} port {self._token.port}"
        try:
            return self._call(plan, verify)
        except WrongCertificateError as error:
            raise JoinError(
                f"{where} shows another certificate than the token names: the hub has a new one, or somebody "
                f"is in between; no secret was said ({error.shown})",
                os.EX_PROTOCOL,
            ) from None
        except OSError as error:
            text = error.strerror or str(error) or type(error).__name__
            raise JoinError(f"cannot connect to {where}: {text}", os.EX_TEMPFAIL) from None

    def _why_not(self, called: Called) -> JoinError:
        reply, ending = called.ended.reply, called.ended.ending
        if ending is Ending.REFUSED and reply.code == 535:
            return JoinError(
                f"{self._token.hub} does not know this invitation: there is a later one for "
                f"{self._token.name}, or none any more",
                os.EX_NOPERM,
            )
        if ending is Ending.INSECURE:
            text = f"{_words(reply)}; somebody may be in between, and no secret was said"
            return JoinError(text, os.EX_PROTOCOL)
        if called.pairing and reply.code == 550:
            return JoinError(f"{self._token.hub}: {_words(reply)}{self._our_clock(reply)}", os.EX_NOPERM)
        text = f"{self._token.hub}: {_words(reply)}"
        return _again(JoinError(text, os.EX_TEMPFAIL if reply.transient else os.EX_PROTOCOL))

    def _our_clock(self, reply: Reply) -> str:
        """A word about our clock, where the hub has said what it takes for the time."""
        if "expired" not in _words(reply):
            return ""
        there = parse_moment(_words(reply).rpartition(" ")[2])
        return "" if there is None else _difference(self._now() - there, "; ")

    # ------------------------------------------------------------- what works

    def _tell(self, welcome: Welcome) -> None:
        if welcome.held is not None:
            self._say("mail held", f"{welcome.held} {'message' if welcome.held == 1 else 'messages'}")
        if welcome.clock is not None:
            off = self._now() - welcome.clock
            self._say("clock", _difference(off) or "as the hub's, within a minute")

    def _try_out(self, secret: bytes) -> None:
        """Calls as the node will call from now on. The pairing is done, whatever comes of it."""
        try:
            called, why = self._as_from_now_on(secret)
        except JoinError as error:
            raise JoinError(f"paired, but not tried out: {error}", error.status, True) from None
        self._say("connected", f"{self._token.host} port {self._token.port}, by TLS")
        if why:
            self._say("certificate", f"pinned, for {why}: when the hub has a new one, join again")
        else:
            self._home.write_dial(dial_table(self._token, self._name, verified=True))
            self._say("certificate", f"verified for {self._token.host}: the hub may renew it")
        if called.ended.ending is not Ending.DONE:
            text = f"paired, but not tried out: {self._token.hub}: {_words(called.ended.reply)}"
            raise JoinError(text, os.EX_TEMPFAIL, True)
        self._say("authenticated", f"as {self._token.name}")
        found = [word for word in OUR_COMMANDS if word in called.offered]
        self._say("offered", ", ".join(found) or "nothing by which mail could be fetched")
        if "TURN" not in found:
            text = f"paired, but {self._token.hub} does not let this node turn the line"
            raise JoinError(text, os.EX_CONFIG, True)

    def _as_from_now_on(self, secret: bytes) -> tuple[Called, str]:
        """The call, and why its certificate must be pinned, empty if authorities speak for it."""
        plan = self._our_plan(secret)
        if _is_address(self._token.host):
            return self._reach(plan), f"{self._token.host} is an address and no name"
        try:
            return self._reach(plan, verify=True), ""
        except UnverifiedError as error:
            return self._reach(plan), f"no authority speaks for it ({error})"


def dial_table(token: Token, name: str, verified: bool) -> dict[str, object]:
    """The [[dial]] of a hub. A certificate that is verified may be renewed, so it is not pinned."""
    table: dict[str, object] = {
        "name": name,
        "endpoint": f"tcp:host={token.host.replace(':', chr(92) + ':')}:port={token.port}",
        "user": token.name,
        "command": "TURN",
        "wait": WAIT,
    }
    if token.implicit:
        table["implicit"] = True
    if verified:
        return {**table, "tls": "verified"}
    return {**table, "tls": "required", "fingerprint": token.fingerprint}


def dial_name(token: Token) -> str:
    """What a call to the hub is named if nobody says otherwise."""
    return token.hub if is_name(token.hub) else "hub"


def _again(error: JoinError) -> JoinError:
    """`error` with what can be done about it."""
    if error.status != os.EX_TEMPFAIL:
        return error
    return JoinError(f"{error}; join again with the same token", error.status)


def _is_address(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()


def _welcome(reply: Reply) -> Welcome:
    """What a hub says besides 250; one that says nothing is as good."""
    words = dict(line.split(" ", 1) for line in reply.lines if " " in line)
    held = words.get("HELD", "")
    return Welcome(
        parse_moment(words.get("CLOCK", "")), int(held) if held.isdigit() and len(held) < 10 else None
    )


def _words(reply: Reply) -> str:
    return " / ".join(reply.lines)


def _difference(seconds: float, mark: str = "") -> str:
    """How far our clock is from the hub's, empty if that is not worth a word."""
    if abs(seconds) <= CLOCKS:
        return ""
    minutes = round(abs(seconds) / 60)
    days, hours = minutes // 1440, minutes // 60
    length = f"{days} days" if days > 1 else f"{hours} hours" if hours > 1 else f"{minutes} minutes"
    return f"{mark}this host's clock is {length} {'ahead of' if seconds > 0 else 'behind'} the hub's"
