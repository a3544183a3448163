"""An invitation as the hub keeps it: the keys of its secret, until when it is good, how it ended (pure)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from mailnode.interfaces import INVITED
from mailnode.mail import Reply, ScramKeys
from mailnode.pairing.token import Token, is_name, said
from mailnode.pairing.words import moment
from mailnode.smtp.sasl.keys import derive

SALT_SIZE: Final = 16  # octets
ITERATIONS: Final = 100_000  # as many as of passwords, so that all names look alike to who asks for keys

Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
State = Literal["open", "used", "revoked", "expired"]


class Invitation(Struct, frozen=True, kw_only=True):
    """What the hub knows of a token. The secret is not in it. Times are seconds since the epoch."""

    version: Literal[1] = 1
    name: str  # of the peer
    id: str
    made: float
    expires: float
    salt: bytes
    iterations: Annotated[int, Meta(ge=4096, le=1_000_000)]
    stored_key: Key
    server_key: Key
    ended: Literal["", "used", "revoked"] = ""
    ended_at: float = 0.0
    ended_by: str = ""  # the address of who used it

    @property
    def keys(self) -> ScramKeys:
        return ScramKeys(self.salt, self.iterations, self.stored_key, self.server_key)

    def state(self, now: float) -> State:
        """What it is at a time. Used and revoked outweigh expired: they say more."""
        if self.ended:
            return self.ended
        return "open" if now < self.expires else "expired"

    def refusal(self, now: float) -> Reply | None:
        """Why it is good for nothing any more, for who has proved to hold the token; None if it is good."""
        state = self.state(now)
        if state == "used":
            by = f" from {self.ended_by}" if self.ended_by else ""
            return Reply(550, f"The invitation was used at {moment(self.ended_at)}{by}", "5.7.1")
        if state == "revoked":
            return Reply(550, f"The invitation was revoked at {moment(self.ended_at)}", "5.7.1")
        if state == "expired":
            text = f"The invitation expired at {moment(self.expires)}, and here it is {moment(now)}"
            return Reply(550, text, "5.7.1")
        return None


def invitation_for(token: Token, now: float, random: Callable[[int], bytes]) -> Invitation:
    """What to keep of `token`."""
    keys = keys_of(token.secret, random)
    return Invitation(
        name=token.name,
        id=token.id,
        made=now,
        expires=float(token.expires),
        salt=keys.salt,
        iterations=keys.iterations,
        stored_key=keys.stored_key,
        server_key=keys.server_key,
    )


def keys_of(secret: bytes, random: Callable[[int], bytes]) -> ScramKeys:
    """What may be told of a random secret: the secret cannot be had from it."""
    return derive(said(secret), random(SALT_SIZE), ITERATIONS)[1]


# ------------------------------------------------------------------- as octets, and as a name of SASL


def to_octets(invitation: Invitation) -> bytes:
    return msgspec.json.encode(invitation) + b"\n"


def from_octets(octets: bytes) -> Invitation:
    """ValueError if they are no invitation, or one of another version."""
    try:
        invitation = msgspec.json.decode(octets, type=Invitation)
    except (msgspec.DecodeError, RecursionError) as error:  # ValidationError is one of them
        raise ValueError(str(error)) from None
    if not is_name(invitation.name):
        raise ValueError("its name is none")
    return invitation


def identity(name: str, id: str) -> str:
    """Who a client is that has proved to hold a token. No user has such a name: it has colons."""
    return f"{INVITED}{name}:{id}"


def parse_identity(text: str) -> tuple[str, str] | None:
    """The peer's name and the invitation's; None if `text` is not the identity of an invited client."""
    name, mark, id = text.removeprefix(INVITED).partition(":")
    return (name, id) if text.startswith(INVITED) and mark and is_name(name) else None
