"""The configuration: its defaults, what each key means, and every error at once with its key."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path as FilePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.config import Configuration, ConfigurationErrors, find, load, parse
from mailnode.configuration import values
from mailnode.configuration.checks import NOT_YET
from mailnode.configuration.endpoint_strings import check_client_endpoint, check_server_endpoint
from mailnode.configuration.values import NamedUser, Route, Target
from mailnode.mail import Path
from mailnode.welcome import Welcome

HEAD = 'hostname = "MIT.example"\n'


def read(text: str, folder: str = "/etc/mailnode") -> Configuration:
    return parse(HEAD + text, folder, lambda: "host.example")


# What an ssl: endpoint without its file is called, with pyOpenSSL and without it.
NO_CERTIFICATE = "No such file" if find_spec("OpenSSL") else "needs the package pyOpenSSL"


def errors(text: str, folder: str = "/etc/mailnode") -> list[str]:
    with pytest.raises(ConfigurationErrors) as caught:
        parse(text, folder, lambda: "host.example")
    return list(caught.value.lines)


# -------------------------------------------------------------------- where it is


def test_without_any_file_the_embedded_default_runs(tmp_path: FilePath) -> None:
    configuration = load(None, {"HOME": str(tmp_path)}, str(tmp_path), lambda: "Host_1.example")
    assert configuration.host == "Host-1.example"
    assert configuration.domains == ["host-1.example"]
    assert [(one.endpoint, one.role, one.tls) for one in configuration.listen] == [
        ("tcp:2525:interface=127.0.0.1", "smtp", "none")
    ]
    assert configuration.users.system is True
    assert configuration.data == f"{tmp_path}/mailnode-data"
    assert configuration.routes == {"*": Route("mx")}


@pytest.mark.parametrize("name", ["", "---", "..", "a" * 64 + "." + "b" * 300, "\x1b[2J", "é"])
def test_a_strange_host_name_still_gives_a_domain(tmp_path: FilePath, name: str) -> None:
    host = load(None, {}, str(tmp_path), lambda: name).host
    assert host
    assert host.isascii()
    assert set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.J")


def test_the_first_file_of_the_search_order_is_taken(tmp_path: FilePath) -> None:
    cwd, home = tmp_path / "cwd", tmp_path / "home"
    (home / ".config/mailnode").mkdir(parents=True)
    cwd.mkdir()
    environment = {"HOME": str(home), "MAILNODE_CONFIG": "named.toml"}
    (home / ".config/mailnode/mailnode.toml").touch()
    assert find(None, {"HOME": str(home)}, str(cwd)) == f"{home}/.config/mailnode/mailnode.toml"
    (cwd / "mailnode.toml").touch()
    assert find(None, {"HOME": str(home)}, str(cwd)) == f"{cwd}/mailnode.toml"
    assert find(None, environment, str(cwd)) == f"{cwd}/named.toml"
    assert find("/given.toml", environment, str(cwd)) == "/given.toml"


def test_a_named_file_that_is_missing_is_an_error_and_not_the_default(tmp_path: FilePath) -> None:
    with pytest.raises(ConfigurationErrors) as caught:
        load("none.toml", {}, str(tmp_path))
    assert caught.value.lines == (f"{tmp_path}/none.toml: No such file or directory",)


def test_a_syntax_error_is_one_line_with_file_line_and_column(tmp_path: FilePath) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('hostname = "x"\ndrain = = 5\n')
    with pytest.raises(ConfigurationErrors) as caught:
        load(str(file), {}, "/")
    assert caught.value.lines == (f"{file}:2:9: Invalid value",)
    assert errors('a = "x') == ["configuration:1:7: Unterminated string"]
    file.write_bytes(b'hostname = "x"\n# \xff\n')
    with pytest.raises(ConfigurationErrors) as caught:
        load(str(file), {}, "/")
    assert caught.value.lines == (f"{file}:2:3: not UTF-8",)


def test_what_the_host_says_of_messages_is_read() -> None:
    terminals = read(
        """
        data = "/d"
        [terminals]
        utmp = "logind"
        welcome = ["Smith@USC.example", "@mit.example"]
        rate = 0
        rate_all = 1000
        """
    ).terminals
    assert (terminals.utmp, terminals.socket, terminals.attached) == ("logind", "/d/terminals.sock", True)
    assert terminals.welcome == Welcome("named", ["smith@usc.example", "@mit.example"])
    assert (terminals.rate, terminals.rate_all) == (0, 1000)
    usual = read("[terminals]\nsocket = 's/t.sock'\nutmp = 'u'\nwelcome = 'same host'", "/etc").terminals
    assert (usual.socket, usual.utmp, usual.rate, usual.rate_all) == ("/etc/s/t.sock", "/etc/u", 10, 30)
    assert usual.welcome == Welcome("same host") and read("").terminals.welcome == Welcome("all")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "welcome = 'some'",
            "terminals.welcome: expected one of all, same host, trusted, nobody, or a list of",
        ),
        ("welcome = ['smith']", "terminals.welcome: 'smith' is neither an address nor an @domain"),
        ("rate = -1", "terminals.rate: "),
        ("rate_all = 1001", "terminals.rate_all: "),
    ],
)
def test_what_cannot_be_obeyed_of_messages_is_an_error(text: str, line: str) -> None:
    (found,) = errors(f"[terminals]\n{text}")
    assert found.startswith(line)


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: FilePath) -> None:
    file = tmp_path / "mailnode.toml"
    file.write_text('data = "d"\n[users]\npasswords = "../p"\n[mailboxes]\nmaildir = "m/{user}"\n')
    configuration = load("mailnode.toml", {}, str(tmp_path), lambda: "x")
    assert configuration.data == f"{tmp_path}/d"
    assert configuration.users.passwords == f"{tmp_path.parent}/p"
    assert configuration.mailboxes.maildir == f"{tmp_path}/m/{{user}}"
    assert configuration.terminals.devices == "/dev"


# ------------------------------------------------------------------- what it means


def test_every_key_of_this_version_is_read() -> None:
    configuration = read(
        """
domains = ["MIT.example", "csail.example"]
postmaster = "root@mit.example"
drain = "1m30s"
[[listen]]
endpoint = "tcp:2525:interface=127.0.0.1"
[[listen]]
endpoint = "unix:/run/mailnode"
tls = "none"
[users]
names = ["jones", "Mark Crispin <Admin.MRC>"]
passwords = "passwords"
[aliases]
staff = ["jones", "Green <green@usc.example>"]
root = "jones"
[forward]
smith = "smith@usc.example"
[routes]
"usc.example" = "tcp:127.0.0.1:2600"
"*.arpa" = "hold"
"isi.example" = { to = "mx", tls = "verified" }
[relay]
networks = ["10.0.0.0/8", "192.0.2.1"]
[retry]
first = 5
[limits]
message_size = "64K"
command_timeout = 2.5
[[peer]]
name = "leaf"
domains = ["Leaf.Example"]
allow = ["auth", "address"]
addresses = ["192.0.2.7"]
[[dial]]
name = "hub"
endpoint = "tcp:hub.example:25"
user = "leaf"
"""
    )
    assert configuration.host == "MIT.example"
    assert configuration.domains == ["mit.example", "csail.example"]
    assert configuration.postmaster == Target("", Path("root", "mit.example"))
    assert float(configuration.drain) == 90
    assert [one.tls for one in configuration.listen] == ["none", "none"]
    assert configuration.users.names == [NamedUser("jones"), NamedUser("Admin.MRC", "Mark Crispin")]
    assert configuration.users.system is False
    assert configuration.aliases["root"] == (Target("", Path("jones")),)
    assert configuration.aliases["staff"][1] == Target("Green", Path("green", "usc.example"))
    assert configuration.forward["smith"].path == Path("smith", "usc.example")
    assert configuration.routes == {
        "usc.example": Route("tcp:127.0.0.1:2600"),
        "*.arpa": Route("hold"),
        "isi.example": Route("mx", "verified"),
    }
    assert configuration.relay.networks == ["10.0.0.0/8", "192.0.2.1/32"]
    assert [float(configuration.retry.first), float(configuration.retry.expire)] == [5, 432000]
    assert configuration.limits.message_size == 65536
    assert float(configuration.limits.command_timeout) == 2.5
    assert configuration.peer[0].domains == ["leaf.example"]
    assert float(configuration.peer[0].keep) == 30 * 86400
    assert configuration.dial[0].outbound is True


def test_the_limits_have_the_documented_defaults() -> None:
    limits = read("").limits
    assert (limits.message_size, limits.recipients, limits.connections_per_host) == (50 << 20, 1000, 50)
    assert (limits.connections, float(limits.command_timeout), limits.errors, limits.hops) == (
        1000,
        300,
        20,
        50,
    )


def test_an_aliases_file_is_read_and_the_configuration_wins(tmp_path: FilePath) -> None:
    (tmp_path / "aliases").write_text(
        '# comment\nRoot: jones,\n  "Fred, F." <fred@usc.example>\n\nnews:\tjones\n"a b": jones\n'
    )
    configuration = read('[aliases]\nfile = "aliases"\nnews = "brown"\n', str(tmp_path))
    assert configuration.aliases["root"] == (
        Target("", Path("jones")),
        Target("Fred, F.", Path("fred", "usc.example")),
    )
    assert configuration.aliases["news"] == (Target("", Path("brown")),)
    assert configuration.aliases["a b"] == (Target("", Path("jones")),)
    assert "file" not in configuration.aliases


def test_what_an_aliases_file_cannot_do_here_is_an_error_with_its_line(tmp_path: FilePath) -> None:
    (tmp_path / "aliases").write_text('a: "|/bin/sh"\nb: /var/mail/b\nc: :include:/x\nd\ne:\nf: g\nf: h\n')
    assert errors('[aliases]\nfile = "aliases"\n', str(tmp_path)) == [
        "aliases.file: aliases:1: '\"|/bin/sh\"' is a program or a file, not an address",
        "aliases.file: aliases:2: '/var/mail/b' is a program or a file, not an address",
        "aliases.file: aliases:3: ':include:/x' is a program or a file, not an address",
        "aliases.file: aliases:4: expected `name: address, ...`",
        "aliases.file: aliases:5: 'e' has no address",
        "aliases.file: aliases:7: 'f' is there twice",
    ]


# -------------------------------------------------------------------- what is wrong


def test_all_errors_come_at_once_each_with_its_key() -> None:
    assert errors(
        """
hostnme = "x"
drain = "soon"
[[listen]]
endpoint = "tcpp:25"
[limits]
recipients = "many"
[routes]
"usc.example" = "tcp:x"
[[peer]]
name = "leaf"
domains = ["leaf.example"]
allow = ["address"]
"""
    ) == [
        "hostnme: unknown key, did you mean hostname?",
        "drain: 'soon' is not a duration, such as 30s, 5m, 4h or 5d",
        "listen[0].endpoint: unknown endpoint type 'tcpp'",
        "limits.recipients: expected int, got str",
        "routes.\"usc.example\": 'tcp:x' is not an endpoint: its arguments are wrong or missing",
        "peer[0].allow: address needs addresses",
    ]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("zzz = 1", "zzz", "unknown key"),
        ("[users]\nsytem = true", "users.sytem", "did you mean system?"),
        ('"\\u001b[2J" = 1', '"\\u001b[2J"', "unknown key"),
        ("users = 1", "users", "expected a table"),
        ("listen = 1", "listen", "expected array"),
        ("[[dial]]\nname = 'x'", "dial[0].endpoint", "missing"),
        ("hostname = 'a b'", "hostname", "not a domain"),
        ("domains = ['ok.example', 'a..b']", "domains[1]", "not a domain"),
        ("data = ''", "data", "printable"),
        ('data = "a\\nb"', "data", "got 'a\\nb'"),
        ("drain = true", "drain", "duration"),
        ("drain = -1", "drain", "between 0"),
        ("drain = nan", "drain", "between 0"),
        ("drain = inf", "drain", "between 0"),
        ("drain = '1y'", "drain", "duration"),
        ("[limits]\nmessage_size = '5X'", "limits.message_size", "not a size"),
        ("[limits]\nmessage_size = 0", "limits.message_size", "between 1"),
        ("[limits]\nerrors = 0", "limits.errors", ">= 1"),
        ("[relay]\nnetworks = ['10.0.0.1/8']", "relay.networks[0]", "did you mean 10.0.0.0/8?"),
        ("[relay]\nnetworks = ['x']", "relay.networks[0]", "not an address"),
        ("[[listen]]\nendpoint = 'tcp:x'", "listen[0].endpoint", "arguments"),
        ("[[listen]]\nendpoint = 'tcp:25:foo=1'", "listen[0].endpoint", "arguments"),
        ("[[listen]]\nendpoint = 'ssl:465:privateKey=/none.pem'", "listen[0].endpoint", NO_CERTIFICATE),
        ("[[listen]]\nendpoint = 'tcp:1'\nrole = 'smpt'", "listen[0].role", "none of smtp, submission"),
        (
            "[[listen]]\nendpoint='tcp:1'\n[[listen]]\nendpoint='tcp:1'",
            "listen[1].endpoint",
            "same as listen[0]",
        ),
        ("[users]\nnames = ['../x']", "users.names[0]", "not a user name"),
        ("[users]\nnames = ['.x']", "users.names[0]", "not a user name"),
        ("[users]\nnames = ['F <a/b>']", "users.names[0]", "not a user name"),
        ("[users]\nnames = ['a', 'a']", "users.names[1]", "twice"),
        ("[mailboxes]\nmaildir = '/mail'", "mailboxes.maildir", "share one mailbox"),
        ("[mailboxes]\nmaildir = '/m/{usr}'", "mailboxes.maildir", "'{usr}' is none of"),
        ("[mailboxes]\nmaildir = '/m/{user}{'", "mailboxes.maildir", "brace"),
        ("[mailboxes]\nmaildir = 'x/{home}'", "mailboxes.maildir", "first"),
        ("[aliases]\n'x y' = 'jones@'", 'aliases."x y"', "neither an address"),
        ("[aliases]\nx = ['a', 'b c']", "aliases.x[1]", "neither an address"),
        ("[aliases]\nx = []", "aliases.x", "no address"),
        ("[aliases]\nx = 'y'\ny = ['z', 'x']", "aliases.x", "leads to itself: x -> y -> x"),
        ("[aliases]\nx = 'x'\n[users]\nnames = ['a']", "aliases.x", "leads to itself"),
        ("[aliases]\nfile = '/none/aliases'", "aliases.file", "No such file"),
        ("[forward]\nx = 'a@b'\n[moved]\nX = 'a@b'", "moved.X", "taken by forward.x"),
        ("[moved]\nPostmaster = 'a@b'", "moved.Postmaster", "RFC 5321"),
        ("[lists]\n'a@b' = 'c@d'", 'lists."a@b"', "not a local name"),
        ("postmaster = 'nobody'\n[users]\nnames = ['a']", "postmaster", "neither a user"),
        ("postmaster = 'a b'", "postmaster", "neither an address"),
        ("[routes]\n'a_b' = 'mx'", "routes.a_b", "neither a domain"),
        ("[routes]\n'x.example' = 'mxx'", 'routes."x.example"', "unknown endpoint type"),
        ("[routes]\n'host.example' = 'mx'", 'routes."host.example"', "local domain"),
        ("[retry]\nfirst = 0", "retry.first", "at least 1s"),
        ("[retry]\nexpire = '1m'", "retry.expire", "less than retry.first"),
        ("[[peer]]\nname = 'a'\ndomains = ['x.example']", "peer[0].allow", "users.passwords"),
        ("[[dial]]\nname='a'\nendpoint='tcp:a:1'\nuser='x'", "dial[0].user", "users.passwords"),
        ("[routes]\n'x.example' = { to = 'mxx' }", 'routes."x.example"', "unknown endpoint type"),
        ("[routes]\n'x.example' = { tls = 'none' }", 'routes."x.example"', "no key to"),
        ("[routes]\n'x.example' = { to = 'mx', tsl = 'none' }", 'routes."x.example"', "did you mean tls?"),
        ("[routes]\n'x.example' = { to = 'mx', tls = 'yes' }", 'routes."x.example"', "none of none, opp"),
        ("[routes]\n'x.example' = { to = 'mx', tls = [] }", 'routes."x.example"', "none of none, opp"),
        ("[routes]\n'x.example' = { to = 'hold', tls = 'none' }", 'routes."x.example"', "without effect"),
        (
            "[routes]\n'x.example' = { to = 'ssl:a.example:465', tls = 'verified' }",
            'routes."x.example"',
            "ssl: verifies nobody",
        ),
        (
            "[[dial]]\nname='a'\nendpoint='ssl:a.example:465'\ntls='verified'",
            "dial[0].tls",
            "ssl: verifies nobody",
        ),
        (
            "[[dial]]\nname='a'\nendpoint='tcp:a.example:465'\nimplicit=true\ntls='none'",
            "dial[0].implicit",
            "without effect",
        ),
        (
            "[[dial]]\nname='a'\nendpoint='tls:a.example:465'\nimplicit=true",
            "dial[0].implicit",
            "write tcp:",
        ),
        ("[routes]\n'x.example' = 5", 'routes."x.example"', "expected a text"),
        ("[[listen]]\nendpoint='tcp:1'\ntls='starttls'", "listen[0].tls", "needs a certificate"),
        ("[[listen]]\nendpoint='tcp:1'\ntls='implicit'", "listen[0].tls", "needs a certificate"),
        ("[tls]\nroots='/dev/null'", "tls.roots", "not a readable file"),
        ("[tls]\ncertificate='/etc/passwd'\nkey='/none.pem'", "tls.key", "not a readable file"),
        ("[tls]\ncertificate='/etc/passwd'", "tls.key", "missing"),
        ("[tls]\nkey='/etc/passwd'", "tls.certificate", "missing"),
        ("[tls]\nclient=true", "tls.client", "no certificate to show"),
        ("[[listen]]\nendpoint='tcp:1'\nrole='submission'", "listen[0].role", "users.passwords"),
        ("[[listen]]\nendpoint='tcp:25'\nrole='lmtp'", "listen[0].endpoint", "RFC 2033"),
        ("[[listen]]\nendpoint='tcp:port=25'\nrole='lmtp'", "listen[0].endpoint", "RFC 2033"),
        ("[[listen]]\nendpoint='haproxy:ssl:465'", "listen[0].endpoint", "there is the key tls"),
        ("[[listen]]\nendpoint='haproxy:haproxy:tcp:25'", "listen[0].endpoint", "stands before one of tcp:"),
        ("[[listen]]\nendpoint='haproxy:tcp:25'\nrole='lmtp'", "listen[0].endpoint", "RFC 2033"),
        ("[[listen]]\nendpoint='tcp6:25'\nrole='lmtp'", "listen[0].endpoint", "RFC 2033"),
        ("[[listen]]\nendpoint='tcp:interface=127.0.0.1:25'\nrole='lmtp'", "listen[0].endpoint", "RFC 2033"),
        ("[[listen]]\nendpoint='tcp:1'\n[[listen]]\nendpoint='tcp:1'", "listen[1].endpoint", "the same as"),
        (
            "[[listen]]\nendpoint='tcp:1'\nrole='lmtp'\nbare_newlines='normalize'",
            "listen[0].bare_newlines",
            "good form",
        ),
        ("[[listen]]\nendpoint='tcp:1'\nbare_newlines='keep'", "listen[0].bare_newlines", "none of refuse"),
        ("[limits]\nline_length = 100", "limits.line_length", ">= 512"),
        ("[limits]\nmemory = 1000", "limits.memory", "at least 64K"),
        ("[limits]\nheader_size = 1000", "limits.header_size", "at least 64K"),
        ("[limits]\ndata_rate = 0", "limits.data_rate", ">= 1"),
        ("[[dial]]\nname='a'\nendpoint='tcp:a:1'\ntls='yes'", "dial[0].tls", "none of none, opportunistic"),
        ("[[dial]]\nname='a'\nendpoint='tcp:a:1'\ndomains=['a.b']", "dial[0].domains", "ATRN and ETRN name"),
        (
            "[[dial]]\nname='a'\nendpoint='tcp:a:1'\ncommand='ATRN'\ndomains=['a.b', 'leaf']",
            "dial[0].domains",
            "leaf is not a fully qualified domain",
        ),
        ("[[dial]]\nname='a'\nendpoint='tcp:a:1'\nwait=0", "dial[0].wait", "at least 1s and at most 1h"),
        ("[[dial]]\nname='a'\nendpoint='tcp:a:1'\nwait='2h'", "dial[0].wait", "at least 1s and at most 1h"),
        (
            "[[dial]]\nname='a'\nendpoint='tcp:a:1'\nwait='30s'\ncommand='ETRN'",
            "dial[0].wait",
            "ETRN turns no line",
        ),
        ("[[dial]]\nname='a'\nendpoint='tcp:a:1'\nevery=0", "dial[0].every", "at least 1s"),
        (
            f"[[dial]]\nname='a'\nendpoint='tcp:a:1'\ntls='none'\nfingerprint='sha256:{'0' * 64}'",
            "dial[0].fingerprint",
            "without TLS there is no certificate",
        ),
        (
            f"[[dial]]\nname='a'\nendpoint='ssl:a:1'\nfingerprint='sha256:{'0' * 64}'",
            "dial[0].fingerprint",
            "write tcp:, for STARTTLS or with implicit",
        ),
        ("[[listen]]\nendpoint='tcp:1'\nrole='odmr'", "listen[0].role", "nobody could log in"),
    ],
)
def test_an_error_names_its_key_and_says_what_is_wrong(text: str, key: str, words: str) -> None:
    lines = errors(text)
    assert len(lines) == 1
    assert lines[0].startswith(f"{key}: ")
    assert words in lines[0]
    assert lines[0].isprintable()


@pytest.mark.parametrize(
    ("deliver", "words"),
    [("hold", "no way to anywhere"), ("sent.example", "unknown endpoint type"), ("", "")],
)
def test_where_etrn_sends_is_a_next_hop(deliver: str, words: str) -> None:
    peer = "[[peer]]\nname = 'a'\ndomains = ['x.example']\nallow = ['address']\naddresses = ['192.0.2.1']\n"
    (line,) = errors(f"{peer}deliver = '{deliver}'")
    assert line.startswith("peer[0].deliver: ") and words in line
    for right in ("mx", "tcp:a:25"):
        assert read(f"{peer}deliver = '{right}'").peer[0].deliver == right
    assert read(peer).peer[0].deliver is None


def test_peers_are_told_apart() -> None:
    peer = "[[peer]]\nname = 'leaf'\ndomains = ['leaf.example', 'host.example']\n"
    assert errors("[users]\npasswords = 'p'\n" + peer + peer) == [
        "peer[0].domains[1]: host.example is a local domain",
        "peer[1].name: leaf is peer[0] already",
        "peer[1].domains[0]: leaf.example is peer[0].domains[0] already",
        "peer[1].domains[1]: host.example is a local domain",
    ]


def with_files(folder: FilePath) -> None:
    for name in ("c.pem", "k.pem"):
        (folder / name).write_text("of no concern here")


TLS = "[tls]\ncertificate = 'c.pem'\nkey = 'k.pem'\n"
SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("tls", "peer", "expected"),
    [
        (TLS, "allow = ['certificate']", ["peer[0].allow: certificate needs the fingerprint"]),
        ("", f"allow = ['certificate']\nfingerprint = '{SHA}'", ["peer[0].allow: certificate needs [tls]"]),
        (TLS, f"allow = ['address']\naddresses = ['192.0.2.1']\nfingerprint = '{SHA}'", ["peer[0].finger"]),
        (TLS, "allow = ['address']\naddresses = ['192.0.2.1']\ncram_md5 = true", ["peer[0].cram_md5: with"]),
        (TLS, f"allow = ['certificate']\nfingerprint = '{SHA[:-1]}'", ["peer[0].fingerprint: 'sha256:"]),
    ],
)
def test_a_certificate_proves_a_peer_only_where_it_can(
    tmp_path: FilePath, tls: str, peer: str, expected: list[str]
) -> None:
    with_files(tmp_path)
    lines = errors(f"{tls}[[peer]]\nname = 'leaf'\ndomains = ['leaf.example']\n{peer}\n", str(tmp_path))
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))


def test_a_fingerprint_may_be_written_in_upper_case(tmp_path: FilePath) -> None:
    with_files(tmp_path)
    peer = (
        f"name = 'leaf'\ndomains = ['leaf.example']\nallow = ['certificate']\nfingerprint = '{SHA.upper()}'"
    )
    assert read(f"{TLS}[[peer]]\n{peer}\n", str(tmp_path)).peer[0].fingerprint == SHA


def test_two_peers_do_not_share_a_certificate(tmp_path: FilePath) -> None:
    with_files(tmp_path)
    proof = f"allow = ['certificate']\nfingerprint = '{SHA}'\n"
    peers = "".join(f"[[peer]]\nname = '{name}'\ndomains = ['{name}.example']\n{proof}" for name in "ab")
    assert errors(TLS + peers, str(tmp_path)) == ["peer[1].fingerprint: the same as peer[0].fingerprint"]


def test_with_a_certificate_listeners_offer_starttls_unless_they_say_otherwise(tmp_path: FilePath) -> None:
    with_files(tmp_path)
    listen = "[[listen]]\nendpoint = 'tcp:1'\n[[listen]]\nendpoint = 'tcp:2'\ntls = 'none'\n"
    configuration = read(TLS + listen, str(tmp_path))
    assert [one.tls for one in configuration.listen] == ["starttls", "none"]
    assert configuration.tls is not None
    assert configuration.tls.certificate == str(tmp_path / "c.pem")
    assert configuration.tls.key == str(tmp_path / "k.pem")


def test_roots_alone_offer_no_tls(tmp_path: FilePath) -> None:
    (tmp_path / "roots.pem").write_text("of no concern here")
    configuration = read("[tls]\nroots = 'roots.pem'\n[[listen]]\nendpoint = 'tcp:1'\n", str(tmp_path))
    assert configuration.listen[0].tls == "none"
    assert configuration.tls is not None and configuration.tls.roots == str(tmp_path / "roots.pem")


def test_an_error_does_not_cause_another_that_is_none() -> None:
    users = "[users]\nnames = ['jones', '/']\npasswords = 5\n"
    lines = errors(f"postmaster = 'jones'\n{users}[[peer]]\nname='x'\n")
    keys = [line.partition(":")[0] for line in lines]
    assert keys == ["users.names[1]", "users.passwords", "peer[0].domains"]


def test_an_alias_may_leave_a_copy_with_the_user_of_its_own_name() -> None:
    configuration = read("[users]\nnames = ['jones']\n[aliases]\njones = ['jones', 'jones@usc.example']")
    assert len(configuration.aliases["jones"]) == 2


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[mailboxes]\nlmtp='unix:/x'", "mailboxes.lmtp"),
    ],
)
def test_what_is_not_in_this_version_is_said_and_not_ignored(text: str, key: str) -> None:
    place = next(line for line in errors(text) if line.startswith(f"{key}: "))
    assert place.endswith("not available in this version")


def test_every_key_that_is_not_yet_there_is_tested() -> None:
    assert len(NOT_YET) == 1


def test_a_flood_of_errors_is_cut() -> None:
    assert len(errors("[routes]\n" + "".join(f"a{n} = 'x'\n" for n in range(5000)))) == 200


@pytest.mark.parametrize("endpoint", ["tcp:0", "tcp:port=0:interface=127.0.0.1", "tcp6:0", "haproxy:tcp:0"])
def test_listeners_with_port_0_are_not_the_same(endpoint: str) -> None:
    text = f"[[listen]]\nendpoint = '{endpoint}'\n" * 2
    assert [str(one.endpoint) for one in read(text).listen] == [endpoint] * 2


# ----------------------------------------------------------------- without Twisted

_PORTS = st.integers(0, 99999).map(str) | st.integers(0, 99999).map("port={}".format)
_HOSTS = st.from_regex(r"(host=)?[A-Za-z0-9.-]{1,20}", fullmatch=True)


@given(port=_PORTS, interface=st.none() | st.from_regex(r"[0-9.]{1,15}", fullmatch=True))
def test_a_plain_server_endpoint_is_one_for_twisted_too(port: str, interface: str | None) -> None:
    text = f"tcp:{port}" + (f":interface={interface}" if interface else "")
    assert values._plain_server_endpoint(text)
    check_server_endpoint(text)


@given(host=_HOSTS, port=_PORTS)
def test_a_plain_client_endpoint_is_one_for_twisted_too(host: str, port: str) -> None:
    text = f"tcp:{host}:{port}"
    assert values._plain_client_endpoint(text)
    check_client_endpoint(text)


@pytest.mark.parametrize("command", ["send", "mail", "terminal"])
def test_a_command_that_people_wait_for_imports_nothing_of_twisted(command: str, tmp_path: FilePath) -> None:
    file = tmp_path / "mailnode.toml"
    file.write_text('hostname = "a.example"\ndata = "data"\n[[listen]]\nendpoint = "tcp:2525"\n')
    program = "import sys\nfrom mailnode.cli import COMMANDS, cli\nfrom mailnode.config import load\n"
    program += f"load({str(file)!r})\ncli.get_command(None, {command!r})\n"
    program += "print(*(name for name in sys.modules if name.partition('.')[0] == 'twisted'))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "\n"
