"""Who is here: exact names, names whatever the case, full names, overlays, the postmaster."""

from __future__ import annotations

from collections.abc import Iterable
from pwd import struct_passwd

import pytest
from zope.interface.verify import verifyObject

from mailnode.directory.directory import Directory
from mailnode.directory.system import MAX_AGE, MAX_NAMES, SystemUsers
from mailnode.directory.users import NamedUsers
from mailnode.interfaces import Account, Addresses, Ambiguous, Forward, IDirectory, Moved, Unknown
from mailnode.mail import Path

USERS = NamedUsers(
    [
        ("Admin.MRC", "Mark Crispin"),
        ("jones", "Jim Jones"),
        ("Sam", "Sam Q. Smith"),
        ("sam", "Samantha Smith"),
        ("brown", ""),
    ]
)
DIRECTORY = Directory(
    [USERS],
    aliases={"root": [("", Path("jones"))]},
    lists={"Staff": [("", Path("jones")), ("Green", Path("green", "usc.example"))]},
    forward={"smith": Path("smith", "usc.example")},
    moved={"green": Path("green", "usc.example")},
    domains=["mit.example"],
)


def names(finding: object) -> object:
    """A finding in short: the name of an account, the names of ambiguous ones, else its type."""
    if isinstance(finding, Account):
        return finding.name
    if isinstance(finding, Ambiguous):
        return {account.name for account in finding.accounts}
    return type(finding)


def test_the_directory_keeps_the_contract() -> None:
    assert verifyObject(IDirectory, DIRECTORY)


@pytest.mark.parametrize(
    ("local", "found"),
    [
        ("jones", "jones"),
        ("JONES", "jones"),
        ("admin.mrc", "Admin.MRC"),
        ("sam", "sam"),
        ("Sam", "Sam"),
        ("SAM", {"Sam", "sam"}),
        ("root", Addresses),
        ("ROOT", Addresses),
        ("staff", Addresses),
        ("Smith", Forward),
        ("green", Moved),
        ("nobody", Unknown),
        ("", Unknown),
        ("../jones", Unknown),
        ("jones ", Unknown),
        ("jones\x00", Unknown),
        ("jones%mit.example", Unknown),
        ("Crispin", Unknown),
        ("j" * 65, Unknown),
        ("postmaster", "postmaster"),
        ("PostMaster", "postmaster"),
    ],
)
def test_a_local_part_is_looked_up_exactly_and_then_whatever_the_case(local: str, found: object) -> None:
    assert names(DIRECTORY.lookup(local)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("jones", "jones"),
        ("jones@MIT.example", "jones"),
        ("<jones@mit.example>", "jones"),
        ("<jones>", "jones"),
        ("jones@usc.example", Unknown),
        ("<@a:jones@mit.example>", Unknown),
        ("Crispin", "Admin.MRC"),
        ("crispin", "Admin.MRC"),
        ("Mark Crispin", "Admin.MRC"),
        ("Crispin, Mark", "Admin.MRC"),
        ("Mark Jones", Unknown),
        ("Smith", Forward),
        ("Samantha Smith", "sam"),
        ("Q Smith", "Sam"),
        ("crispin@mit.example", Unknown),
        ("staff", Addresses),
        ("", Unknown),
        ("@", Unknown),
        ("a " * 200, Unknown),
        ("mark " * 20, Unknown),
    ],
)
def test_words_of_a_person_are_a_name_or_a_full_name(text: str, found: object) -> None:
    assert names(DIRECTORY.find(text)) == found


def test_several_users_of_one_full_name_are_ambiguous() -> None:
    directory = Directory([NamedUsers([("a", "Sam Smith"), ("b", "Joe Smith")])])
    assert names(directory.find("smith")) == {"a", "b"}


def test_a_list_keeps_its_name_and_its_members_in_order() -> None:
    found = DIRECTORY.lookup("STAFF")
    assert found == Addresses(
        "Staff", (("", Path("jones")), ("Green", Path("green", "usc.example"))), is_list=True
    )


@pytest.mark.parametrize(
    ("directory", "found"),
    [
        (Directory([]), "postmaster"),
        (Directory([NamedUsers([("Postmaster", "")])]), "Postmaster"),
        (Directory([], postmaster=Path("postmaster")), "postmaster"),
        (Directory([], postmaster=Path("Postmaster", "a.b"), domains=["A.b"]), "postmaster"),
        (Directory([USERS], postmaster=Path("jones")), Addresses),
        (Directory([USERS], aliases={"Postmaster": [("", Path("jones"))]}), Addresses),
        (Directory([], postmaster=Path("root", "usc.example")), Addresses),
    ],
)
def test_the_postmaster_is_always_found(directory: Directory, found: object) -> None:
    for local in ("postmaster", "POSTMASTER"):
        assert names(directory.lookup(local)) == found


def test_an_alias_of_the_postmaster_wins_over_the_configured_one() -> None:
    directory = Directory([], aliases={"postmaster": [("", Path("a"))]}, postmaster=Path("b"))
    assert directory.lookup("postmaster") == Addresses("postmaster", (("", Path("a")),))


def test_who_logs_in_is_a_user_in_upper_or_lower_case() -> None:
    assert DIRECTORY.is_user("jones") and DIRECTORY.is_user("Jones")
    assert not any(map(DIRECTORY.is_user, ("root", "", "jon", "jones@mit.edu", "../jones", "\0jones")))


def test_the_account_of_a_user_is_found_by_its_exact_name_only() -> None:
    assert DIRECTORY.account("jones") == Account("jones", "Jim Jones")
    assert DIRECTORY.account("Jones") is None
    assert DIRECTORY.account("root") is None
    assert DIRECTORY.account("postmaster") == Account("postmaster")


# ------------------------------------------------------------- login names of the host


def entry(name: str, uid: int, shell: str = "/bin/sh", gecos: str = "") -> struct_passwd:
    return struct_passwd((name, "x", uid, uid, gecos, f"/home/{name}", shell))


class Database:
    """A user database that counts what it is asked, with a clock."""

    def __init__(self, *entries: struct_passwd) -> None:
        self.entries = {one.pw_name: one for one in entries}
        self.asked: list[str] = []
        self.now = 0.0
        self.users = SystemUsers(self.getpwnam, self.getpwall, lambda: self.now)

    def getpwnam(self, name: str) -> struct_passwd:
        self.asked.append(name)
        return self.entries[name]

    def getpwall(self) -> Iterable[struct_passwd]:
        self.asked.append("*")
        return list(self.entries.values())


@pytest.mark.parametrize(
    ("one", "is_user"),
    [
        (entry("root", 0, "/usr/sbin/nologin"), True),
        (entry("jones", 1000, "/bin/bash"), True),
        (entry("virtual", 1001, "/usr/sbin/nologin"), True),
        (entry("git", 110, "/bin/bash"), True),
        (entry("www-data", 33, "/usr/sbin/nologin"), False),
        (entry("sync", 4, "/bin/sync"), False),
        (entry("daemon", 1, "/bin/false"), False),
        (entry("nobody", 65534, "/bin/sh"), False),
        (entry(".hidden", 1002), False),
        (entry("../x", 1002), False),
    ],
)
def test_people_are_users_and_services_are_not(one: struct_passwd, is_user: bool) -> None:
    database = Database(one)
    assert (database.users.exact(one.pw_name) is not None) == is_user
    assert bool(database.users.alike(one.pw_name)) == is_user


def test_a_login_name_is_an_account_with_its_full_name_and_home() -> None:
    database = Database(entry("jones", 1000, gecos="Jim &,Room 5,,"))
    assert database.users.exact("jones") == Account("jones", "Jim Jones", "/home/jones", 1000, 1000)
    assert names(Directory([database.users]).find("jim")) == "jones"


def test_control_characters_of_a_full_name_go_nowhere() -> None:
    account = Database(entry("jones", 1000, gecos="\x1b[2J")).users.exact("jones")
    assert account is not None
    assert account.full_name == ""


def test_the_database_is_asked_once_a_minute_for_a_name() -> None:
    database = Database(entry("jones", 1000))
    directory = Directory([database.users])
    for _ in range(100):
        directory.lookup("jones")
        directory.lookup("nobody")
    assert database.asked == ["jones", "nobody", "*"]
    del database.entries["jones"]
    database.now = MAX_AGE
    assert names(directory.lookup("jones")) is Unknown


def test_a_strange_name_never_reaches_the_database() -> None:
    database = Database()
    for name in ("\x00", "../x", "a" * 65, "a b", "", "é"):
        assert database.users.exact(name) is None
    assert database.asked == []


def test_a_database_that_ignores_case_gives_no_exact_match() -> None:
    database = Database()
    users = SystemUsers(lambda name: entry("jones", 1000), lambda: [entry("jones", 1000)], lambda: 0.0)
    assert users.exact("JONES") is None
    assert names(Directory([users]).lookup("JONES")) == "jones"
    assert database.asked == []


def test_only_so_many_names_are_remembered() -> None:
    database = Database()
    for number in range(MAX_NAMES + 10):
        database.users.exact(f"u{number}")
    assert len(database.users._names) == MAX_NAMES


def test_a_named_user_stands_before_a_login_name() -> None:
    database = Database(entry("jones", 1000, gecos="Login Jones"))
    directory = Directory([NamedUsers([("jones", "Named Jones")]), database.users])
    assert directory.lookup("jones") == Account("jones", "Named Jones")
    assert names(directory.lookup("Jones")) == "jones"
