"""``cleanroom codec-server`` and ``cleanroom codec-keys``: show encrypted payloads to people who may see them, and keep the keys that
encrypt them."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from cleanroom.errors import Conflict, InvalidInput
from cleanroom.secret import write_secret_file
from cleanroom.temporal.keyring import Keyring
from cleanroom.webui.auth import OidcSettings
from cleanroom.webui.codec_server import CodecServerSettings, serve
from starters.terminal.entry import main
from starters.terminal.output import Format, Output, error_boundary, print_record


def codec_server(
    keyring: Annotated[Path, typer.Option(help="Codec keyring file (mode 0600).")],
    tokens: Annotated[
        Path | None, typer.Option(help="File with one bearer token, or JSON {name: token} (mode 0600); made when it does not exist.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback needs TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8234,
    ui_origin: Annotated[list[str] | None, typer.Option(help="Origin of the Temporal Web UI; repeat for several.")] = None,
    namespace: Annotated[list[str] | None, typer.Option(help="Temporal namespace that is served; repeat for several.")] = None,
    decode_only: Annotated[bool, typer.Option("--decode-only", help="Refuse /encode.")] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key.")] = None,
    oidc_issuer: Annotated[str | None, typer.Option(help="Issuer of the Web UI's access tokens.")] = None,
    oidc_audience: Annotated[str | None, typer.Option(help="Audience that those tokens must have.")] = None,
    oidc_jwks: Annotated[str | None, typer.Option(help="URL of the issuer's keys.")] = None,
    oidc_claim: Annotated[list[str] | None, typer.Option(help="NAME=VALUE that those tokens must hold; repeat for several.")] = None,
    ui_upstream: Annotated[
        str | None, typer.Option(help="Address of the Temporal Web UI's server: be its gateway, with a login before every page.")
    ] = None,
    remote_upstream: Annotated[bool, typer.Option("--remote-upstream", help="Allow a Web UI that is not on this machine.")] = False,
    public_origin: Annotated[
        str | None, typer.Option(help="How browsers reach the gateway, where that is not http(s)://localhost:<port>.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Serve the payload codec to the Temporal Web UI and the temporal command; with --ui-upstream also the Web UI, readable.

    Start the Web UI's server with the codec endpoint <address of this server>/codec, and open it with `cleanroom ui`.

    Example: cleanroom codec-server --keyring keyring.json --tokens codec-token --tls-cert codec.pem --tls-key codec-key.pem
    """
    with error_boundary(output):
        defaults = CodecServerSettings.model_fields
        settings = CodecServerSettings(
            keyring_file=keyring,
            host=host,
            port=port,
            ui_origins=tuple(ui_origin) if ui_origin else () if ui_upstream else defaults["ui_origins"].default,
            namespaces=tuple(namespace) if namespace else defaults["namespaces"].default,
            tokens_file=tokens,
            oidc=_oidc(oidc_issuer, oidc_audience, oidc_jwks, oidc_claim or []),
            allow_encode=not decode_only,
            tls_cert=tls_cert,
            tls_key=tls_key,
            ui_upstream=ui_upstream,
            remote_upstream=remote_upstream,
            public_origin=public_origin,
        )
        Keyring.load(keyring)
        _require_free(host, port)
        if tokens is not None and not tokens.exists():
            write_secret_file(tokens, secrets.token_urlsafe(32).encode() + b"\n")
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        if ui_upstream:
            typer.echo(f"Temporal Web UI, readable, at {settings.origin}; open it with `cleanroom ui`", err=True)
        else:
            token = f" with the token in {tokens}" if tokens else ""
            typer.echo(f"codec server at {settings.origin}; sign a browser in at {settings.origin}/login{token}", err=True)
        serve(settings)


def _oidc(issuer: str | None, audience: str | None, jwks: str | None, claims: list[str]) -> OidcSettings | None:
    """
    Raises:
        InvalidInput: ``CodecOidcIncomplete``, ``CodecOidcClaimMalformed``.
    """
    if not (issuer or audience or jwks or claims):
        return None
    if not (issuer and audience and jwks):
        raise InvalidInput("CodecOidcIncomplete", "--oidc-issuer, --oidc-audience and --oidc-jwks belong together.")
    pairs = [claim.partition("=") for claim in claims]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise InvalidInput("CodecOidcClaimMalformed", f"--oidc-claim: {name!r} is not NAME=VALUE.", hint="For example team=operators.")
    return OidcSettings(issuer=issuer, audience=audience, jwks_uri=jwks, required_claims={name: value for name, _, value in pairs})


def _require_free(host: str, port: int) -> None:
    """
    Raises:
        Conflict: ``PortInUse``.
        InvalidInput: ``CodecAddressUnusable``.
    """
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict("PortInUse", f"--port: something else listens on {host}:{port}.", hint="Name another port.") from error
        raise InvalidInput("CodecAddressUnusable", f"cannot listen on {host}:{port}.", cause=str(error)) from error


def codec_keys(
    keyring: Annotated[Path, typer.Argument(help="Codec keyring file.")],
    add: Annotated[str | None, typer.Option(help="Id of a key to add; without it a new keyring is made.")] = None,
    current: Annotated[bool, typer.Option("--current/--not-current", help="Whether the added key seals from now on.")] = True,
    use: Annotated[str | None, typer.Option(help="Id of a key in the file that seals from now on.")] = None,
    output: Output = Format.JSON,
) -> None:
    """Make a codec keyring, add a key to it, or change which key seals. Prints key ids, never keys.

    To rotate without a gap: add with --not-current and restart every process, then --use that key and restart again.

    Example: cleanroom codec-keys keyring.json
    """
    with error_boundary(output):
        if add is None and use is None:
            if keyring.exists():
                raise Conflict("KeyringExists", f"{keyring} exists already.", hint="Add a key to it with --add ID.")
            ring = Keyring.generate()
        else:
            ring = Keyring.load(keyring)
            if add is not None:
                ring = ring.rotated(add, make_current=current)
            if use is not None:
                ring = ring.using(use)
        ring.save(keyring)
        print_record({"current": ring.current, "keys": list(ring.key_ids)}, output)


app = typer.Typer()
app.command()(codec_server)

if __name__ == "__main__":
    main(app)
