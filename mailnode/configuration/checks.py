"""What a configuration may not say although each of its values is well formed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from mailnode.configuration.decoding import Problems, key_path
from mailnode.configuration.endpoints import where_of
from mailnode.configuration.sections import Configuration, Dial, Peer
from mailnode.configuration.values import shown
from mailnode.mail import CHUNK, Path
from mailnode.smtp.grammar import LOCAL_LIMIT, parse_domain

Finding = tuple[str, str]  # key path, what is wrong there


def _always(value: object) -> bool:
    return True


# Keys that the structure knows and this version does not obey: (key path, the values meant). They are
# errors, so that nothing which an operator wrote is silently without effect.
NOT_YET: Final[tuple[tuple[str, Callable[[Any], bool]], ...]] = (("mailboxes.lmtp", _always),)


def not_yet(raw: Mapping[str, object]) -> Iterator[Finding]:
    """The keys of `raw` whose function is not in this version."""
    for pattern, meant in NOT_YET:
        for path, value in _select(raw, pattern.split("."), ""):
            if meant(value):
                value_text = f"{value} is " if isinstance(value, str) and value.isalnum() else ""
                yield path, f"{value_text}not available in this version"


def _select(value: object, pattern: list[str], path: str) -> Iterator[tuple[str, object]]:
    if not pattern:
        yield path, value
        return
    key, is_list = pattern[0].removesuffix("[]"), pattern[0].endswith("[]")
    if not isinstance(value, Mapping) or key not in value:
        return
    inner, path = value[key], key_path(path, key)
    if not is_list:
        yield from _select(inner, pattern[1:], path)
    elif isinstance(inner, list):
        for index, item in enumerate(inner):
            yield from _select(item, pattern[1:], f"{path}[{index}]")


def check(
    configuration: Configuration, known: Problems, is_file: Callable[[str], bool], to_come: bool = False
) -> None:
    """Puts what is wrong into `known`, leaving alone the keys that it names already. `to_come`: a certificate
    is to be made, so none needs to be there."""
    rules = (_listeners, _tls, _names, _alias_loops, _postmaster, _peers, _secrets, _dials, _routes, _times)
    for rule in rules if to_come else (_lacking, *rules):
        for path, text in list(rule(configuration, known)):
            known.setdefault(path, text)
    for path, text in _files(configuration, is_file):
        known.setdefault(path, text)


def _spoiled(known: Problems, *places: str) -> bool:
    """Whether something in `places` was wrong already, so that its absence proves nothing."""
    return any(
        path.startswith(place) and path[len(place) :][:1] in ("", ".", "[")
        for path in known
        for place in places
    )


def _lacking(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    if _has_certificate(configuration) or _spoiled(known, "tls"):
        return
    for index, listen in enumerate(configuration.listen):
        if listen.tls in ("starttls", "implicit"):
            needed = "needs a certificate and a key in [tls] (mailnode certificate makes them)"
            yield f"listen[{index}].tls", f"{listen.tls} {needed}"


def _listeners(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    passwords = configuration.users.passwords is not None or _spoiled(known, "users.passwords")
    for index, listen in enumerate(configuration.listen):
        place = f"listen[{index}]"
        port = where_of(listen.endpoint).port
        first = seen.setdefault(listen.endpoint, index)
        if first != index and port != 0:  # each port 0 is another one
            yield f"{place}.endpoint", f"the same as listen[{first}].endpoint"
        if listen.role == "submission" and not passwords:
            yield f"{place}.role", "submission needs users.passwords, or nobody could log in"
        certified = any("certificate" in peer.allow for peer in configuration.peer)
        if listen.role == "odmr" and not (passwords or certified or _spoiled(known, "peer")):
            yield f"{place}.role", "odmr needs users.passwords, or nobody could log in"
        if listen.role == "lmtp" and port == 25:
            yield f"{place}.endpoint", "LMTP is not spoken on port 25 (RFC 2033 5)"
        if listen.bare_newlines == "normalize" and listen.role != "smtp":
            # Whoever submits by RFC 6409, or hands over by RFC 2033, is a program of today.
            yield f"{place}.bare_newlines", f"a listener of role {listen.role} only takes mail in good form"


def _has_certificate(configuration: Configuration) -> bool:
    return configuration.tls is not None and configuration.tls.certificate is not None


def _tls(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    tls = configuration.tls
    if tls is None or _spoiled(known, "tls.certificate", "tls.key"):
        return
    if (tls.certificate is None) is not (tls.key is None):
        yield ("tls.key", "missing") if tls.key is None else ("tls.certificate", "missing")
    elif tls.client and tls.certificate is None:
        yield "tls.client", "there is no certificate to show"


def _names(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    """A name means one thing only; users may be overlaid on purpose by aliases, forwards and moves."""
    taken: dict[str, str] = {}
    for section in ("aliases", "lists", "forward", "moved"):
        for name in getattr(configuration, section):
            place = key_path(section, name)
            if not (
                0 < len(name) <= LOCAL_LIMIT and name.isascii() and name.isprintable() and "@" not in name
            ):
                yield place, f"{shown(name)} is not a local name"
            if section == "moved" and name.lower() == "postmaster":
                yield place, "the postmaster must take mail here (RFC 5321 4.5.1)"
            first = taken.setdefault(name.lower(), place)
            if first != place:
                yield place, f"the name is taken by {first}"
    users: dict[str, int] = {}
    for index, user in enumerate(configuration.users.names):
        if users.setdefault(user.name, index) != index:
            yield f"users.names[{index}]", f"{user.name} is named twice"


def _alias_loops(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    """Aliases and lists that lead to themselves: depth first, each name looked at once."""
    here = {configuration.host.lower(), *configuration.domains}
    places: dict[str, str] = {}
    graph: dict[str, list[str]] = {}
    for section, names in (("aliases", configuration.aliases), ("lists", configuration.lists)):
        for name, targets in names.items():
            places[name.lower()] = key_path(section, name)
            graph[name.lower()] = [_local_name(target.path, here) for target in targets]
    users = {user.name.lower() for user in configuration.users.names}
    for name, next_names in graph.items():
        # An alias that names a user of the same name leaves a copy in that user's own mailbox.
        itself = name if configuration.users.system or name in users or _spoiled(known, "users") else ""
        graph[name] = [next_name for next_name in next_names if next_name in graph and next_name != itself]
    done: set[str] = set()
    for start in graph:
        for loop in _loops_from(start, graph, done):
            yield places[loop[0]], f"leads to itself: {' -> '.join(shown(name)[1:-1] for name in loop[:8])}"


def _loops_from(start: str, graph: Mapping[str, list[str]], done: set[str]) -> Iterator[list[str]]:
    if start in done:
        return
    trail = {start: iter(graph[start])}  # the names on the way here, in order
    while trail:
        current = next(reversed(trail))
        name = next(trail[current], None)
        if name is None:
            done.add(current)
            del trail[current]
        elif name in trail:
            names = list(trail)
            yield [*names[names.index(name) :], name]
        elif name not in done:
            trail[name] = iter(graph[name])


def _local_name(path: Path, here: Iterable[str]) -> str:
    """The name that a path stands for on this node, in lower case; "" if it leads elsewhere."""
    return "" if path.route or (path.domain and path.domain.lower() not in here) else path.local.lower()


def _postmaster(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    if configuration.postmaster is None or configuration.users.system:
        return  # login names are looked up when they are needed, not when a file is read
    if _spoiled(known, "users", "aliases", "lists", "forward", "domains", "hostname"):
        return
    here = {configuration.host.lower(), *configuration.domains}
    name = _local_name(configuration.postmaster.path, here)
    found = {user.name.lower() for user in configuration.users.names}
    for section in (configuration.aliases, configuration.lists, configuration.forward):
        found.update(key.lower() for key in section)
    if name and name != "postmaster" and name not in found:
        yield "postmaster", f"{shown(name)} is neither a user of this node nor an address"


def _peers(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    names: dict[str, int] = {}
    domains: dict[str, str] = {}
    fingerprints: dict[str, str] = {}
    here = {configuration.host.lower(), *configuration.domains}
    users = {user.name for user in configuration.users.names}
    for index, peer in enumerate(configuration.peer):
        path = f"peer[{index}]"
        if names.setdefault(peer.name, index) != index:
            yield f"{path}.name", f"{peer.name} is peer[{names[peer.name]}] already"
        if peer.name in users:
            yield f"{path}.name", f"{peer.name} is a user's name already"
        if not peer.domains:
            yield f"{path}.domains", "a peer without a domain has no mail"
        if not peer.allow:
            yield f"{path}.allow", "without any way to prove itself this peer gets nothing"
        if "address" in peer.allow and not peer.addresses and not _spoiled(known, f"{path}.addresses"):
            yield f"{path}.allow", "address needs addresses"
        if peer.addresses and "address" not in peer.allow and not _spoiled(known, f"{path}.allow"):
            yield f"{path}.addresses", 'without effect unless allow names "address"'
        yield from _peer_proofs(configuration, known, path, peer)
        if peer.fingerprint is not None and fingerprints.setdefault(peer.fingerprint, path) != path:
            yield f"{path}.fingerprint", f"the same as {fingerprints[peer.fingerprint]}.fingerprint"
        for number, domain in enumerate(peer.domains):
            place = f"{path}.domains[{number}]"
            if domain in here:
                yield place, f"{domain} is a local domain"
            elif domains.setdefault(domain, place) != place:
                yield place, f"{domain} is {domains[domain]} already"


def _peer_proofs(configuration: Configuration, known: Problems, path: str, peer: Peer) -> Iterator[Finding]:
    """What a peer proves itself by, and what is missing for it."""
    certificate = "certificate" in peer.allow
    if certificate and peer.fingerprint is None and not _spoiled(known, f"{path}.fingerprint"):
        yield f"{path}.allow", "certificate needs the fingerprint of the peer's certificate"
    elif certificate and not _has_certificate(configuration) and not _spoiled(known, "tls"):
        yield f"{path}.allow", "certificate needs [tls], or there is no handshake to prove it in"
    if _spoiled(known, f"{path}.allow"):
        return
    if peer.fingerprint is not None and not certificate:
        yield f"{path}.fingerprint", 'without effect unless allow names "certificate"'
    if peer.cram_md5 and "auth" not in peer.allow:
        yield f"{path}.cram_md5", 'without effect unless allow names "auth"'


def _secrets(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    if configuration.users.passwords is not None or _spoiled(known, "users.passwords"):
        return
    for index, peer in enumerate(configuration.peer):
        if "auth" in peer.allow and not _spoiled(known, f"peer[{index}].allow"):
            yield f"peer[{index}].allow", "auth needs users.passwords"
    for index, dial in enumerate(configuration.dial):
        if dial.user is not None:
            yield f"dial[{index}].user", "its password comes from users.passwords, which is missing"


def _dials(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    names: dict[str, int] = {}
    for index, dial in enumerate(configuration.dial):
        place = f"dial[{index}]"
        if names.setdefault(dial.name, index) != index:
            yield f"{place}.name", f"{dial.name} is dial[{names[dial.name]}] already"
        if dial.domains and dial.command == "TURN" and not _spoiled(known, f"{place}.command"):
            yield f"{place}.domains", "TURN fetches all there is; ATRN and ETRN name domains (RFC 2645)"
        single = next((domain for domain in dial.domains if "." not in domain), None)
        if single is not None and not _spoiled(known, f"{place}.domains"):
            yield f"{place}.domains", f"{single} is not a fully qualified domain"
        if dial.wait is not None and not 1 <= dial.wait <= 3600:
            yield f"{place}.wait", "must be at least 1s and at most 1h"
        if dial.wait is not None and dial.command == "ETRN" and not _spoiled(known, f"{place}.command"):
            yield f"{place}.wait", "ETRN turns no line that could stay open"
        if dial.every is not None and dial.every < 1:
            yield f"{place}.every", "must be at least 1s"
        if dial.tls == "verified" and dial.endpoint.startswith("ssl:"):
            yield f"{place}.tls", "ssl: verifies nobody; write tls:, or tcp: for STARTTLS"
        if dial.implicit and dial.tls == "none":
            yield f"{place}.implicit", 'without effect where tls = "none"'
        elif dial.implicit and dial.endpoint.startswith(("tls:", "ssl:")):
            yield f"{place}.implicit", f"{dial.endpoint[:3]}: is TLS from the first octet; write tcp:"
        if dial.fingerprint is not None:
            yield from _pinned(place, dial)


def _pinned(place: str, dial: Dial) -> Iterator[Finding]:
    """Where the certificate of the host cannot be looked at, a fingerprint proves nothing."""
    if dial.tls == "none":
        yield f"{place}.fingerprint", "without TLS there is no certificate"
    elif dial.endpoint.startswith(("tls:", "ssl:", "wrapped")):
        how = "write tcp:, for STARTTLS or with implicit"
        yield f"{place}.fingerprint", f"{how}; {dial.endpoint[:3]}: brings its own checks"


def _routes(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    here = {configuration.host.lower(), *configuration.domains}
    seen: set[str] = set()
    for pattern in configuration.routes:
        place = key_path("routes", pattern)
        suffix = pattern.removeprefix("*.")
        if pattern != "*" and parse_domain(suffix) is None:
            yield place, "neither a domain, nor *.domain, nor *"
        elif pattern.lower() in here:
            yield place, f"{pattern} is a local domain"
        elif pattern.lower() in seen:
            yield place, "there twice, in upper and lower case"
        seen.add(pattern.lower())


def _times(configuration: Configuration, known: Problems) -> Iterator[Finding]:
    retry = configuration.retry
    if retry.first < 1:
        yield "retry.first", "must be at least 1s"
    if retry.expire < retry.first:
        yield "retry.expire", "must not be less than retry.first"
    if configuration.limits.command_timeout < 1:
        yield "limits.command_timeout", "must be at least 1s"
    for key in ("header_size", "memory"):
        if getattr(configuration.limits, key) < CHUNK:
            yield f"limits.{key}", f"must be at least {CHUNK // 1024}K"
    for index, peer in enumerate(configuration.peer):
        if peer.keep < 60:
            yield f"peer[{index}].keep", "must be at least 1m"


def _files(configuration: Configuration, is_file: Callable[[str], bool]) -> Iterator[Finding]:
    if configuration.tls is not None:
        for key in ("certificate", "key", "roots"):
            name = getattr(configuration.tls, key)
            if name is not None and not is_file(name):
                yield f"tls.{key}", f"{shown(name)} is not a readable file"
