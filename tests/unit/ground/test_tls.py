"""Contexts by BCP 195, certificates that are replaced, and what is said of files that cannot serve."""

from __future__ import annotations

import socket
import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from failover.certificates import key_warning, parse_certificate, read_certificates
from failover.clock import ManualClock, SystemClock
from failover.errors import TlsUnusable
from failover.model import ClientTls, ServerTls
from failover.tls import FRESH_S, ServerIdentity, client_context, failure, server_context
from tests.peers.authority import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost") -> ssl.SSLObject:
    """A handshake without a network; returns the client's side. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(6):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    theirs.do_handshake()
    ours.do_handshake()
    return theirs


def test_tls_13_is_spoken_and_a_believer_believes(authority: Authority) -> None:
    done = shake(server_context(authority.server()), client_context(authority.client()))
    assert done.version() == "TLSv1.3"


def test_tls_12_gets_forward_secrecy_and_aead_alone(authority: Authority) -> None:
    server = server_context(authority.server())
    client = ssl.create_default_context(cafile=str(authority.ca_file))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    done = shake(server, client)
    assert done.version() == "TLSv1.2"
    assert done.compression() is None
    names = [one["name"] for one in server.get_ciphers()]
    assert names
    for one in server.get_ciphers():
        assert one["aead"], one["name"]
        assert one["name"].startswith(("TLS_", "ECDHE-")), one["name"]
    assert server.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused(authority: Authority, version: ssl.TLSVersion) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(authority.ca_file)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.minimum_version = client.maximum_version = version
    with pytest.raises(ssl.SSLError):
        shake(server_context(authority.server()), client)


def test_cbc_is_refused(authority: Authority) -> None:
    client = ssl.create_default_context(cafile=str(authority.ca_file))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA")
    with pytest.raises(ssl.SSLError):
        shake(server_context(authority.server()), client)


def test_with_a_client_ca_a_caller_needs_a_certificate_of_it(authority: Authority, tmp_path: Path) -> None:
    server = server_context(authority.server(client_ca=authority.ca_file))
    shake(server, client_context(authority.client("ct1")))
    stranger = Authority(tmp_path, "stranger").issue("ct1")
    for settings in (
        authority.client(),
        ClientTls(ca_file=authority.ca_file, cert_file=stranger.cert, key_file=stranger.key),
    ):
        with pytest.raises(ssl.SSLError):
            shake(server, client_context(settings))


def test_an_upstream_is_verified_by_issuer_and_name(authority: Authority, tmp_path: Path) -> None:
    server = server_context(authority.server("pacs.example.org"))
    believer = authority.client()
    shake(server, client_context(believer), "pacs.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client_context(believer), "other.example.org")
    other = Authority(tmp_path, "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client_context(other.client()))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client_context(ClientTls()))
    shake(server, client_context(ClientTls(verify=False)), "whatever")


def test_what_cannot_serve_is_named_with_its_cause(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.issue("one"), authority.issue("two")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    locked = tmp_path / "locked.key"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    garbled = tmp_path / "garbled.pem"
    garbled.write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    mixed = tmp_path / "mixed.pem"
    mixed.write_text(good.cert.read_text() + other.cert.read_text())
    scenes = [
        (ServerTls(tmp_path / "gone.pem", good.key), "gone.pem: cannot be read: No such file or directory"),
        (ServerTls(good.cert, other.key), f"is not the key of the certificate in {good.cert}"),
        (ServerTls(text, good.key), "text.pem: holds no certificate in PEM"),
        (ServerTls(garbled, good.key), "garbled.pem: certificate 1 cannot be read"),
        (ServerTls(mixed, good.key), "certificate 1 is not issued by the one after it"),
        (ServerTls(good.cert, locked), "locked.key: is encrypted"),
        (ServerTls(good.cert, good.cert), "holds no private key in PEM"),
        (ServerTls(good.cert, good.key, text), "text.pem: holds no certificate in PEM"),
    ]
    for settings, sentence in scenes:
        with pytest.raises(TlsUnusable) as caught:
            server_context(settings)
        assert sentence in str(caught.value)


def test_a_chain_in_order_serves(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("chained")
    chain = tmp_path / "chain.pem"
    chain.write_text(issued.cert.read_text() + authority.ca_file.read_text())
    assert len(read_certificates(chain).chain) == 2
    shake(server_context(ServerTls(chain, issued.key)), client_context(authority.client()))


def test_dates_are_read_and_judged(authority: Authority) -> None:
    found = read_certificates(authority.issue("dated", days=90).cert)
    der = ssl.PEM_cert_to_DER_cert(authority.ca_file.read_text())
    assert found.chain[0].issuer == parse_certificate(der).subject
    now = SystemClock().wall()
    assert abs(found.expires - now - timedelta(days=90)) < timedelta(hours=1)
    assert found.warning(now) is None
    assert "in 20 days" in str(found.warning(found.expires - timedelta(days=20)))
    assert "expired on" in str(found.warning(found.expires + timedelta(seconds=1)))
    assert "is not valid before" in str(found.warning(now - timedelta(days=1)))


def test_no_split_of_a_certificate_is_read_as_one(authority: Authority) -> None:
    der = ssl.PEM_cert_to_DER_cert(authority.ca_file.read_text())
    for end in range(len(der)):
        with pytest.raises(ValueError):
            parse_certificate(der[:end])


def test_a_key_that_others_can_use_is_told(authority: Authority) -> None:
    key = authority.issue("open").key
    assert key_warning(key) is None
    key.chmod(0o644)
    assert "every user of this machine" in str(key_warning(key))


async def test_a_replaced_certificate_serves_the_next_connection(authority: Authority) -> None:
    clock = ManualClock()
    issued = authority.issue("renewed", file="renewed")
    identity = ServerIdentity("web", ServerTls(issued.cert, issued.key), clock)
    believer = client_context(authority.client())
    old = shake(identity.context, believer).getpeercert()
    authority.issue("renewed", file="renewed")
    assert identity.look() is None
    same = shake(identity.context, believer).getpeercert()
    assert same == old, "one look is not enough: the key may not be there yet"
    assert identity.look() is None
    new = shake(identity.context, believer).getpeercert()
    assert new is not None
    assert old is not None
    assert new["serialNumber"] != old["serialNumber"]


async def test_half_a_pair_changes_nothing_and_is_told(authority: Authority) -> None:
    issued = authority.issue("half", file="half")
    identity = ServerIdentity("web", ServerTls(issued.cert, issued.key), ManualClock())
    before = identity.context
    key = issued.key.read_bytes()
    authority.issue("half", file="half")
    issued.key.write_bytes(key)
    assert "is not the key of" in str(identity.look(at_once=True))
    assert identity.context is before
    shake(identity.context, client_context(authority.client()))
    authority.issue("half", file="half")
    assert identity.look(at_once=True) is None
    assert identity.context is not before


async def test_keys_of_session_tickets_live_a_day(authority: Authority) -> None:
    clock = ManualClock()
    identity = ServerIdentity("web", authority.server(), clock)
    before = identity.context
    identity.look()
    assert identity.context is before
    await clock.advance(FRESH_S + 1)
    identity.look()
    assert identity.context is not before


def test_a_client_takes_a_new_ca_and_keeps_the_old_one_when_the_new_is_bad(tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "1"), Authority(tmp_path / "2")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(first.ca_file.read_bytes())
    settings = ClientTls(ca_file=ca_file)
    shake(server_context(first.server()), client_context(settings))
    ca_file.write_text("rubbish")
    shake(server_context(first.server()), client_context(settings))
    ca_file.write_bytes(second.ca_file.read_bytes())
    shake(server_context(second.server()), client_context(settings))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server_context(first.server()), client_context(settings))


def test_a_client_whose_files_never_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TlsUnusable):
        client_context(ClientTls(ca_file=tmp_path / "gone.pem"))


def test_a_name_that_cannot_be_resolved_is_told_in_words() -> None:
    with pytest.raises(socket.gaierror) as told:
        socket.getaddrinfo("no-such-pacs.invalid", 104)
    assert failure(told.value) == "its name cannot be resolved"
