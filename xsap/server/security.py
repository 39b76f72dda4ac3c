"""Access to the review page: the person who started it, from the page itself, and nobody else.

The page is bound to 127.0.0.1, but every web page that a person has open can send requests there, and every program on the machine can, too. So:
- the Host must be ours, or else a foreign name that was made to resolve to 127.0.0.1 could read the answers (DNS rebinding);
- the address that is printed has a token, which becomes a cookie that is never sent along from other sites (SameSite=Strict) and that no script reads;
- requests are GET for the page itself and POST with a body in JSON for all else, from our Origin, never from a page of another;
- answers forbid the browser to load or run anything from elsewhere (Content-Security-Policy), to guess types, to cache, and to be framed.
"""

import hmac
from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_OWN_SITES = ("same-origin", "none")  # none: typed, or opened from another program


class OwnPageOnly:
    """An application behind these checks.

    Args:
        app: The application.
        hosts: Host headers that are ours, such as 127.0.0.1:8000.
        token: The secret of the printed address.
        cookie: The name of the cookie that it becomes.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], token: str, cookie: str) -> None:
        self._app, self._hosts, self._token, self._cookie = app, frozenset(hosts), token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = self._refusal(scope) or self._first_visit(scope)
        await (answer or self._app)(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        """Why a request is not answered, whoever sends it."""
        headers = Headers(scope=scope)
        if headers.get("host", "") not in self._hosts:
            return PlainTextResponse("This is not the address of a page here.\n", 421)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("Only GET and POST are answered.\n", 405)
        if headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            return PlainTextResponse("Requests from other pages are not answered.\n", 403)
        origins = [f"http://{host}" for host in self._hosts]
        if scope["method"] == "POST" and headers.get("origin") not in origins:
            return PlainTextResponse("Requests from other pages are not answered.\n", 403)
        return None

    def _first_visit(self, scope: Scope) -> Response | None:
        """Without the cookie: the printed address sets it, and no other is answered. The address without the token is shown after that."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if scope["method"] == "GET" and scope["path"] == "/" and self._is_token(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
            return answer
        if self._is_token(_cookie_of(Headers(scope=scope).get("cookie", ""), self._cookie)):
            return None
        return PlainTextResponse("Open the address that xsap review printed; it ends in a token.\n", 403)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _cookie_of(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
