"""JSON Object Signing and Encryption: encodings, keys (JWK), signatures (JWS), tokens (JWT) and certificate chains (``x5c``).

A leaf package: it imports nothing of the product except the error types. The only JOSE library in use is PyJWT, which MSAL brings in
any case; it supplies the signature algorithms, the check of a token's registered claims, and the download of key sets. Two things
stay ours, because PyJWT is more tolerant than a signed statement allows:

* :mod:`~cleanroom.jose.encoding` and :func:`~cleanroom.jose.jws.parse`: PyJWT ignores characters outside the base64url alphabet and the
  unused bits of the last character, so several texts pass as the same signature. It also accepts duplicate JSON members.
* :mod:`~cleanroom.jose.jwk`: Azure services send key types with the suffix ``-HSM``, integers with leading zeros, and padded or plain
  base64. PyJWT rejects these keys.
"""
