"""Which servers would be open to strangers, and which files say who is none."""

import dataclasses

import pytest

from optformer.serve.access import Access, AccessError, is_loopback, read_certificate, read_token

TOKEN = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    "host, loopback",
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("tuning", False),
        ("", False),
    ],
)
def test_loopback(host, loopback):
    assert is_loopback(host) == loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "tuning.example.org"])
def test_elsewhere_a_server_knows_its_callers_or_is_told_not_to(host):
    Access().check("127.0.0.1")
    tls = Access(certificate=b"-----BEGIN", key=b"-----BEGIN")
    for closed in (Access(), tls):  # a certificate of the server alone keeps nobody out
        with pytest.raises(AccessError, match=f"{host} can be reached from other machines: give a --token-file"):
            closed.check(host)
    for admitted in (
        Access(token=TOKEN),
        dataclasses.replace(tls, client_authorities=b"-----BEGIN"),
        Access(insecure=True),
    ):
        admitted.check(host)


def test_parts_of_tls_come_together():
    with pytest.raises(AccessError, match="needs both"):
        Access(certificate=b"-----BEGIN").check("127.0.0.1")
    with pytest.raises(AccessError, match="needs --tls-certificate"):
        Access(client_authorities=b"-----BEGIN").check("127.0.0.1")


def test_only_the_token_is_admitted():
    access = Access(token=TOKEN)
    assert access.admits([("user-agent", "x"), ("authorization", f"Bearer {TOKEN}")])
    assert access.admits([("Authorization", f"Bearer {TOKEN}".encode())])
    assert access.admits([("authorization", f"bearer {TOKEN}")])
    wrong = [[], [("authorization", TOKEN)], [("authorization", f"Bearer {TOKEN}x")], [("authorization", "Bearer ü")]]
    twice = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert not any(access.admits(metadata) for metadata in [*wrong, twice])
    assert Access().admits([])


def test_secrets_are_not_printed():
    shown = repr(Access(token=TOKEN, certificate=b"-----BEGIN C", key=b"-----BEGIN K"))
    assert TOKEN not in shown
    assert "BEGIN" not in shown


def test_a_token_file_is_one_long_word_that_nobody_else_reads(tmp_path):
    file = tmp_path / "token"
    with pytest.raises(AccessError, match="does not exist"):
        read_token(file)
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o640)
    with pytest.raises(AccessError, match="can be read by users other than its owner: run chmod 600"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    for bad in ("short", "two words that are long enough", "", "ümlaute-sind-kein-ascii"):
        file.write_text(bad)
        with pytest.raises(AccessError, match="must hold one word of at least 16 ASCII characters"):
            read_token(file)


def test_certificates_are_pem_files(tmp_path):
    assert read_certificate(None) is None
    with pytest.raises(AccessError, match="does not exist"):
        read_certificate(tmp_path / "none.pem")
    file = tmp_path / "some.pem"
    file.write_text("hello")
    with pytest.raises(AccessError, match="is not in PEM format"):
        read_certificate(file)
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    assert read_certificate(file) == b"-----BEGIN CERTIFICATE-----\n"
