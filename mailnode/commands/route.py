"""`mailnode route`: where would mail for an address go, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click
from rich.text import Text

from mailnode.access.rules import Access
from mailnode.commands.invocation import Invocation, pass_invocation
from mailnode.commands.mail import recipient_path
from mailnode.commands.output import Screen, count, safe, table
from mailnode.commands.rcpt import rcpt_reply
from mailnode.config import Configuration, Route
from mailnode.interfaces import (
    Account,
    Addresses,
    Ambiguous,
    Forward,
    IDirectory,
    IRouting,
    ITerminals,
    Moved,
)
from mailnode.mail import Client, Destination, Held, Hop, Local, Mode, Path, Reply, Rights
from mailnode.parts import build_directory, build_routing
from mailnode.seen_terminals import look
from mailnode.smtp.grammar import literal_address

SHOWN: Final = 100  # destinations

STRANGER: Final = Client(address="192.0.2.1")  # RFC 5737: nobody's
TRUSTED: Final = Client()  # on a local socket


@click.command(
    epilog="""\b
Examples:
  $ mailnode route staff
  $ mailnode route --mode send jones@mit.example
  $ mailnode route '@mit.example,@usc.example:smith@isi.example'
"""
)
@click.option(
    "--mode", type=click.Choice([mode.value.lower() for mode in Mode], case_sensitive=False), default="mail",
    help="By which verb.",
)  # fmt: skip
@click.argument("address")
@pass_invocation
def route(invocation: Invocation, address: str, mode: str) -> None:
    """Show where mail for ADDRESS would go, and why.

    Shows the reply that a stranger and a trusted client get to RCPT, what the address is here, and
    every destination: mailboxes, terminals, next hops, peers that mail is held for. Nothing is sent
    and no name is looked up.
    """
    configuration = invocation.configuration
    path = recipient_path(address, configuration.domains[0])
    Explanation(configuration, path, Mode(mode.upper())).show(Screen())


class Explanation:
    """What this configuration does with a recipient: asked of the very parts that the node has."""

    def __init__(self, configuration: Configuration, path: Path, mode: Mode) -> None:
        self._configuration = configuration
        self._path = path
        self._mode = mode
        self._directory: IDirectory = build_directory(configuration)
        self._routing: IRouting = build_routing(configuration, build_directory(configuration))
        self._terminals: ITerminals = look(configuration)
        relay, terminals = configuration.relay, configuration.terminals
        self._access = Access(relay.networks, terminals.allow)

    def show(self, screen: Screen) -> None:
        by = "" if self._mode is Mode.MAIL else f" by {self._mode.value}"
        screen.say(safe(f"{str(self._path)[1:-1]}{by}", "bold"))
        for who, client in (("a stranger", STRANGER), ("a trusted client", TRUSTED)):
            reply = self.reply(client)
            line = safe(f"  {who:<17} gets ")
            line.append_text(safe(_said(reply), "green" if reply.ok else "red"))
            screen.say(line)
        for reason in self.reasons():
            screen.say(safe(f"  {reason}"))
        self._show_destinations(screen)

    def reply(self, client: Client) -> Reply:
        """The reply to RCPT; 502 if the verb itself is refused to this client."""
        rights = self._access.rights(client)
        host, mode = self._configuration.host, self._mode
        return rcpt_reply(host, self._routing, self._terminals, self._path, mode, client, rights)

    # ------------------------------------------------------------- why

    def reasons(self) -> Iterator[str]:
        """What the address is, one line each."""
        path = self._path
        while path.route and self._is_ours(path.route[0]):
            yield f"{path.route[0]} is this node: it comes off the route and onto the reverse-path"
            path = path.without_first_hop()
        if path.route:
            yield f"{path.route[0]} is the next host of the source route"
            yield from self._elsewhere(path.route[0])
        elif self._is_ours(path.domain):
            yield from self._here(path)
        else:
            yield from self._elsewhere(path.domain)

    def _is_ours(self, domain: str) -> bool:
        names = {self._configuration.host.lower(), *self._configuration.domains}
        return domain.lower() in names or literal_address(domain) in ("127.0.0.1", "::1")

    def _here(self, path: Path) -> Iterator[str]:
        name = path.local
        match self._directory.lookup(name):
            case Account() as account:
                full = f" ({account.full_name})" if account.full_name else ""
                yield f"{account.name} is a user of this node{full}"
            case Addresses() as found:
                kind = "a mailing list" if found.is_list else "an alias"
                yield f"{name} is {kind} of {count(len(found.members), 'address', 'addresses')}"
            case Forward(target):
                yield f"{name} has gone elsewhere: mail is forwarded to {target}"
            case Moved(target):
                yield f"{name} has moved: the sender is told to try {target}"
            case Ambiguous(accounts):
                names = ", ".join(account.name for account in accounts[:5])
                yield f"{name} may be any of {names}: upper and lower case tell them apart"
            case _:
                yield f"{name} is no user, alias, list or forward of this node"

    def _elsewhere(self, domain: str) -> Iterator[str]:
        folded = domain.lower()
        for peer in self._configuration.peer:
            if folded in peer.domains:
                yield f"{domain} is served by the peer {peer.name}: anyone may give us mail for it"
                return
        pattern = next((one for one in _patterns(folded) if one in self._routes()), None)
        yield f"{domain} is not of this node: only who may relay gets through"
        if pattern is not None:
            route = self._routes()[pattern]
            tls = "" if route.tls == "opportunistic" else f", TLS {route.tls}"
            yield f'[routes] "{pattern}" = "{route.to}"{tls}'

    def _routes(self) -> dict[str, Route]:
        return {pattern.lower(): route for pattern, route in self._configuration.routes.items()}

    # ------------------------------------------------------------- where to

    def destinations(self) -> tuple[Destination, ...]:
        """Where it leads if the client may."""
        return self._routing.route(self._path, self._mode, Rights(tuple(Mode), relay=True)).destinations

    def _show_destinations(self, screen: Screen) -> None:
        destinations = self.destinations()
        if not destinations:
            screen.say("  it goes nowhere")
            return
        rows = table("  TO", "WHERE")
        for destination in destinations[:SHOWN]:
            rows.add_row(
                safe(f"  {str(destination.path)[1:-1]}"),
                Text("\n").join(map(safe, self._places(destination))),
            )
        screen.show(rows)
        if len(destinations) > SHOWN:
            screen.say(f"  and {len(destinations) - SHOWN} more")
        if any(destination.via for destination in destinations):
            example = destinations[0].reverse_path(Path("sender", "its.host"))
            screen.say(safe(f"  the reverse-path <sender@its.host> becomes {example}"))
        for owner in dict.fromkeys(one.sender for one in destinations if one.sender is not None):
            screen.say(safe(f"  failures are reported to {owner}"))

    def _places(self, destination: Destination) -> Iterator[str]:
        match destination.place:
            case Local(user):
                if self._mode is not Mode.MAIL:
                    yield self._terminal(user)
                if self._mode is not Mode.SEND:
                    yield f"mailbox {self._mailbox(user)}"
            case Hop(domain, "mx"):
                yield f"mail exchangers of {domain}"
            case Hop(_, target):
                yield f"next hop {target}"
            case Held(domain):
                names = [peer.name for peer in self._configuration.peer if domain in peer.domains]
                yield f"held until {names[0]} turns the line" if names else "held until a call takes it along"

    def _terminal(self, user: str) -> str:
        lines = [one.line for one in self._terminals.logged_in(user) if one.accepting]
        return f"terminals {', '.join(lines)}" if lines else "no terminal that takes messages now"

    def _mailbox(self, user: str) -> str:
        account = self._directory.account(user)
        home = account.home if account is not None else ""
        template: str = self._configuration.mailboxes.maildir
        for key, value in (("data", self._configuration.data), ("home", home), ("user", user)):
            template = template.replace("{" + key + "}", value)
        return template


def _patterns(domain: str) -> Iterator[str]:
    """The keys of [routes] that may say where `domain` goes, in the order in which they are asked."""
    yield domain
    while not domain.startswith("[") and "." in domain:
        domain = domain.partition(".")[2]
        yield f"*.{domain}"
    yield "*"


def _said(reply: Reply) -> str:
    return f"{reply.code} {' / '.join(reply.lines)}"
