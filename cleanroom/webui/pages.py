"""HTML pages of the gateway and the codec server. Each has a Content-Security-Policy that allows only its own script and style."""

from __future__ import annotations

from html import escape
from secrets import token_urlsafe

from starlette.responses import HTMLResponse

from cleanroom.errors import CleanRoomError


def login(status: int, *, target: str, problem: str, preferences: str) -> HTMLResponse:
    """The gateway's login page.

    Args:
        status: The HTTP status.
        target: Path to open after the login.
        problem: Why the previous attempt failed.
        preferences: JavaScript object for ``localStorage`` (:func:`cleanroom.webui.views.as_script`).
    """
    policy = "script-src 'nonce-NONCE'; style-src 'nonce-NONCE'; form-action 'self'; base-uri 'none'"
    return _page(_LOGIN, policy, status, NEXT=escape(target, quote=True), PROBLEM=escape(problem), PREFERENCES=preferences)


def unavailable(error: CleanRoomError) -> HTMLResponse:
    """The gateway's page for a Web UI that does not respond."""
    return _page(_UNAVAILABLE, "style-src 'nonce-NONCE'", 502, MESSAGE=escape(error.message), HINT=escape(error.hint or ""))


def codec_login() -> HTMLResponse:
    """The login page of a codec server without a gateway."""
    return _page(_CODEC_LOGIN, "form-action 'self'; script-src 'nonce-NONCE'")


def codec_login_done() -> HTMLResponse:
    """The page after a login at a codec server without a gateway."""
    return _page(_CODEC_LOGIN_DONE, "base-uri 'none'")


def _page(template: str, policy: str, status: int = 200, **values: str) -> HTMLResponse:
    nonce = token_urlsafe(16)
    # The nonce first, so that no value can contain it.
    content = template.replace("NONCE", nonce)
    for name, value in values.items():
        content = content.replace(name, value)
    headers = {
        "Content-Security-Policy": f"default-src 'none'; {policy.replace('NONCE', nonce)}; frame-ancestors 'none'",
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
    }
    return HTMLResponse(content, status, headers=headers)


_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>cleanroom: Temporal Web UI</title>
<style nonce="NONCE">
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 12vh auto; padding: 0 1rem; color: #18212f; }
code { background: #eef1f6; padding: .1em .4em; border-radius: 4px; }
pre { background: #18212f; color: #fff; padding: .7em 1em; border-radius: 6px; }
input { font: inherit; width: 100%; box-sizing: border-box; padding: .4em; margin: .3em 0 .6em; }
button { font: inherit; padding: .4em 1.2em; }
.problem { color: #a01818; }
.problem:empty { display: none; }
summary { cursor: pointer; color: #556; }
</style>
"""
_LOGIN = (
    _HEAD
    + """<h1>Sign in</h1>
<p class="problem">PROBLEM</p>
<p>These pages show the workflows of a collaboration in plain text and require sign-in. On the machine with your
<code>cleanroom.toml</code>, run</p>
<pre>cleanroom ui</pre>
<p>and open the link that it prints. The link works once, within two minutes. The session lasts eight hours.</p>
<details><summary>I have a code or a token</summary>
<form method="post" action="/codec/login">
<label>Code or token <input name="code" type="password" autocomplete="off"></label>
<input name="next" type="hidden" value="NEXT">
<button>Sign in</button>
</form></details>
<script nonce="NONCE">
const form = document.forms[0];
function signIn() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!given.has("code")) return;
  for (const [key, value] of Object.entries(PREFERENCES)) {
    if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
  }
  history.replaceState(null, "", location.pathname + location.search);
  form.code.value = given.get("code");
  if (given.has("next")) form.elements.next.value = given.get("next");
  form.submit();
}
// A link that is pasted into a tab with this page changes only the fragment, and the browser does not load the page again.
addEventListener("hashchange", signIn);
signIn();
</script></html>
"""
)
_UNAVAILABLE = (
    _HEAD
    + """<h1>The Temporal Web UI does not respond</h1>
<p class="problem">MESSAGE</p><p>HINT</p><p>You are signed in. Reload this page when the server is back.</p></html>
"""
)
_CODEC_LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>cleanroom codec server</title>
<h1>Sign in to the codec server</h1>
<p>Paste a token from its tokens file. The Temporal Web UI then sends the session cookie to this server.</p>
<form method="post" action="/login">
<input name="token" type="password" size="60" autocomplete="off" autofocus> <button>Sign in</button>
</form>
<script nonce="NONCE">
function signIn() {
  const token = location.hash.replace(/^#token=/, "");
  if (!token) return;
  history.replaceState(null, "", "/login");
  document.forms[0].token.value = decodeURIComponent(token);
  document.forms[0].submit();
}
addEventListener("hashchange", signIn);
signIn();
</script></html>
"""
_CODEC_LOGIN_DONE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>cleanroom codec server</title>
<h1>Signed in</h1>
<p>In the Temporal Web UI, open the data encoder settings (the glasses, top right), select the browser's setting, enter this server's
address and select &ldquo;include cross-origin credentials&rdquo;. The Web UI then shows you decrypted payloads.</p></html>
"""
