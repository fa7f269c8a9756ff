"""A real OpenID Connect issuer on a free port: discovery, a JWK set, and whatever token a test wants."""

from __future__ import annotations

import base64
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

AUDIENCE = "aura"
ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA", "HS256", "none", "RS512"]


class Issuer:
    """Keys by id, and how often they were asked for."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "rsa": RSAKey.generate_key(2048, {"kid": "rsa"}),
            "ec": ECKey.generate_key("P-256", {"kid": "ec"}),
            "ed": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
        }
        self.published = set(self.keys)
        self.asked = 0
        self.url = ""
        self.named: str | None = None
        """What discovery says it is called, when that is not the truth."""

    def document(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.named or self.url, "jwks_uri": f"{self.url}/keys"}
        if path == "/keys":
            self.asked += 1
            return {"keys": [key.as_dict(private=False) for kid, key in self.keys.items() if kid in self.published]}
        return None

    def claims(self, now: float, **changes: Any) -> dict[str, Any]:
        """What an accepted token says; ``None`` takes a claim out."""
        flat = {
            "iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": int(now), "exp": int(now) + 300,
            "realm_access": {"roles": ["operator", "offline_access"]}, "projects": [1],
        }  # fmt: skip
        return {name: value for name, value in {**flat, **changes}.items() if value is not None}

    def token(
        self, claims: dict[str, Any], *, alg: str = "RS256", kid: str | None = "rsa", key: Any = None, **header: Any
    ) -> str:
        """A signed token; ``header`` adds to its header."""
        head = {"alg": alg, **({} if kid is None else {"kid": kid}), **header}
        signing = key if key is not None else self.keys[kid or "rsa"]
        return jws.serialize_compact(head, json.dumps(claims).encode(), signing, registry=_anything())


def _anything() -> jws.JWSRegistry:
    return jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)


def by_hand(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """A token that no library would make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    return b".".join([*parts, base64.urlsafe_b64encode(sign(b".".join(parts))).rstrip(b"=")]).decode()


def with_public_key_as_secret(key: RSAKey) -> Callable[[bytes], bytes]:
    """HMAC with what everybody knows: the classic confusion of RS256 and HS256."""
    return lambda data: hmac.digest(key.as_pem(private=False), data, "sha256")


def rs256(key: RSAKey) -> Callable[[bytes], bytes]:
    """A good signature."""
    return lambda data: key.private_key.sign(data, padding.PKCS1v15(), hashes.SHA256())


@contextmanager
def serving() -> Iterator[Issuer]:
    """The issuer, answering."""
    issuer = Issuer()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = issuer.document(self.path)
            body = json.dumps(found).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
