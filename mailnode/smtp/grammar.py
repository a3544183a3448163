"""The grammar of commands: paths, domains, parameters.

Rules:
- A production stands beside its expression; RFC 821 4.1.2 where it is wider, RFC 5321 4.1.2 else.
- Octets over 127 are UTF-8 in paths and their parameters (RFC 6531 3.3), printable all of them; whether
  they are allowed in a command is for its reader to say.
- Nothing here guesses: text that is no sentence of the grammar gives None, never an exception.
- What follows a quantifier cannot match what it repeats, so no input takes more than
  linear time. No group is possessive: Python before 3.11.5 matches those wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, TypeAlias

from mailnode.mail import NULL_PATH, Path

# RFC 821 4.5.3, octets
LOCAL_LIMIT: Final = 64
DOMAIN_LIMIT: Final = 255
PATH_LIMIT: Final = 256  # with its brackets, without a source route
ROUTE_PATH_LIMIT: Final = 1024  # with a source route; the RFC's 256 would cut honest ones off
VERB_LIMIT: Final = 12

Parameters: TypeAlias = dict[str, str | None]
_Match: TypeAlias = Callable[[str], re.Match[str] | None]

_UTF8 = "\x80-\U0010ffff"


def _ascii(pattern: str) -> _Match:
    """The matcher of `pattern` for text in ASCII."""
    return re.compile(pattern.replace(_UTF8, "")).match


def _any(pattern: str) -> _Match:
    """The matcher of `pattern` for any text; made when it is needed, which takes fifty times as long."""
    compiled = cache(lambda: re.compile(pattern).match)
    return lambda text: compiled()(text)


# <c> of RFC 821 = atext of RFC 5322: printable, neither <special> nor SP
_ATEXT = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_UTF8}-]"
# <string> ::= <char> | <char> <string>;  <char> ::= <c> | "\" <x>   (RFC 821)
_STRING = rf"(?:{_ATEXT}|\\[ -~])+"
# Dot-string = Atom *("." Atom)
_DOT_STRING = rf"{_STRING}(?:\.{_STRING})*"
# Quoted-string = DQUOTE *QcontentSMTP DQUOTE;  qtextSMTP = %d32-33 / %d35-91 / %d93-126
_QUOTED_STRING = rf'"(?:[ !#-\[\]-~{_UTF8}]|\\[ -~])*"'
# Local-part = Dot-string / Quoted-string
_LOCAL = rf"(?:{_DOT_STRING}|{_QUOTED_STRING})"
# sub-domain = Let-dig [Ldh-str];  <element> ::= <name> | "#" <number> | ...   (RFC 821)
_LET_DIG = rf"[A-Za-z0-9{_UTF8}]"
_LABEL = rf"(?:{_LET_DIG}++(?:-++{_LET_DIG}++)*|#[0-9]++)"
# address-literal = "[" ( IPv4-address-literal / IPv6-address-literal ) "]"; `_literal` looks closer
_LITERAL = r"\[[0-9A-Za-z.:]{2,64}+\]"
# Domain = sub-domain *("." sub-domain) / address-literal
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|{_LITERAL})"
# A-d-l = At-domain *( "," At-domain )
_ROUTE = rf"@{_DOMAIN}(?:,@{_DOMAIN})*"
# Path = "<" [ A-d-l ":" ] Mailbox ">";  <reverse-path> may be "<>"
_PATH = rf"<(?:(?:({_ROUTE}):)?({_LOCAL})@({_DOMAIN})|([Pp][Oo][Ss][Tt][Mm][Aa][Ss][Tt][Ee][Rr])|)>"
# esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-");  esmtp-value = 1*(%d33-60 / %d62-126)
_PARAMETER = rf"([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([!-<>-~{_UTF8}]++))?"

# One space after the colon is no RFC's, but peers send it (RFC 2645 does in its examples).
_ARGUMENT = rf" ?{_PATH}(?:( [ -~{_UTF8}]*+))?\Z"
# What is ASCII, which is nearly everything, is matched twice as fast by expressions that know nothing else.
_whole_path, _whole_utf8_path = _ascii(_PATH + r"\Z"), _any(_PATH + r"\Z")
_argument, _utf8_argument = _ascii(_ARGUMENT), _any(_ARGUMENT)
_parameter = re.compile(_PARAMETER + r"\Z").match
_domain = _ascii(_DOMAIN + r"\Z")
_label_too_long = re.compile(r"[^.]{64}").search  # RFC 1035 2.3.4
_local = _any(_LOCAL + r"\Z")
_command = re.compile(rb"([A-Za-z0-9]{1,%d}+)(?: ++([ -~\x80-\xff]*+))?\Z" % VERB_LIMIT).match
_quoted_pair = re.compile(r"\\(.)")
_phrase = re.compile(r"([^<>\x00-\x1f\x7f-\x9f]*+)(<.++)\Z").match
_hexchar = re.compile(r"\+([0-9A-F]{2})")
_xtext = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z").match


# -------------------------------------------------------------------------- paths


def parse_path(text: str) -> Path | None:
    """The path that `text` is, brackets and all; `<>` is NULL_PATH, `<postmaster>` has no domain.

    None if it is not exactly one path (RFC 821 4.1.2) within the sizes of RFC 821 4.5.3.
    """
    if len(text) > ROUTE_PATH_LIMIT:
        return None
    match = _whole_path(text) if text.isascii() else _whole_utf8_path(text)
    return _build(len(text), match) if match is not None and _printable(text) else None


def parse_argument(text: str) -> tuple[Path, Parameters] | None:
    """The path and the parameters that follow `FROM:` or `TO:`; None if they are malformed.

    Keywords of parameters come in upper case; one that is given twice is an error (RFC 5321 4.1.1.11).
    """
    cut = text.find("> ") + 1 or len(text)
    path = _path_of_argument(text[:cut])
    if path is not None:
        tail = text[cut:]
        parameters = _parse_parameters(tail) if tail else {}
        return None if parameters is None or not _printable(tail) else (path, parameters)
    if cut == len(text):
        return None
    match = _argument(text) if text.isascii() else _utf8_argument(text)  # "> " stands within quotes
    if match is None or not _printable(text):
        return None
    path = _build(len(text) if match[5] is None else match.start(5), match)
    if path is None or (parameters := _parse_parameters(match[5] or "")) is None:
        return None
    return path, parameters


@lru_cache(maxsize=1024)
def _path_of_argument(text: str) -> Path | None:
    """The path of an argument without parameters. The same hosts and people write again and again."""
    match = _argument(text) if text.isascii() else _utf8_argument(text)
    return None if match is None or match[5] is not None or not _printable(text) else _build(len(text), match)


def after_keyword(argument: str, keyword: str) -> str | None:
    """What follows `keyword` ("FROM:" or "TO:", in upper case) in `argument`; None if it is not there."""
    size = len(keyword)
    return argument[size:] if argument[:size].upper() == keyword else None


def _build(size: int, match: re.Match[str]) -> Path | None:
    """The path of a match whose text is `size` octets long, None if a part of it is too long."""
    route_text, raw, domain, postmaster, *_ = match.groups()
    if raw is None:
        return NULL_PATH if postmaster is None else Path(postmaster)
    local = _meaning(raw)
    route = () if route_text is None else tuple(host[1:] for host in route_text.split(","))
    octets = len if match.string.isascii() else _octets
    if octets(local) > LOCAL_LIMIT or not (_is_domain(domain) and (not route or all(map(_is_domain, route)))):
        return None
    path = Path(local, domain, route)
    if not route and raw is local:
        return path if octets(raw) + octets(domain) + 3 <= PATH_LIMIT else None
    # What we write again must be read again by others: the canonical form keeps the limits too.
    if octets(path.mailbox) + 2 > PATH_LIMIT or max(size, octets(str(path))) > ROUTE_PATH_LIMIT:
        return None
    return path


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _printable(text: str) -> bool:
    return text.isascii() or text.isprintable()


def _meaning(raw: str) -> str:
    """The local part without its quotes and backslashes, which are no part of the name (RFC 821 4.1.2)."""
    if '"' not in raw and "\\" not in raw:
        return raw
    return _quoted_pair.sub(r"\1", raw[1:-1] if raw[0] == '"' else raw)


def _parse_parameters(text: str) -> Parameters | None:
    parameters: Parameters = {}
    for word in text.split(" "):
        if not word:
            continue
        match = _parameter(word)
        if match is None or (keyword := match[1].upper()) in parameters:
            return None
        parameters[keyword] = match[2]
    return parameters


# ------------------------------------------------------------------------ domains


def parse_domain(text: str) -> str | None:
    """`text` as it is if it is a domain in ASCII or an address literal (RFC 821 4.1.2), else None."""
    whole = len(text) <= DOMAIN_LIMIT and text.isascii() and _domain(text) and _is_domain(text)
    return text if whole else None


def is_address_literal(domain: str) -> bool:
    """Whether `domain` is an address in brackets, as `[127.0.0.1]` or `[IPv6:::1]` (RFC 5321 4.1.3)."""
    return literal_address(domain) is not None


def literal_address(domain: str) -> str | None:
    """The IP address, in its canonical form, that an address literal holds; None if it is not one."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    content = domain[1:-1]
    try:
        if content[:5].upper() == "IPV6:":
            return str(IPv6Address(content[5:]))
        return str(IPv4Address(content))  # refuses 010, which some read as octal 8
    except AddressValueError:
        return None


def _is_domain(domain: str) -> bool:
    """The part of the rule that an expression does not say: sizes, and the inside of a literal."""
    if domain[0] == "[":
        return is_address_literal(domain)
    size = len(domain)
    if size < 64 and domain.isascii():
        return True
    size = _octets(domain)
    return size < 64 or (size <= DOMAIN_LIMIT and _label_too_long(domain) is None)


# ---------------------------------------- mailboxes as people and configurations write


def parse_mailbox(text: str, *, bare: bool = False) -> Path | None:
    """A path with or without brackets: `user@domain`, `<user@domain>`, `@A:user@domain`.

    With `bare` a local part alone (`jones`, `<jones>`) is a path without a domain. `<>` and the
    empty text are None: nobody lives there.
    """
    text = text.strip(" ")
    if not (text.startswith("<") and text.endswith(">")):
        text = f"<{text}>"
    path = parse_path(text)
    if path is not None:
        return None if path.is_null else path
    inner = text[1:-1]
    if not bare or len(inner) > 2 * LOCAL_LIMIT + 2 or _local(inner) is None or not _printable(inner):
        return None
    local = _meaning(inner)
    return Path(local) if 0 < _octets(local) <= LOCAL_LIMIT else None


def parse_named_mailbox(text: str, *, bare: bool = False) -> tuple[str, Path] | None:
    """A phrase and a path, `Fred Fonebone <fred@usc.example>`; the phrase may be quoted or missing."""
    text = text.strip(" ")
    match = _phrase(text)
    if match is None:
        path = parse_mailbox(text, bare=bare)
        return None if path is None else ("", path)
    phrase, mailbox = match[1].strip(" "), match[2]
    if len(phrase) > 1 and phrase[0] == phrase[-1] == '"':
        phrase = _quoted_pair.sub(r"\1", phrase[1:-1]).strip(" ")
    path = parse_mailbox(mailbox, bare=bare)
    return None if path is None else (phrase, path)


# ------------------------------------------------------------------------- xtext


def decode_xtext(text: str) -> str | None:
    """The text that an xtext stands for (RFC 3461 4), None if it is malformed."""
    if _xtext(text) is None:
        return None
    return _hexchar.sub(lambda match: chr(int(match[1], 16)), text)


def encode_xtext(text: str) -> str:
    """`text` as xtext (RFC 3461 4). ValueError if it holds characters over 255."""
    octets = text.encode("latin-1")
    return "".join(chr(o) if 33 <= o <= 126 and o not in b"+=" else f"+{o:02X}" for o in octets)


# ---------------------------------------------------------------------- commands


def split_command(line: bytes) -> tuple[str, str] | None:
    """The verb in upper case and its argument, from a command line without its CRLF.

    None if there is no verb, or if there are octets that no command has: control characters, TAB among
    them (RFC 821 4.1.2 knows only SP between words), and what is not printable UTF-8.
    """
    match = _command(line)
    if match is None:
        return None
    verb, argument = match.groups()
    if argument is None:
        return verb.decode("ascii").upper(), ""
    try:
        text = argument.rstrip(b" ").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return (verb.decode("ascii").upper(), text) if _printable(text) else None
