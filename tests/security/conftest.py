"""Lines to a house in memory on which a stranger leads: plain, under TLS, and after we turned the line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fuzz.house import House, Line
from mailnode.channel.tls import ClientTls, ServerTls


@pytest.fixture(scope="session")
def server_tls(authority: Any) -> ServerTls:
    return ServerTls(*authority.issue("mit.example"))


@pytest.fixture(scope="session")
def client_creator() -> Any:
    return ClientTls().creator("mit.example", False)


@pytest.fixture(params=["plain", "TLS", "after TURN"])
def lead(request: pytest.FixtureRequest, server_tls: ServerTls, client_creator: Any) -> Callable[..., Line]:
    """Opens a line on which the test leads; `lead.house` is the house at its other end.

    What a stranger may do is the same on all three.
    """

    class Lead:
        def __init__(self) -> None:
            self.house = House(tls=server_tls)

        def __call__(self, **options: Any) -> Line:
            if options:
                self.house = House(tls=server_tls, **options)
            if request.param == "plain":
                return self.house.hear()
            if request.param == "TLS":
                return self.house.hear_secured(client_creator)
            return self.house.hear_turned()

    return Lead()
