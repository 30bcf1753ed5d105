"""Who may call a server.

By default, a server listens on the loopback address only.  On other addresses, callers must authenticate with a token
or with certificates, unless access control is explicitly disabled (`insecure`).
"""

import base64
import dataclasses
import hmac
import ipaddress
import stat
from collections.abc import Iterable
from pathlib import Path

LEAST_TOKEN = 16
"""Smallest number of characters of a token; shorter ones could be guessed."""


class AccessError(ValueError):
    """A server would accept calls from everyone, or a file with a token or certificates is unusable."""


@dataclasses.dataclass(frozen=True)
class Access:
    """How callers authenticate.

    Attributes:
      token: callers send it as `authorization: Bearer TOKEN`, browsers as the password; None: no token.
      certificate, key: the server's certificate and private key (PEM); None: no TLS.
      client_authorities: CA certificates (PEM), one of which must have signed the caller's certificate; None: callers
        need no certificate.
      insecure: whether anyone may call from anywhere.
    """

    token: str | None = dataclasses.field(default=None, repr=False)
    certificate: bytes | None = dataclasses.field(default=None, repr=False)
    key: bytes | None = dataclasses.field(default=None, repr=False)
    client_authorities: bytes | None = dataclasses.field(default=None, repr=False)
    insecure: bool = False

    @property
    def tls(self) -> bool:
        return self.certificate is not None

    def check(self, host: str) -> None:
        """Raises `AccessError` if a server on this address would accept calls from everyone."""
        if (self.certificate is None) != (self.key is None):
            raise AccessError("TLS needs both --tls-certificate and --tls-key")
        if self.client_authorities is not None and not self.tls:
            raise AccessError("--tls-client-authorities needs --tls-certificate and --tls-key, too")
        known = self.token is not None or self.client_authorities is not None
        if not (known or self.insecure or is_loopback(host)):
            raise AccessError(
                f"{host} can be reached from other machines: give a --token-file, or --tls-certificate, --tls-key and "
                "--tls-client-authorities, or say --insecure if everybody who can reach it may use it"
            )

    def admits(self, metadata: Iterable[tuple[str, str | bytes]], password: bool = False) -> bool:
        """Whether the headers of a call contain the token, if the server has one; compared in constant time.

        Args:
          metadata: names and values of the headers.
          password: whether the token may also be the password of HTTP Basic authentication, as browsers send it.
        """
        if self.token is None:
            return True
        sent = [value for name, value in metadata if name.lower() == "authorization"]
        given = sent[0] if len(sent) == 1 else ""
        given = given if isinstance(given, bytes) else given.encode()
        if password and given[:6].lower() == b"basic ":
            _, _, secret = _decoded(given[6:]).partition(b":")
            return hmac.compare_digest(secret, self.token.encode())
        scheme, _, secret = given.partition(b" ")
        return hmac.compare_digest(secret, self.token.encode()) and scheme.lower() == b"bearer"


def _decoded(text: bytes) -> bytes:
    """Decodes base64; empty if the text is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def is_loopback(host: str) -> bool:
    """Whether an address is only reachable from this machine.  The only name that counts is `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(path: str | Path) -> str:
    """The token in a file.

    Raises:
      AccessError: the file is missing, users other than its owner can read it, or its token is too short or not one
        word of ASCII characters.
    """
    path = Path(path)
    if not path.is_file():
        raise AccessError(f"token file {path} does not exist")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessError(f"token file {path} can be read by users other than its owner: run chmod 600 {path}")
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < LEAST_TOKEN or not token.isascii() or any(character.isspace() for character in token):
        raise AccessError(f"token file {path} must hold one word of at least {LEAST_TOKEN} ASCII characters")
    return token


def read_certificate(path: str | Path | None) -> bytes | None:
    """The bytes of a PEM file; None for None.  Raises `AccessError` if the file is missing or not PEM."""
    if path is None:
        return None
    path = Path(path)
    if not path.is_file():
        raise AccessError(f"certificate or key file {path} does not exist")
    content = path.read_bytes()
    if b"-----BEGIN " not in content:
        raise AccessError(f"certificate or key file {path} is not in PEM format")
    return content
