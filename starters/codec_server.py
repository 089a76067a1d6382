"""``cleanroom codec-server`` and ``cleanroom codec-keys``: decryption of payloads for the Web UI, and the keys of the payload codec."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanroom.errors import Conflict, InvalidInput
from cleanroom.secret import write_secret_file
from starters.terminal.entry import main
from starters.terminal.output import Format, Output, error_boundary, print_record

if TYPE_CHECKING:
    from cleanroom.webui.auth import OidcSettings


# Typer makes one option of each parameter.
def codec_server(
    keyring: Annotated[Path, typer.Option(help="Keyring file of the payload codec (mode 0600).")],
    tokens: Annotated[
        Path | None,
        typer.Option(help="File with one bearer token, or JSON {name: token} (mode 0600). Created with a new token if it does not exist."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on. Any address but loopback requires TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8234,
    ui_origin: Annotated[list[str] | None, typer.Option(help="Allowed origin of the Temporal Web UI; repeatable.")] = None,
    namespace: Annotated[list[str] | None, typer.Option(help="Temporal namespace to serve; repeatable.")] = None,
    decode_only: Annotated[bool, typer.Option("--decode-only", help="Refuse requests to /encode.")] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="TLS certificate chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="TLS private key (PEM).")] = None,
    oidc_issuer: Annotated[str | None, typer.Option(help="Issuer of the access tokens to accept.")] = None,
    oidc_audience: Annotated[str | None, typer.Option(help="Required audience of these tokens.")] = None,
    oidc_jwks: Annotated[str | None, typer.Option(help="URL of the issuer's JWKS.")] = None,
    oidc_claim: Annotated[list[str] | None, typer.Option(help="Required claim of these tokens, NAME=VALUE; repeatable.")] = None,
    ui_upstream: Annotated[str | None, typer.Option(help="URL of the Temporal Web UI to proxy behind a login: run as its gateway.")] = None,
    remote_upstream: Annotated[bool, typer.Option("--remote-upstream", help="Allow a --ui-upstream on another machine.")] = False,
    public_origin: Annotated[
        str | None, typer.Option(help="Origin under which browsers reach the gateway.", show_default="a private name below localhost")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Serve the payload codec to the Temporal Web UI and the temporal command; with --ui-upstream, also the Web UI itself.

    Start the Web UI's server with the codec endpoint URL/codec, where URL is the address of this server. Open it with `cleanroom ui`.

    Example: cleanroom codec-server --keyring keyring.json --tokens codec-token
    """
    from cleanroom.temporal.keyring import Keyring
    from cleanroom.webui.codec_server import CodecServerSettings, serve, with_private_origin

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
        # Fail now rather than at the first request.
        settings = with_private_origin(settings, Keyring.load(keyring))
        _require_free_port(host, port)
        if tokens is not None and not tokens.exists():
            write_secret_file(tokens, secrets.token_urlsafe(32).encode() + b"\n")
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        if ui_upstream:
            typer.echo(f"starting the gateway of the Temporal Web UI at {settings.origin}; log in with `cleanroom ui`", err=True)
        else:
            token = f" with the token in {tokens}" if tokens else ""
            typer.echo(f"starting the codec server at {settings.origin}; log a browser in at {settings.origin}/login{token}", err=True)
        serve(settings)


def _oidc(issuer: str | None, audience: str | None, jwks: str | None, claims: list[str]) -> OidcSettings | None:
    """Build the OIDC settings from the options; None without any option.

    Raises:
        InvalidInput: ``CodecOidcIncomplete``, ``CodecOidcClaimMalformed``.
    """
    from cleanroom.webui.auth import OidcSettings

    if not (issuer or audience or jwks or claims):
        return None
    if not (issuer and audience and jwks):
        raise InvalidInput(
            "CodecOidcIncomplete",
            "--oidc-issuer, --oidc-audience and --oidc-jwks must be given together.",
            hint="Give all three, or no --oidc option.",
        )
    pairs = [claim.partition("=") for claim in claims]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise InvalidInput("CodecOidcClaimMalformed", f"--oidc-claim: {name!r} is not NAME=VALUE.", hint="For example: team=operators")
    return OidcSettings(issuer=issuer, audience=audience, jwks_uri=jwks, required_claims={name: value for name, _, value in pairs})


def _require_free_port(host: str, port: int) -> None:
    """Check that this process can listen on ``host:port``.

    Raises:
        Conflict: ``PortInUse``.
        InvalidInput: ``CodecAddressUnusable``.
    """
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                "PortInUse", f"--port: another process listens on {host}:{port}.", hint="Choose another port, or stop that process."
            ) from error
        raise InvalidInput(
            "CodecAddressUnusable", f"cannot listen on {host}:{port}.", cause=str(error), hint="Use an address of this machine."
        ) from error


def codec_keys(
    keyring: Annotated[Path, typer.Argument(help="Keyring file of the payload codec.", show_default=False)],
    add: Annotated[bool, typer.Option("--add", help="Add a key to the keyring, instead of creating a new one.")] = False,
    current: Annotated[
        bool, typer.Option("--current/--not-current", help="Encrypt with the added key from now on, or only decrypt with it.")
    ] = True,
    use: Annotated[str | None, typer.Option(help="ID of the key in the file that encrypts from now on.")] = None,
    output: Output = Format.JSON,
) -> None:
    """Create a keyring of the payload codec, add a key to it, or choose the key that encrypts.

    The command prints key IDs and never keys; an ID is the fingerprint of its key. To rotate keys without downtime, add one with
    --not-current and restart every process. Then choose it with --use and restart every process again.

    Example: cleanroom codec-keys keyring.json
    """
    from cleanroom.temporal.keyring import Keyring

    with error_boundary(output):
        if not add and use is None:
            if keyring.exists():
                raise Conflict("KeyringExists", f"{keyring} already exists.", hint="Add a key to it with --add.")
            ring = Keyring.generate()
        else:
            ring = Keyring.load(keyring)
            if add:
                ring = ring.rotated(make_current=current)
            if use is not None:
                ring = ring.using(use)
        ring.save(keyring)
        print_record({"current": ring.current, "keys": list(ring.key_ids)}, output)


app = typer.Typer()
app.command()(codec_server)

if __name__ == "__main__":
    main(app)
