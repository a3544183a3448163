"""What Twisted says of an endpoint string. It is asked only of those that are not plain: it takes longer to
import than a command takes to do what it is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IReactorPluggableNameResolver
from zope.interface import implementer

from mailnode.configuration.values import shown


def check_server_endpoint(text: str) -> None:
    """ValueError, with words for the operator, if nothing could listen at `text`."""
    _parse(serverFromString, text)


def check_client_endpoint(text: str) -> None:
    """ValueError, with words for the operator, if nothing could be called at `text`."""
    _parse(clientFromString, text)


@implementer(IReactorPluggableNameResolver)
class _NoReactor:
    """What endpoints may be built on that are never used."""

    nameResolver: Any = None  # tls: takes it at once

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError


def _parse(parse: Callable[[Any, str], object], text: str) -> None:
    """Lets Twisted read an endpoint string with no reactor behind it: nothing listens or connects."""
    try:
        parse(_NoReactor(), text)
    except IndexError:
        # The sockets of `systemd:` are there when systemd starts us, not when a file is checked.
        if "systemd:" not in text:
            raise ValueError(f"{shown(text)} is not an endpoint") from None
    except ImportError:
        raise ValueError(f"{shown(text)} needs the package pyOpenSSL, which is not installed") from None
    except OSError as error:  # ssl: and tls: read their certificates now
        raise ValueError(f"{shown(text)}: {error.strerror or 'unreadable'} ({error.filename})") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if "Unknown endpoint type" in str(error):
            raise ValueError(f"unknown endpoint type {shown(text.partition(':')[0])}") from None
        raise ValueError(f"{shown(text)} is not an endpoint: its arguments are wrong or missing") from None
