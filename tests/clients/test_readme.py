"""What README.md shows can be run as it stands there."""

from __future__ import annotations

import smtplib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "README.md"


def test_the_program_of_your_own_takes_mail_and_shows_messages(
    start_program: Callable[..., Any], free_port: Callable[[], int], wait_for_port: Callable[[int], None]
) -> None:
    (program,) = (part.partition("```")[0] for part in README.read_text().split("```python\n")[1:])
    port = free_port()
    assert program.count("tcp:2525:") == 1
    start_program(sys.executable, "-c", program.replace("tcp:2525:", f"tcp:{port}:"))
    wait_for_port(port)
    with smtplib.SMTP("127.0.0.1", port, timeout=15) as client:
        assert client.ehlo("me")[0] == 250 and client.has_extn("SEND")
        client.sendmail("smith@usc.example", ["jones@mit.example"], "Subject: x\r\n\r\nhi\r\n")
        for command in ("SEND FROM:<a@usc.example>", "RCPT TO:<jones@mit.example>"):
            assert client.docmd(command)[0] == 250
        assert client.data("hello\r\n")[0] == 250
        assert client.vrfy("jones")[0] == 252  # to strangers
