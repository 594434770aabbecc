"""Who may look and who may steer.

A page from anywhere can open a WebSocket to 127.0.0.1, so listening on loopback alone protects nothing in a browser.
Three checks stand before every route:

- *Host*: on loopback the request must name a loopback host. A foreign name that was made to resolve to 127.0.0.1
  fails here.
- *Origin*: a WebSocket that bears one must come from a page of this very address. Programs that are no browsers
  bear none.
- *Token*, when there is one: in the `token` query once, after which a cookie holds its digest; or as
  `Authorization: Bearer`. Only /healthz goes without: it tells nothing but that the process lives.
"""

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everscene_bridge.settings import is_loopback

OPEN_PATHS = frozenset({"/healthz"})
SAFE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware. `loopback`: the server listens on loopback only. `token`: asked for if not None."""

    def __init__(self, app: ASGIApp, *, loopback: bool, token: str | None) -> None:
        self.app = app
        self.loopback = loopback
        self.digest = None if token is None else hashlib.sha256(token.encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self.refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send_safely)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            await refusal(scope, receive, send_safely)

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that may not pass, None if it may."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.loopback and not names_loopback(host):
            return PlainTextResponse(f"this viewer serves this machine only, not the host {host!r}\n", 421)
        if scope["type"] == "websocket" and not same_origin(headers.get("origin"), host):
            return PlainTextResponse("this page may not drive the viewer\n", 403)
        if self.digest is None or scope["path"] in OPEN_PATHS or self.is_known(headers, cookie_name(scope)):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["type"] == "http" and "token" in query and self.is_token(query.pop("token")[-1]):
            rest = urlencode(query, doseq=True)
            answer = RedirectResponse(f"{scope['path']}?{rest}" if rest else scope["path"], 303)
            answer.set_cookie(cookie_name(scope), self.digest, httponly=True, samesite="lax")
            return answer
        return PlainTextResponse("a token is needed: open the address that the sidecar printed\n", 401)

    def is_known(self, headers: Headers, cookie: str) -> bool:
        """Whether the request bears the token, or the cookie that an earlier one got for it."""
        assert self.digest is not None
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(value.strip()):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(cookie)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self.digest.encode())

    def is_token(self, value: str) -> bool:
        assert self.digest is not None
        return hmac.compare_digest(hashlib.sha256(value.encode()).hexdigest(), self.digest)


def names_loopback(host: str) -> bool:
    """Whether a Host header (name, maybe with a port) names this machine by a loopback name."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:  # brackets that hold no address
        return False


def same_origin(origin: str | None, host: str) -> bool:
    """Whether `origin` (None: no browser) is a page that `host` served, host with its port as the request named it."""
    if origin is None:
        return True
    try:
        page = urlsplit(origin)
    except ValueError:
        return False
    return page.scheme in ("http", "https") and page.netloc.lower() == host.lower()


def cookie_name(scope: Scope) -> str:
    """Cookies know no ports: two viewers on one machine need two names."""
    return f"everscene-{scope['server'][1]}"
