"""Authentication: our sender's exchanges against our receiver's, a passwords file and the rules of access."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogEvent, globalLogPublisher

from mailnode.access.backoff import Backoff
from mailnode.access.passwords import RUNNING, WAITING, Passwords
from mailnode.access.rules import Access, PeerRule
from mailnode.mail import Client, CramDigest, Credentials, External, Password, Reply, ScramKeys, ScramProof
from mailnode.smtp import sasl
from mailnode.smtp.replies import AUTH_FAILED, AUTH_LATER
from mailnode.smtp.sasl import Challenge, Claim, NeedKeys

T = TypeVar("T")

PEERS = [
    PeerRule("leaf", cram_md5=True),
    PeerRule("modern"),
    PeerRule("old", auth=False, networks=("192.0.2.7/32",), cram_md5=True),
    PeerRule("cert", auth=False, fingerprint="sha256:ab"),
    PeerRule("both", fingerprint="sha256:ab"),
]
STRANGER = Client("198.51.100.1")
SAFE = Client("198.51.100.1", tls=True)
OTHER = Client("203.0.113.9", tls=True)
CERTIFIED = Client("198.51.100.1", tls=True, fingerprint="sha256:ab")

SECRET = "open sesame"


def at_once(work: Callable[[], T], /) -> Deferred[T]:
    return succeed(work())


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Passwords:
    made = Passwords(str(tmp_path_factory.mktemp("secrets") / "passwords"), at_once)
    for name in ("jones", "modern", "cert"):
        made.set(name, SECRET)
    for name in ("leaf", "old", "us"):
        made.set(name, SECRET, recoverable=True)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(passwords: Passwords, clock: Clock) -> Access:
    return Access(["10.0.0.0/8"], "trusted", PEERS, passwords, Backoff(clock))


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def fired(answer: Deferred[Any]) -> Any:
    found: list[Any] = []
    answer.addBoth(found.append)
    assert found, "the answer has not come"
    return found[0]


def authenticate(access: Access, client: Client, credentials: Credentials) -> str | Reply:
    answer: str | Reply = fired(access.authenticate(client, credentials))
    return answer


def converse(
    access: Access, mechanism: str, name: str, secret: str, client: Client = SAFE
) -> str | Reply | None:
    """The whole dialogue of our sender and our receiver; None where the exchange was malformed."""
    chosen = sasl.choose(
        [mechanism], name, secret, private=True, certificate=bool(client.fingerprint), nonce=lambda: "abcdef"
    )
    assert chosen is not None
    theirs, ours = chosen[1], sasl.MECHANISMS[mechanism](lambda: "ghijkl", "mit.example")
    step = ours.start(theirs.first())
    while not isinstance(step, Claim):
        if isinstance(step, NeedKeys):
            keys: ScramKeys | Reply = fired(access.scram_keys(client, step.name))
            if isinstance(keys, Reply):
                return keys
            step = ours.keys(keys)
        elif isinstance(step, Challenge):
            answer = theirs.respond(step.octets)
            assert answer is not None
            step = ours.respond(answer)
        else:
            return None
    return authenticate(access, client, step.credentials)


# ------------------------------------------------------------------ who is right


@pytest.mark.parametrize(
    ("mechanism", "right"),
    [
        ("PLAIN", {"jones", "modern", "leaf", "us"}),
        ("LOGIN", {"jones", "modern", "leaf", "us"}),
        ("SCRAM-SHA-256", {"jones", "modern", "leaf", "us"}),
        ("CRAM-MD5", {"leaf"}),  # the only peer that may
    ],
)
def test_a_secret_proves_its_name_by_every_mechanism_that_the_name_may_use(
    access: Access, mechanism: str, right: set[str]
) -> None:
    for name in ("jones", "modern", "leaf", "us", "old", "cert", "nobody"):
        expected = name if name in right else AUTH_FAILED
        assert converse(access, mechanism, name, SECRET) == expected
        access._backoff.succeeded(SAFE.address)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256", "CRAM-MD5"])
def test_wrong_secrets_and_unknown_names_hear_the_same(access: Access, mechanism: str) -> None:
    assert converse(access, mechanism, "leaf", "wrong") == AUTH_FAILED
    assert converse(access, mechanism, "nobody", "wrong") == AUTH_FAILED


@pytest.mark.parametrize(
    ("name", "client", "answer"),
    [
        ("", CERTIFIED, "cert"),
        ("cert", CERTIFIED, "cert"),
        ("both", CERTIFIED, "both"),
        ("leaf", CERTIFIED, AUTH_FAILED),
        ("nobody", CERTIFIED, AUTH_FAILED),
        ("", SAFE, AUTH_FAILED),
        ("cert", SAFE, AUTH_FAILED),
        ("", Client("198.51.100.1", tls=True, fingerprint="sha256:cd"), AUTH_FAILED),
    ],
)
def test_a_certificate_proves_the_peer_that_it_belongs_to(
    access: Access, name: str, client: Client, answer: str | Reply
) -> None:
    assert authenticate(access, client, External(name)) == answer


def test_a_certificate_needs_no_passwords_file() -> None:
    assert converse(Access([], "none", PEERS), "EXTERNAL", "cert", "", CERTIFIED) == "cert"


@pytest.mark.parametrize(
    ("client", "credentials"),
    [
        (STRANGER, Password("jones", SECRET)),  # PLAIN where it could be read
        (Client("10.1.2.3"), Password("jones", SECRET)),
        (Client("198.51.100.1", tls=True, identity="jones"), Password("leaf", SECRET)),
        (Client("127.0.0.1", turned=True), Password("jones", SECRET)),
        (Client("127.0.0.1", turned=True), ScramProof("jones", True)),
        (Client("127.0.0.1", turned=True, fingerprint="sha256:ab"), External()),
    ],
)
def test_what_is_not_offered_is_refused_and_never_looked_at(
    access: Access, logged: list[LogEvent], client: Client, credentials: Credentials
) -> None:
    assert authenticate(access, client, credentials) == AUTH_FAILED
    assert logged == [] and len(access._backoff) == 0


def test_without_a_passwords_file_nobody_has_a_secret() -> None:
    rules = Access([], "none")
    assert authenticate(rules, SAFE, Password("a", "A")) == AUTH_FAILED
    assert authenticate(rules, SAFE, ScramProof("a", True)) == AUTH_FAILED
    assert fired(rules.scram_keys(SAFE, "a")) == AUTH_FAILED


def test_a_name_that_we_use_elsewhere_proves_nothing_here(passwords: Passwords, clock: Clock) -> None:
    """The host that we call knows that secret."""
    access = Access([], "none", [], passwords, Backoff(clock), callers=["jones"])
    assert authenticate(access, SAFE, Password("jones", SECRET)) == AUTH_FAILED
    keys, unknown = fired(access.scram_keys(SAFE, "jones")), fired(access.scram_keys(SAFE, "nobody"))
    assert keys != fired(passwords.keys("jones")) and keys.iterations == unknown.iterations


def test_a_name_that_is_neither_user_nor_peer_proves_nothing_whatever_secrets_are_kept(
    passwords: Passwords, clock: Clock
) -> None:
    """As a peer that was taken out of the configuration, whose line in the file stays."""
    for peers, users, names in (
        ([PeerRule("modern")], ["jones"], {"jones", "modern"}),
        ([], ["jones"], {"jones"}),
        ([PeerRule("modern")], [], {"modern"}),
    ):
        rules = Access([], "none", peers, passwords, Backoff(clock), is_user=users.__contains__)
        for name in ("jones", "modern", "us"):
            said = authenticate(rules, SAFE, Password(name, SECRET))
            assert said == (name if name in names else AUTH_FAILED)
            clock.now += 3600  # the back-off is not what is looked at here
            assert authenticate(rules, SAFE, ScramProof(name, True)) == said
            clock.now += 3600
            keys = fired(rules.scram_keys(SAFE, name))
            assert (keys == fired(passwords.keys(name))) is (name in names)


def test_who_may_not_use_a_secret_has_keys_like_an_unknown_name(access: Access, passwords: Passwords) -> None:
    """ "cert" has a line in the file, but has to prove itself by its certificate."""
    salts = [fired(access.scram_keys(SAFE, name)).salt for name in ("cert", "cert", "old", "nobody", "jones")]
    assert salts[0] == salts[1] and len(set(salts)) == 4
    assert salts[0] != passwords.find_keys("cert").salt and salts[4] == passwords.find_keys("jones").salt
    assert authenticate(access, SAFE, ScramProof("cert", True)) == AUTH_FAILED


# ------------------------------------------------------------------ the same work


class Counting:
    """Secrets that note what they were asked, and know nobody."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def verify(self, name: str, secret: str) -> Deferred[bool]:
        self.asked.append(("verify", name))
        return succeed(False)

    def verify_digest(self, name: str, challenge: bytes, digest: str) -> Deferred[bool]:
        self.asked.append(("verify_digest", name))
        return succeed(False)

    def keys(self, name: str) -> Deferred[ScramKeys]:
        self.asked.append(("keys", name))
        return succeed(ScramKeys(b"", 4096, b"", b""))


@pytest.mark.parametrize(
    ("credentials", "call", "hidden"),
    [
        (lambda name: Password(name, "x"), "verify", {"old"}),
        (lambda name: CramDigest(name, b"<a@b>", "0" * 32), "verify_digest", {"old", "jones", "nobody"}),
    ],
)
def test_every_name_is_asked_for_once_in_the_same_way(
    credentials: Callable[[str], Credentials], call: str, hidden: set[str]
) -> None:
    """What the answer costs `tests/access/test_passwords.py` shows."""
    for name in ("leaf", "jones", "old", "nobody"):
        secrets = Counting()
        authenticate(Access([], "none", PEERS, secrets), SAFE, credentials(name))
        fired(Access([], "none", PEERS, secrets).scram_keys(SAFE, name))
        # A name with a NUL is in no file.
        asked = "\0" + name if name in hidden else name
        of_keys = name if name != "old" else "\0old"
        assert secrets.asked == [(call, asked), ("keys", of_keys)]


# ------------------------------------------------------------------ the back-off

WRONG = Password("jones", "wrong")
RIGHT = Password("jones", SECRET)


def test_after_three_failures_a_host_waits_and_others_do_not(access: Access, clock: Clock) -> None:
    assert [authenticate(access, SAFE, WRONG) for _ in range(4)] == [AUTH_FAILED] * 3 + [AUTH_LATER]
    assert authenticate(access, SAFE, RIGHT) == AUTH_LATER
    assert authenticate(access, OTHER, RIGHT) == "jones"
    clock.now += 2
    assert authenticate(access, SAFE, WRONG) == AUTH_FAILED
    clock.now += 3.9
    assert authenticate(access, SAFE, RIGHT) == AUTH_LATER
    clock.now += 0.1
    assert authenticate(access, SAFE, RIGHT) == "jones"
    assert authenticate(access, SAFE, WRONG) == AUTH_FAILED
    assert authenticate(access, SAFE, RIGHT) == "jones"


@pytest.mark.parametrize(
    ("client", "credentials"),
    [
        (SAFE, WRONG),
        (SAFE, Password("nobody", "x")),
        (STRANGER, ScramProof("jones", False)),
        (STRANGER, CramDigest("leaf", b"<a@b>", "0" * 32)),
        (CERTIFIED, External("leaf")),
    ],
)
def test_failures_count_whatever_the_mechanism(
    access: Access, client: Client, credentials: Credentials
) -> None:
    answers = [authenticate(access, client, credentials) for _ in range(4)]
    assert answers == [AUTH_FAILED] * 3 + [AUTH_LATER]


def test_while_a_host_waits_nobody_is_asked() -> None:
    secrets = Counting()
    rules = Access([], "none", PEERS, secrets, Backoff(Clock()))
    for _ in range(10):
        authenticate(rules, SAFE, WRONG)
    assert len(secrets.asked) == 3
    assert fired(rules.scram_keys(SAFE, "jones")) == AUTH_LATER
    assert len(secrets.asked) == 3


def test_while_a_host_waits_a_right_proof_is_not_told_from_a_wrong_one(access: Access, clock: Clock) -> None:
    for _ in range(3):
        authenticate(access, SAFE, WRONG)
    for secret in (SECRET, "wrong"):
        assert converse(access, "SCRAM-SHA-256", "jones", secret) == AUTH_LATER
    assert authenticate(access, SAFE, ScramProof("jones", True)) == AUTH_LATER
    clock.now += 2
    assert converse(access, "SCRAM-SHA-256", "jones", SECRET) == "jones"


def test_new_rules_remember_what_the_old_ones_knew(passwords: Passwords, clock: Clock) -> None:
    backoff = Backoff(clock)
    for _ in range(3):
        authenticate(Access([], "none", PEERS, passwords, backoff), SAFE, WRONG)
    assert authenticate(Access([], "none", PEERS, passwords, backoff), SAFE, RIGHT) == AUTH_LATER


def test_what_finds_the_queue_full_is_put_off_and_counts_as_no_failure(tmp_path: Path) -> None:
    threads: list[Deferred[Any]] = []

    def in_thread(work: Callable[[], Any], /) -> Deferred[Any]:
        threads.append(Deferred())
        return threads[-1]

    backoff = Backoff(Clock())
    rules = Access([], "none", PEERS, Passwords(str(tmp_path / "none"), in_thread), backoff)
    answers: list[object] = []
    for _ in range(RUNNING + WAITING):
        rules.authenticate(SAFE, WRONG).addCallback(answers.append)
    assert answers == []
    assert [authenticate(rules, OTHER, RIGHT) for _ in range(5)] == [AUTH_LATER] * 5
    assert len(backoff) == 0
    while threads:
        threads.pop(0).callback(False)
    assert answers == [AUTH_FAILED] * (RUNNING + WAITING)


def test_a_file_that_cannot_be_read_is_no_failure_of_the_client(tmp_path: Path) -> None:
    (tmp_path / "passwords").mkdir()
    backoff = Backoff(Clock())

    def in_thread(work: Callable[[], Any], /) -> Deferred[Any]:
        return succeed(None).addCallback(lambda _: work())

    rules = Access([], "none", PEERS, Passwords(str(tmp_path / "passwords"), in_thread), backoff)
    found: list[object] = []
    rules.authenticate(SAFE, WRONG).addErrback(lambda failure: found.append(failure.type))
    assert found == [IsADirectoryError] and len(backoff) == 0


# ------------------------------------------------------------------ the log


def test_a_failure_is_logged_with_address_and_mechanism_and_without_the_secret(
    access: Access, logged: list[LogEvent]
) -> None:
    for credentials in (WRONG, ScramProof("jones", False), CramDigest("leaf", b"<a@b>", "0" * 32)):
        authenticate(access, SAFE, credentials)
    lines = [event["log_format"].format_map(event) for event in logged]
    assert lines == [
        "198.51.100.1: authentication by PLAIN or LOGIN failed for 'jones'; next attempt in 0 s",
        "198.51.100.1: authentication by SCRAM-SHA-256 failed for 'jones'; next attempt in 0 s",
        "198.51.100.1: authentication by CRAM-MD5 failed for 'leaf'; next attempt in 2 s",
    ]
    assert "wrong" not in repr(logged)


def test_a_name_from_outside_is_filtered_in_the_log(access: Access, logged: list[LogEvent]) -> None:
    authenticate(access, Client(""), Password("\x1b[2J\n{address}\u202e" + "x" * 200, "secret"))
    (event,) = logged
    line = event["log_format"].format_map(event)
    assert line.startswith("local: authentication by PLAIN or LOGIN failed for '\\x1b[2J\\n{address}\\u202ex")
    assert line.isascii() and line.isprintable() and len(line) < 200


def test_a_success_is_not_logged_as_a_failure(access: Access, logged: list[LogEvent]) -> None:
    assert authenticate(access, SAFE, RIGHT) == "jones"
    assert logged == []
