"""The self-signed certificate: what it is for, and files that are never overwritten."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from mailnode.channel.tls import ServerTls
from mailnode.pairing.certificate import self_signed, write_new

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)


def test_a_listener_can_show_it_and_it_is_for_its_names(tmp_path: Path) -> None:
    files = str(tmp_path / "c.pem"), str(tmp_path / "k.pem")
    write_new(*files, *self_signed(["hub.example", "192.0.2.7"], 30, NOW))
    leaf = ServerTls(*files).leaf
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("192.0.2.7")]
    assert leaf.not_valid_before_utc < NOW and leaf.not_valid_after_utc == NOW + timedelta(days=30)
    assert ServerTls(*files).doubts("hub.example", NOW) == []


def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    write_new(str(tmp_path / "c.pem"), str(tmp_path / "k.pem"), b"certificate", b"key")
    assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600


def test_a_name_of_more_than_64_characters_is_no_obstacle() -> None:
    name = "a" * 60 + ".hub.example"
    certificate = x509.load_pem_x509_certificate(self_signed([name], 1, NOW)[0])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]


@pytest.mark.parametrize("there", ["c.pem", "k.pem"])
def test_nothing_that_is_there_is_overwritten_and_nothing_half_is_left(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_new(str(tmp_path / "c.pem"), str(tmp_path / "k.pem"), b"certificate", b"key")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
