"""AADSTS codes of Entra ID that a service principal or a managed identity can meet, and whether waiting helps.

Sources: https://learn.microsoft.com/entra/identity-platform/reference-error-codes, and for codes that this page does not list,
``https://login.microsoftonline.com/error?code=<number>``. Codes of interactive sign-in are left out, because nothing here signs in
interactively. A code that is in no table is permanent, unless its HTTP status says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

CODE: Final = re.compile(r"AADSTS\d+")
"""A code in the text of an error."""

TRANSIENT: Final[Mapping[str, str]] = {
    "AADSTS40010": "The federated identity provider failed.",
    "AADSTS50033": "Entra ID had a transient error.",
    "AADSTS50166": "Entra ID could not fetch the external issuer's metadata, or was throttled by it.",
    "AADSTS501661": "Entra ID could not fetch the external issuer's keys.",
    "AADSTS50196": "Entra ID throttles this client, because it repeated one request too often.",
    "AADSTS90006": "Entra ID is temporarily unavailable.",
    "AADSTS90012": "The request to Entra ID timed out.",
    "AADSTS90024": "Entra ID had a transient error.",
    "AADSTS90033": "The directory service of Entra ID is unavailable.",
    "AADSTS90055": "Entra ID throttles this tenant.",
    "AADSTS90061": "Entra ID could not reach an external service.",
    "AADSTS90090": "Entra ID is temporarily unavailable.",
    "AADSTS90091": "Entra ID could not reach its directory.",
}
"""Failures and throttling: the same request succeeds later."""

NO_MATCH: Final[Mapping[str, bool]] = {
    "AADSTS70021": True,  # no record matches; older wording of the three that follow
    "AADSTS70025": True,  # the identity has no federated credential at all
    "AADSTS700211": False,  # the issuer differs
    "AADSTS700212": False,  # the audience differs
    "AADSTS700213": True,  # the subject differs
    "AADSTS7002138": False,  # the subject equals the record's except for case, so the record has arrived and is wrong
}
"""No federated credential matches the token. The value tells whether a credential that has not propagated yet causes the code too."""

NOT_REPLICATED: Final = frozenset({"AADSTS700016", "AADSTS7000229"})
"""An identity that was just created causes these codes until it is replicated. Otherwise it does not exist."""

_POLICY_HINT: Final = "Ask the tenant's administrator to change the Conditional Access policy for workload identities."
_TENANT_HINT: Final = "Check credential.tenant_id and credential.authority."
_CLIENT_HINT: Final = "Check credential.client_id and credential.tenant_id."
_SECRET_HINT: Final = "Add a new secret to the application and write it to credential.client_secret_file."  # noqa: S105 - a hint
_SCOPE_HINT: Final = "Use '<resource>/.default'."
_ISSUER_KEYS_HINT: Final = "Publish the issuer's current key set."
_BLOCKED: Final = "A Conditional Access policy of the tenant blocks this identity."

PERMANENT: Final[Mapping[str, tuple[str, str | None]]] = {
    # the application or the tenant
    "AADSTS70001": ("The application is disabled or does not exist in this tenant.", _CLIENT_HINT),
    "AADSTS700011": ("The application does not exist in this tenant.", _CLIENT_HINT),
    "AADSTS700016": ("The application does not exist in this tenant.", _CLIENT_HINT),
    "AADSTS7000112": ("The application is disabled.", "Enable the application in the tenant."),
    "AADSTS7000229": ("The application has no service principal in this tenant.", _CLIENT_HINT),
    "AADSTS900023": ("The tenant name is neither a GUID nor a domain.", _TENANT_HINT),
    "AADSTS90002": ("The tenant does not exist.", _TENANT_HINT),
    "AADSTS90038": ("The tenant belongs to another cloud.", "Set credential.authority to the authority of that cloud."),
    "AADSTS900382": ("The tenant belongs to another cloud.", "Set credential.authority to the authority of that cloud."),
    "AADSTS50034": ("The user does not exist in this tenant.", _TENANT_HINT),
    "AADSTS50053": ("The account is locked after too many failed attempts.", "Wait, then sign in with the correct credential."),
    "AADSTS50057": ("The account is disabled.", "Enable the account in the tenant."),
    "AADSTS50105": ("The identity is not assigned to the application.", "Assign the identity to the application in the tenant."),
    # the client secret
    "AADSTS70002": ("The client credential is not valid.", "Check credential.client_secret_file."),
    "AADSTS7000215": ("The client secret is not valid.", "Write the secret's value (not its ID) to credential.client_secret_file."),
    "AADSTS7000218": ("The request has neither a client secret nor an assertion.", "Set credential.kind and its secret."),
    "AADSTS7000222": ("The client secret has expired.", _SECRET_HINT),
    # the assertion
    "AADSTS50013": ("The assertion is not valid.", "Compare the token's iss, aud, sub, nbf and exp with the federated credential."),
    "AADSTS50027": ("The assertion is not a valid JWT.", "Compare the token's iss, aud, sub, nbf and exp with the federated credential."),
    "AADSTS700021": ("The assertion's subject is not the client ID.", _CLIENT_HINT),
    "AADSTS700022": ("The scope names several resources.", _SCOPE_HINT),
    "AADSTS700023": ("The assertion's audience or the scope does not fit.", "The audience must be api://AzureADTokenExchange."),
    "AADSTS700024": ("The assertion is not within its lifetime.", "Get a new ID token, and check this machine's clock."),
    "AADSTS700025": ("The application is public, so it cannot use a secret or an assertion.", "Use a confidential client."),
    "AADSTS700026": ("The application has no keys.", "Add a federated credential, a certificate or a secret to it."),
    "AADSTS700027": ("The assertion's signature is not valid.", "Publish the key that signed the token in the issuer's key set."),
    "AADSTS7000272": ("The key that signed the assertion is not among the issuer's published keys.", _ISSUER_KEYS_HINT),
    "AADSTS700030": ("The certificate's subject name is not authorised.", "Use a certificate of the application."),
    "AADSTS700222": ("Tokens that Entra ID issued cannot be used for federation.", "Use the token of the external issuer."),
    "AADSTS700229": ("A user's token cannot be used for federation.", "Use an app-only token."),
    "AADSTS7002381": ("The tenant requires a claim that the assertion does not have.", "Compare the cause with the token's claims."),
    "AADSTS900384": ("The assertion's signature is not valid.", _ISSUER_KEYS_HINT),
    # the resource
    "AADSTS50001": ("The resource does not exist or is disabled.", "Check the scope."),
    "AADSTS500011": ("The resource does not exist in this tenant.", "Check the scope, and that its application is registered."),
    "AADSTS65001": ("The application lacks consent for the resource.", "Ask the tenant's administrator for consent."),
    "AADSTS650052": ("The tenant does not have the resource's service.", "Ask the tenant's administrator to enable it."),
    "AADSTS650057": ("The application does not list the resource.", "Add the resource to the application's permissions."),
    "AADSTS70011": ("The scope is not valid.", _SCOPE_HINT),
    "AADSTS90094": ("The application lacks an administrator's consent.", "Ask the tenant's administrator for consent."),
    # policies of the tenant
    "AADSTS500021": ("Tenant restrictions of this network block the tenant.", "Ask the network's administrator to allow the tenant."),
    "AADSTS500022": ("Tenant restrictions of this network block the tenant.", "Ask the network's administrator to allow the tenant."),
    "AADSTS500212": ("The home tenant's policy blocks access to the other tenant.", "Ask the administrator of the home tenant."),
    "AADSTS500213": ("The other tenant's policy blocks access.", "Ask the administrator of the other tenant."),
    "AADSTS50131": (_BLOCKED, _POLICY_HINT),
    "AADSTS53000": (_BLOCKED, _POLICY_HINT),
    "AADSTS53001": (_BLOCKED, _POLICY_HINT),
    "AADSTS53002": (_BLOCKED, _POLICY_HINT),
    "AADSTS53003": (_BLOCKED, _POLICY_HINT),
    "AADSTS530032": ("A security policy of the tenant blocks this request.", _POLICY_HINT),
    "AADSTS530034": ("The tenant blocked the identity because of risk.", "Ask the tenant's administrator."),
    "AADSTS530035": ("The tenant's security defaults block this request.", "Ask the tenant's administrator."),
    "AADSTS53011": ("The identity is blocked because of risk.", "Ask the tenant's administrator."),
}
"""What the code says, and the remedy. Waiting does not help."""
