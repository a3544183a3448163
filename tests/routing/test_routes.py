"""Where recipients lead: source routes, local names, lists, forwards, relay and who may not."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.interfaces import IRouting
from mailnode.mail import NULL_PATH, Destination, Held, Hop, Local, Mode, Path, Reply, Rights, Ruling
from mailnode.routing.routes import Routing
from mailnode.smtp.grammar import parse_path

STRANGER = Rights()
TRUSTED = Rights(relay=True, verify=True, expand=True)

DIRECTORY = Directory(
    [
        NamedUsers(
            [("jones", "Jim Jones"), ("brown", ""), ("Sam", ""), ("sam", ""), ("boss", "A. (The) Boss")]
        )
    ],
    aliases={
        "root": [("", Path("jones"))],
        "both": [("", Path("jones")), ("", Path("jones")), ("", Path("x", "usc.example"))],
        "loop": [("", Path("pool"))],
        "pool": [("", Path("loop")), ("", Path("brown"))],
        "void": [("", Path("nil"))],
        "nil": [("", Path("void"))],
        "brown": [("", Path("brown")), ("", Path("brown", "usc.example"))],
        "dead": [("", Path("nobody")), ("", Path("jones"))],
        "gone": [("", Path("nobody"))],
        "diamond": [("", Path("root")), ("", Path("both")), ("", Path("brown")), ("", Path("brown"))],
        "many": [("", Path(f"u{n}", "usc.example")) for n in range(1001)],
        "owner-staff": [("", Path("boss"))],
        "away": [("", Path("fwd"))],
        "leafy": [("", Path("x", "leaf.example"))],
    },
    lists={
        "staff": [("", Path("jones")), ("Green", Path("green", "usc.example"))],
        "club": [("", Path("brown")), ("", Path("staff"))],
    },
    forward={"fwd": Path("smith", "usc.example"), "near": Path("jones"), "lost": Path("nobody")},
    moved={"green": Path("green", "usc.example"), "aside": Path("jones")},
    domains=["mit.example", "a.example"],
)
ROUTING = Routing(
    "a.example",
    ["mit.example"],
    DIRECTORY,
    routes={
        "smart.example": "tcp:192.0.2.1:25",
        "*.arpa": "tcp:arpa:25",
        "*.deep.arpa": "tcp:deep:25",
        "exact.arpa": "mx",
        "wait.example": "hold",
    },
    held=["leaf.example"],
    addresses=["127.0.0.1", "192.0.2.9"],
)


def route(text: str, rights: Rights = STRANGER, mode: Mode = Mode.MAIL) -> Ruling:
    path = parse_path(text)
    assert path is not None
    return ROUTING.route(path, mode, rights)


def places(ruling: Ruling) -> list[str]:
    """Destinations in short."""
    return [
        one.place.user if isinstance(one.place, Local) else f"{type(one.place).__name__}:{one.path.mailbox}"
        for one in ruling.destinations
    ]


def test_routing_keeps_the_contract() -> None:
    assert verifyObject(IRouting, ROUTING)


@pytest.mark.parametrize(
    ("text", "code", "leads_to"),
    [
        ("<jones@mit.example>", 250, ["jones"]),
        ("<JONES@MIT.EXAMPLE>", 250, ["jones"]),
        ("<jones@a.example>", 250, ["jones"]),
        ("<jones@[192.0.2.9]>", 250, ["jones"]),
        ("<@a.example:jones@mit.example>", 250, ["jones"]),
        ("<@mit.example,@A.example:jones@a.example>", 250, ["jones"]),
        ("<Postmaster>", 250, ["postmaster"]),
        ("<POSTMASTER@mit.example>", 250, ["postmaster"]),
        ("<>", 550, []),
        ('<""@mit.example>', 550, []),
        ("<nobody@mit.example>", 550, []),
        ("<SAM@mit.example>", 553, []),
        ("<green@mit.example>", 551, []),
        ("<fwd@mit.example>", 251, ["Hop:smith@usc.example"]),
        ("<near@mit.example>", 251, ["jones"]),
        ("<lost@mit.example>", 550, []),
        ("<root@mit.example>", 250, ["jones"]),
        ("<both@mit.example>", 250, ["jones", "Hop:x@usc.example"]),
        ("<loop@mit.example>", 250, ["brown", "Hop:brown@usc.example"]),
        ("<brown@mit.example>", 250, ["brown", "Hop:brown@usc.example"]),
        ("<void@mit.example>", 550, []),
        ("<dead@mit.example>", 250, ["nobody", "jones"]),
        ("<gone@mit.example>", 550, []),
        ("<away@mit.example>", 250, ["Hop:smith@usc.example"]),
        ("<leafy@mit.example>", 250, ["Held:x@leaf.example"]),
        ("<many@mit.example>", 451, []),
        ("<x@leaf.example>", 250, ["Held:x@leaf.example"]),
        ("<x@LEAF.example>", 250, ["Held:x@leaf.example"]),
    ],
)
def test_what_a_stranger_may_send_to(text: str, code: int, leads_to: list[str]) -> None:
    for mode in Mode:
        ruling = route(text, STRANGER, mode)
        assert ruling.reply.code == code
        assert [place.lower() for place in places(ruling)] == [place.lower() for place in leads_to]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    "text",
    [
        "<x@usc.example>",
        "<@usc.example:jones@mit.example>",
        "<@a.example,@usc.example:jones@mit.example>",
        "<@a.example:x@usc.example>",
        "<@leaf.example:x@usc.example>",
        "<@leaf.example:x@leaf.example>",
        "<@usc.example:x@leaf.example>",
        "<x%usc.example@mit.example>",
        '<"x@usc.example"@mit.example>',
        "<usc.example!x@mit.example>",
        "<jones%mit.example@usc.example>",
        "<x@[192.0.2.1]>",
        "<x@[IPv6:2001:db8::1]>",
        '<"@usc.example:x"@mit.example>',
        "<x@sub.leaf.example>",
        "<x@wait.example>",
        "<x@notmit.example>",
        "<x@mit.example.usc.example>",
        "<x@#123>",
    ],
)
def test_a_stranger_cannot_relay_in_any_form_and_hears_the_same_words(text: str, mode: Mode) -> None:
    ruling = route(text, STRANGER, mode)
    assert ruling.destinations == ()
    assert (ruling.reply.code, ruling.reply.text) == (550, "No such user here")
    assert ruling.reply.text == route("<nobody@mit.example>").reply.text


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("<x@usc.example>", Hop("usc.example", "mx")),
        ("<x@USC.example>", Hop("usc.example", "mx")),
        ("<x@smart.example>", Hop("smart.example", "tcp:192.0.2.1:25")),
        ("<x@sub.smart.example>", Hop("sub.smart.example", "mx")),
        ("<x@host.arpa>", Hop("host.arpa", "tcp:arpa:25")),
        ("<x@a.b.arpa>", Hop("a.b.arpa", "tcp:arpa:25")),
        ("<x@a.deep.arpa>", Hop("a.deep.arpa", "tcp:deep:25")),
        ("<x@deep.arpa>", Hop("deep.arpa", "tcp:arpa:25")),
        ("<x@exact.arpa>", Hop("exact.arpa", "mx")),
        ("<x@arpa>", Hop("arpa", "mx")),
        ("<x@wait.example>", Held("wait.example")),
        ("<x@[192.0.2.1]>", Hop("[192.0.2.1]", "mx")),
        ("<@smart.example:x@usc.example>", Hop("smart.example", "tcp:192.0.2.1:25")),
        ("<@leaf.example:x@usc.example>", Held("leaf.example")),
    ],
)
def test_the_next_hop_is_the_first_host_of_the_path_by_the_most_exact_route(
    text: str, place: Hop | Held
) -> None:
    assert [one.place for one in route(text, TRUSTED).destinations] == [place]


def test_a_star_route_takes_all_that_no_other_takes() -> None:
    routing = Routing("a", [], DIRECTORY, routes={"*": "tcp:hub:25", "x.example": "mx"})
    for domain, target in (("x.example", "mx"), ("y.example", "tcp:hub:25"), ("[192.0.2.1]", "tcp:hub:25")):
        assert routing.route(Path("u", domain), Mode.MAIL, TRUSTED).destinations[0].place == Hop(
            domain, target
        )


def test_our_name_goes_from_the_forward_path_to_the_reverse_path() -> None:
    # RFC 821 3.6: the example of HOSTA.ARPA
    routing = Routing("HOSTA.ARPA", [], DIRECTORY)
    path = parse_path("<@HOSTA.ARPA,@HOSTB.ARPA:USERC@HOSTD.ARPA>")
    assert path is not None
    (destination,) = routing.route(path, Mode.MAIL, TRUSTED).destinations
    assert str(destination.path) == "<@HOSTB.ARPA:USERC@HOSTD.ARPA>"
    assert destination.place == Hop("hostb.arpa")
    assert str(destination.reverse_path(Path("USERX", "HOSTY.ARPA"))) == "<@HOSTA.ARPA:USERX@HOSTY.ARPA>"
    assert destination.reverse_path(NULL_PATH) == NULL_PATH


def test_several_own_names_stand_on_the_reverse_path_last_passed_first() -> None:
    (destination,) = route("<@a.example,@mit.example:x@usc.example>", TRUSTED).destinations
    assert destination.via == ("mit.example", "a.example")


def test_a_foreign_first_hop_keeps_the_route_unchanged() -> None:
    (destination,) = route("<@b.example,@a.example:x@mit.example>", TRUSTED).destinations
    assert destination == Destination(Hop("b.example"), Path("x", "mit.example", ("b.example", "a.example")))


def test_the_words_of_251_and_551_name_the_path() -> None:
    assert route("<fwd@mit.example>").reply.text == "User not local; will forward to <smith@usc.example>"
    assert route("<green@mit.example>").reply.text == "User not local; please try <green@usc.example>"
    assert route("<aside@mit.example>").reply.text == "User not local; please try <jones@mit.example>"
    assert route("<SAM@mit.example>").reply.text == "User ambiguous"


def test_a_list_changes_the_reverse_path_to_its_owner() -> None:
    jones, green = route("<staff@mit.example>").destinations
    assert jones == Destination(
        Local("jones"), Path("jones", "mit.example"), sender=Path("owner-staff", "mit.example")
    )
    assert green.path == Path("green", "usc.example")
    assert green.reverse_path(Path("smith", "x")) == Path("owner-staff", "mit.example")


def test_a_list_without_an_owner_is_the_postmasters() -> None:
    by_place = {
        places(Ruling(Reply(250), (one,)))[0]: one.sender for one in route("<club@mit.example>").destinations
    }
    assert by_place["brown"] == Path("postmaster", "a.example")
    assert by_place["jones"] == Path("owner-staff", "mit.example")  # by the inner list


def test_names_that_meet_again_are_reached_once() -> None:
    assert sorted(places(route("<diamond@mit.example>"))) == [
        "Hop:brown@usc.example",
        "Hop:x@usc.example",
        "brown",
        "jones",
    ]


def test_a_long_chain_of_aliases_is_followed_without_recursion() -> None:
    aliases = {f"n{n}": [("", Path(f"n{n + 1}"))] for n in range(5000)}
    routing = Routing("a", [], Directory([NamedUsers([("n5000", "")])], aliases=aliases))
    assert places(routing.route(Path("n0", "a"), Mode.MAIL, STRANGER)) == ["n5000"]


def test_the_postmaster_is_reached_even_if_the_alias_leads_nowhere() -> None:
    routing = Routing("a", [], Directory([], aliases={"postmaster": [("", Path("nobody"))]}))
    assert places(routing.route(Path("Postmaster"), Mode.MAIL, STRANGER)) == ["postmaster"]


# --------------------------------------------------------------------- VRFY and EXPN


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("jones", "250 Jim Jones <jones@mit.example>"),
        ("Jones@mit.example", "250 Jim Jones <jones@mit.example>"),
        ("brown", "250 <brown@mit.example>"),
        ("boss", '250 "A. (The) Boss" <boss@mit.example>'),
        ("Jim", "250 Jim Jones <jones@mit.example>"),
        ("root", "250 <root@mit.example>"),
        ("fwd", "251 User not local; will forward to <smith@usc.example>"),
        ("green", "551 User not local; please try <green@usc.example>"),
        ("SAM", "553 User ambiguous"),
        ("staff", "550 That is a mailing list, not a user"),
        ("nobody", "550 No such user here"),
        ("x@usc.example", "550 No such user here"),
        ("\x1b[2J", "550 No such user here"),
    ],
)
def test_vrfy(text: str, reply: str) -> None:
    assert ROUTING.verify(text, TRUSTED).encode() == f"{reply}\r\n".encode()


@pytest.mark.parametrize("text", ["jones", "nobody", "staff", "SAM", "green", "", "\x1b"])
def test_a_stranger_hears_the_same_whoever_is_asked_for(text: str) -> None:
    assert ROUTING.verify(text, STRANGER) == ROUTING.verify("jones", STRANGER)
    assert ROUTING.verify(text, STRANGER).code == 252
    assert ROUTING.expand(text, STRANGER).encode() == b"550 Access Denied to You.\r\n"


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("staff", b"250-Jim Jones <jones@mit.example>\r\n250 Green <green@usc.example>\r\n"),
        ("club", b"250-<brown@mit.example>\r\n250 <staff@mit.example>\r\n"),
        ("root", b"250 Jim Jones <jones@mit.example>\r\n"),
        ("jones", b"550 That is a user name, not a mailing list\r\n"),
        ("green", b"550 That is a user name, not a mailing list\r\n"),
        ("nobody", b"550 No such mailing list here\r\n"),
    ],
)
def test_expn(text: str, reply: bytes) -> None:
    assert ROUTING.expand(text, TRUSTED).encode() == reply


@pytest.mark.parametrize(
    ("domain", "tls"),
    [
        ("safe.example", "verified"),
        ("SAFE.example", "verified"),
        ("a.b.arpa", "required"),
        ("deep.arpa", "required"),
        ("x.deep.arpa", "opportunistic"),
        ("else.example", "none"),
        ("[192.0.2.1]", "none"),
    ],
)
def test_the_route_says_how_much_tls_a_hop_needs(domain: str, tls: str) -> None:
    routes = {"Safe.example": "mx", "*.arpa": "tcp:arpa:25", "*.deep.arpa": "tcp:deep:25", "*": "mx"}
    policies = {"Safe.example": "verified", "*.arpa": "required", "*": "none"}
    routing = Routing("a", [], DIRECTORY, routes=routes, tls=policies)
    (destination,) = routing.route(Path("u", domain), Mode.MAIL, TRUSTED).destinations
    assert isinstance(destination.place, Hop) and destination.place.tls == tls
