"""Routes of the OIDC issuer and of ID tokens for clean rooms (docs/facts/governance-service.md#oidc-issuer)."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cleanroom.jose.encoding import b64uint, b64url
from localcloud.standins.cgs.attested import require_attestation, require_reading
from localcloud.standins.cgs.auth import require_active
from localcloud.standins.cgs.http import CLEAN_ROOM, MEMBER, MEMBER_OR_USER, PUBLIC, Call, Fault, Reply, Route
from localcloud.standins.cgs.javascript import Crash, member
from localcloud.standins.cgs.store import Tx

ISSUER = "public:ccf.gov.oidc_issuer"
"""Keys: ``issuer`` ({enabled, requestId, kid}), and ``url``, the issuer URL that the members have set."""
MEMBER_TENANTS = "public:oidc_issuer.tenantid_issuer_url"
USER_TENANTS = "public:oidc_issuer.user_tenantid_issuer_url"
SIGNING_KEYS = "oidc_issuer.signing_keys"


def _signing_key(tx: Tx) -> dict[str, Any] | None:
    stored = tx.get_private(SIGNING_KEYS, "current")
    return None if stored is None else json.loads(stored)


def _private(pem: str) -> rsa.RSAPrivateKey:
    # A check of the primes would take longer than the signature, for each token. This module has stored the key.
    key = serialization.load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def generate_signing_key(call: Call, tx: Tx) -> Reply:
    """Generate the signing key, once per request ID. A rotation increments the ID, and the old key is lost."""
    issuer = tx.get(ISSUER, "issuer")
    if issuer is None or not issuer["enabled"]:
        raise Fault(405, "OidcIssuerNotEnabled", "The OIDC issuer is not enabled; members must accept enable_oidc_issuer.")
    name = {"reqId": issuer["requestId"], "kid": f"{issuer['kid']}-{issuer['requestId']}"}
    current = _signing_key(tx)
    if current is None or current["reqId"] != name["reqId"]:
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
        tx.put_private(SIGNING_KEYS, "current", json.dumps({**name, "pem": pem}).encode())
    return Reply(name)


def set_issuer_url(call: Call, tx: Tx) -> Reply:
    """Set the issuer URL of the caller's tenant. Members and users have separate tables."""
    require_active(call.caller, tx)
    assert call.caller is not None
    url = member(call.json(), "url")
    if not isinstance(url, str) or not url.startswith(("http:", "https:")):
        raise Fault(400, "InvalidUrl", f"url is {url!r}; it must be an http or https URL.")
    if not call.caller.tenant:
        raise Fault(400, "NoTenantId", f"The caller {call.caller.id} has no tenant ID.")
    tx.put(USER_TENANTS if call.caller.policy == "jwt" else MEMBER_TENANTS, call.caller.tenant, url)
    return Reply()


def issuer_info(call: Call, tx: Tx) -> Reply:
    """Read ``{enabled, issuerUrl?, tenantData?}``."""
    require_active(call.caller, tx)
    assert call.caller is not None
    issuer = tx.get(ISSUER, "issuer")
    body: dict[str, Any] = {"enabled": bool(issuer and issuer["enabled"])}
    if (url := tx.get(ISSUER, "url")) is not None:
        body["issuerUrl"] = url
    tenant = call.caller.tenant
    table = USER_TENANTS if call.caller.policy == "jwt" else MEMBER_TENANTS
    if tenant and (own := tx.get(table, tenant)) is not None:
        body["tenantData"] = {"tenantId": tenant, "issuerUrl": own}
    return Reply(body)


def discovery(call: Call, tx: Tx) -> Reply:
    """Read the discovery document. It names RS256 although tokens are signed with PS256, like the original."""
    url = tx.get(ISSUER, "url") or "{placeholder}"
    body = {"issuer": url, "jwks_uri": f"{url}/keys", "response_types_supported": ["id_token"]}
    return Reply({**body, "id_token_signing_alg_values_supported": ["RS256"]})


def jwks(call: Call, tx: Tx) -> Reply:
    """Read the key set, which has one key."""
    current = _signing_key(tx)
    if current is None:
        raise Fault(405, "SigningKeyNotAvailable", "No signing key has been generated.")
    numbers = _private(current["pem"]).public_key().public_numbers()
    row = {"alg": "RS256", "use": "sig", "kty": "RSA", "kid": current["kid"], "e": b64uint(numbers.e), "n": b64uint(numbers.n)}
    return Reply({"keys": [row]})


def token(call: Call, tx: Tx) -> Reply:
    """Issue an ID token as a wrapped answer. All claims are strings, like in the original."""
    body, query = call.json(), call.query
    require_reading(body)
    for name in ("exp", "iat", "jti", "sub", "tid", "aud"):
        if not query.get(name):
            raise Fault(400, "InvalidInput", f"Query parameter {name} must be given.")
    pem = require_attestation(call, tx, body, delegates=[("oauth-federation-subjects", query["sub"])], bind="encrypt")
    current = _signing_key(tx)
    if current is None:
        raise Fault(405, "SigningKeyNotAvailable", "No signing key has been generated.")
    tenant = query["tid"]
    issuer = query.get("iss") or tx.get(MEMBER_TENANTS, tenant) or tx.get(USER_TENANTS, tenant) or tx.get(ISSUER, "url")
    if not issuer:
        raise Fault(
            405, "IssuerUrlNotSet", f"Neither tenant {tenant} nor the service has an issuer URL; members set it with set_oidc_issuer_url."
        )
    claims = {"aud": query["aud"], "exp": query["exp"], "iss": issuer, "jti": query["jti"]}
    if query.get("nbf"):
        claims["nbf"] = query["nbf"]
    claims |= {"sub": query["sub"], "iat": query["iat"]}
    header = {"alg": "PS256", "typ": "JWT", "kid": current["kid"]}
    signed = ".".join(b64url(json.dumps(part, separators=(",", ":"), ensure_ascii=False).encode()) for part in (header, claims))
    try:
        signature = _private(current["pem"]).sign(signed.encode(), padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    except ValueError as error:
        raise Crash("the signing key is not usable") from error
    return Reply(wrap=(f"{signed}.{b64url(signature)}".encode(), pem))


ROUTES = [
    Route("GET", "/oidc/.well-known/openid-configuration", PUBLIC, discovery),
    Route("GET", "/oidc/keys", PUBLIC, jwks),
    Route("POST", "/oidc/generateSigningKey", MEMBER, generate_signing_key, write=True),
    Route("POST", "/oidc/setIssuerUrl", MEMBER_OR_USER, set_issuer_url, write=True),
    Route("POST", "/oidc/issuerInfo", MEMBER_OR_USER, issuer_info),
    Route("POST", "/contracts/{contractId}/oauth/token", CLEAN_ROOM, token),
]
