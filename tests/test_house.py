"""The laws of the house: what may import what, no world made at import, and files of one noun."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mailnode

ROOT = Path(mailnode.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

# The command line stands outside: it opens the house's front doors, and decides nothing.
OUTSIDE = {"commands"}

ROOMS = {
    "access",
    "channel",
    "configuration",
    "delivery",
    "directory",
    "pairing",
    "peering",
    "routing",
    "smtp",
    "spool",
    "terminals",
}

# What every room may speak in: nouns, doors, and the words of the wire. None of it is a room's own.
VOCABULARY = {
    "mailnode.mail",
    "mailnode.interfaces",
    "mailnode.batch",
    "mailnode.child",
    "mailnode.found",
    "mailnode.journal",
    "mailnode.letters",
    "mailnode.queued",
    "mailnode.shown",
    "mailnode.received",
    "mailnode.welcome",
    "mailnode.smtp.grammar",
    "mailnode.smtp.replies",
}

# Who may look into another room besides, and why.
EXCEPTIONS = {
    # The channel holds the machines: that is what it is for.
    "channel": {"mailnode.smtp"},
    # What is kept of a secret is what the SASL exchanges ask for.
    "access": {"mailnode.smtp.sasl.keys", "mailnode.smtp.sasl.preparation"},
    # The secrets that it makes are known by keys of SCRAM, and told by XPAIR.
    "pairing": {"mailnode.smtp.sasl.keys", "mailnode.smtp.pairing"},
    # The call of a person who waits: a conversation of its own, with a certificate that is known.
    "pairing/calling.py": {"mailnode.smtp.events", "mailnode.smtp.script", "mailnode.smtp.sender"},
    "pairing/joining.py": {"mailnode.smtp.events", "mailnode.smtp.script"},
    # Both open channels to other hosts, and read how a conversation ended.
    "delivery/relay.py": {"mailnode.channel", "mailnode.smtp.events", "mailnode.smtp.script"},
    "peering/conversation.py": {"mailnode.channel", "mailnode.smtp.events", "mailnode.smtp.script"},
    "peering/dialing.py": {"mailnode.channel"},
}

# The composition root; no other module outside the rooms knows more than one of them.
SEES_EVERYTHING = {"node.py", "parts.py"}

NO_IO = {"asyncio", "select", "selectors", "socket", "ssl", "threading", "time", "twisted", "zope"}

MAX_LINES = 450
MAX_FUNCTION = 60  # lines: one screen


# ------------------------------------------------------------------------------ reading a module


def imports(tree: ast.AST, module: str) -> set[str]:
    """The dotted names that a module imports, from-imports of modules with the name imported."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.add(name if _is_module(name) else base)
    return found


def _is_module(name: str) -> bool:
    if not name.startswith("mailnode"):
        return False
    path = ROOT.parent / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def within(name: str, allowed: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: everything but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(child)


# ------------------------------------------------------------------------------ the laws


def breaches(path: str, source: str) -> list[str]:
    """The laws that a file breaks; `path` is its place in the package."""
    tree = ast.parse(source)
    module = "mailnode." + path.removesuffix(".py").replace("/", ".")
    return [
        *_import_breaches(path, imports(tree, module)),
        *_reactor_breaches(tree),
        *_global_breaches(tree),
        *_patch_breaches(tree),
        *_size_breaches(tree, source),
    ]


def _import_breaches(path: str, imported: set[str]) -> Iterator[str]:
    ours = {name for name in imported if name.startswith("mailnode.")}  # the package itself has its version
    room = path.split("/")[0] if "/" in path else ""
    if path == "mail.py":
        allowed: set[str] = set()
    elif path == "interfaces.py":
        allowed = {"mailnode.mail", "mailnode.found", "mailnode.queued", "mailnode.shown"}
    elif path in ("found.py", "queued.py", "shown.py"):
        allowed = {"mailnode.mail"}
    elif room == "smtp":
        allowed = {"mailnode.mail", "mailnode.smtp"}
        for name in sorted(imported - ours):
            if name.split(".")[0] in NO_IO:
                yield f"the protocol imports {name}"
    elif f"mailnode.{path.removesuffix('.py')}" in VOCABULARY:
        allowed = VOCABULARY
    elif room and room not in OUTSIDE:
        own = f"mailnode.{room}"
        allowed = VOCABULARY | {own} | EXCEPTIONS.get(room, set()) | EXCEPTIONS.get(path, set())
    else:
        seen = {name.split(".")[1] for name in ours if "." in name and not within(name, VOCABULARY)} & ROOMS
        if len(seen) > 1 and path not in SEES_EVERYTHING:
            yield f"knows several rooms: {', '.join(sorted(seen))}"
        return
    for name in sorted(ours):
        if not within(name, allowed):
            yield f"imports {name}"


def _reactor_breaches(tree: ast.AST) -> Iterator[str]:
    for node in at_import(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        if any(within(name, {"twisted.internet.reactor"}) for name in names):
            yield "imports the reactor as it is imported itself"


MUTABLE_DISPLAYS = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
MUTABLE_CALLS = {"dict", "list", "set", "bytearray", "deque", "defaultdict", "Counter", "OrderedDict"}


def _global_breaches(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"changes the global {', '.join(node.names)}"
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            targets, annotation = statement.targets, ""
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, annotation = [statement.target], ast.unparse(statement.annotation)
        else:
            continue
        assert statement.value is not None
        if not _is_mutable(statement.value) or annotation.split("[")[0].endswith("Final"):
            continue
        for target in targets:
            name = ast.unparse(target)
            if not (name.strip("_").isupper() or name == "__all__"):
                yield f"mutable global {name}"


def _is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        function = ast.unparse(value.func).split("[")[0].split(".")[-1]
        return function in MUTABLE_CALLS
    return isinstance(value, MUTABLE_DISPLAYS)


def _patch_breaches(tree: ast.AST) -> Iterator[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            targets = [node.target]
        for target in targets:
            text = ast.unparse(target)
            if isinstance(target, ast.Attribute) and text.split(".")[0] in names:
                yield f"patches {text}"


def _size_breaches(tree: ast.AST, source: str) -> Iterator[str]:
    lines = source.count("\n")
    if lines > MAX_LINES:
        yield f"has {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                yield f"{node.name} has {length} lines"


# ------------------------------------------------------------------------------ the tests


def test_the_house_is_found() -> None:
    assert {"mail.py", "interfaces.py", "smtp/receiver.py", "channel/channel.py"} <= set(FILES)
    folders = {path.split("/")[0] for path in FILES if "/" in path}
    assert folders == ROOMS | OUTSIDE


@pytest.mark.parametrize("path", FILES)
def test_a_file_keeps_the_laws(path: str) -> None:
    assert breaches(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_no_exception_is_kept_that_nobody_needs() -> None:
    places = set(FILES) | ROOMS
    assert set(EXCEPTIONS) <= places
    for place, allowed in EXCEPTIONS.items():
        used: set[str] = set()
        for path in FILES:
            if path == place or path.startswith(place + "/"):
                used |= imports(ast.parse((ROOT / path).read_text(encoding="utf-8")), "mailnode")
        for prefix in allowed:
            assert any(within(name, {prefix}) for name in used), f"{place} does not use {prefix}"


@pytest.mark.parametrize(
    ("path", "source", "breach"),
    [
        ("mail.py", "from mailnode.smtp import grammar\n", "imports mailnode.smtp.grammar"),
        ("interfaces.py", "from mailnode.smtp.replies import OK\n", "imports mailnode.smtp.replies"),
        ("smtp/new.py", "import time\n", "the protocol imports time"),
        ("smtp/new.py", "def f():\n    from twisted.internet import defer\n",
         "the protocol imports twisted.internet"),
        ("smtp/new.py", "from zope.interface import implementer\n", "the protocol imports zope.interface"),
        ("smtp/new.py", "import socket as s\n", "the protocol imports socket"),
        ("smtp/new.py", "from mailnode.interfaces import ISpool\n", "imports mailnode.interfaces"),
        ("smtp/new.py", "from mailnode.batch import BatchNow\n", "imports mailnode.batch"),
        ("spool/new.py", "from mailnode.delivery.dispatch import Dispatch\n",
         "imports mailnode.delivery.dispatch"),
        ("spool/new.py", "from mailnode import delivery\n", "imports mailnode.delivery"),
        ("spool/new.py", "from ..delivery import dispatch\n", "imports mailnode.delivery.dispatch"),
        ("spool/new.py", "import mailnode.node\n", "imports mailnode.node"),
        ("spool/new.py", "from mailnode.smtp.receiver import Limits\n", "imports mailnode.smtp.receiver"),
        ("delivery/new.py", "from mailnode.channel.factories import SenderFactory\n",
         "imports mailnode.channel.factories"),
        ("letters.py", "import mailnode.spool.memory\n", "imports mailnode.spool.memory"),
        ("intake.py", "import mailnode.spool.memory\nimport mailnode.access.rules\n",
         "knows several rooms: access, spool"),
        ("spool/new.py", "from twisted.internet import reactor\n",
         "imports the reactor as it is imported itself"),
        ("spool/new.py", "class A:\n    import twisted.internet.reactor\n",
         "imports the reactor as it is imported itself"),
        ("spool/new.py", "cache = {}\n", "mutable global cache"),
        ("spool/new.py", "cache: list[int] = [n for n in ()]\n", "mutable global cache"),
        ("spool/new.py", "import collections\n_seen = collections.deque()\n", "mutable global _seen"),
        ("spool/new.py", "seen = set[int]()\n", "mutable global seen"),
        ("spool/new.py", "n = 0\ndef f():\n    global n\n    n = 1\n", "changes the global n"),
        ("spool/new.py", "import time\ntime.sleep = None\n", "patches time.sleep"),
        ("spool/new.py", "from twisted.internet import defer\ndef f():\n    defer.Deferred.debug = True\n",
         "patches defer.Deferred.debug"),
        ("spool/new.py", "\n" * 451, "has 451 lines"),
        ("spool/new.py", "def f():\n" + "    pass\n" * 60, "f has 61 lines"),
    ],
)  # fmt: skip
def test_a_breach_is_noticed(path: str, source: str, breach: str) -> None:
    assert breaches(path, source) == [breach]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("smtp/new.py", "import re\nfrom mailnode.mail import Path\nfrom mailnode.smtp import events\n"),
        ("spool/new.py", "from mailnode.interfaces import ISpool\nfrom mailnode.batch import BatchNow\n"),
        ("spool/new.py", "from mailnode.spool import rows\nfrom . import ids\n"),
        ("spool/new.py", "from mailnode.smtp.grammar import parse_path\nfrom mailnode.smtp import replies\n"),
        ("channel/new.py", "from mailnode.smtp.receiver import Receiver\n"),
        ("delivery/relay.py", "from mailnode.channel.factories import SenderFactory\n"),
        ("node.py", "import mailnode.spool.memory\nimport mailnode.access.rules\n"),
        ("node.py", "def run():\n    from twisted.internet import reactor\n"),
        (
            "spool/new.py",
            "from typing import Final\nTABLE = {}\n_words: Final[list[int]] = []\n__all__ = []\n",
        ),
        ("spool/new.py", "def f():\n    found = {}\n    return found\n"),
        ("spool/new.py", "class A:\n    def f(self):\n        self.x = 1\n"),
    ],
)
def test_what_the_laws_allow_is_no_breach(path: str, source: str) -> None:
    assert breaches(path, source) == []
