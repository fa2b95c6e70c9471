"""Who may do what. Every path but /health needs a key; what is not named here needs the scope `use`.

    use    /v1, /tokenize, /detokenize and every other path
    admin  /admin, /console; includes `use`
    any    /metrics, /ready, /version: any key that is not revoked

A program sends `Authorization: Bearer KEY`. A browser opens /console/?key=KEY once, or sends the key from the page's
sign-in, and gets a cookie that no script can read and no other site can make it send; a POST by cookie must also carry
`X-Oliveira: console`. The files of the page itself hold no secret and are open, so that there is a page to sign in on.
Keys are looked up at every request, so that a revoked one stops working at once.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from oliveira.ledger import Key, Ledger
from oliveira.serving.front.errors import ApiError

OPEN = ("/health",)
ANY_KEY = ("/metrics", "/ready", "/version")
ADMIN = ("/admin", "/console")
COOKIE = "oliveira_session"
CONSOLE = "/console/"
SESSION = "/console/session"  # POST with a key as a program sends it
REFUSED = "/console/?refused"  # where the page says that the key is no good


def needed_scope(path: str) -> str | None:
    """The scope a key must have for `path`; None = any key."""
    if path in ANY_KEY:
        return None
    return "admin" if any(path == prefix or path.startswith(prefix + "/") for prefix in ADMIN) else "use"


def authorise(scope: Scope, ledger: Ledger) -> Key | None:
    """The key of this request; None where none is needed. Raises `ApiError` 401 or 403."""
    path, method = scope["path"], scope["method"]
    if path in OPEN:
        return None
    headers = Request(scope).headers
    presented = _bearer(headers.get("authorization", ""))
    if not presented and method in ("GET", "HEAD") and path.startswith(CONSOLE):
        return None
    by_cookie = not presented
    if by_cookie:
        presented = _cookie(headers.get("cookie", ""))
    if not presented:
        raise ApiError(401, "this path needs a key: send `Authorization: Bearer sk-oli-…`.", code="missing_api_key")
    key = ledger.verify_key(presented)
    if key is None:
        raise ApiError(401, "the key is unknown or revoked. `oliveira keys` makes a new one.", code="invalid_api_key")
    if by_cookie and method not in ("GET", "HEAD") and headers.get("x-oliveira") != "console":
        raise ApiError(403, "a request by cookie needs the header `X-Oliveira: console`.", code="missing_header")
    needed = needed_scope(path)
    if needed is not None and needed not in key.scopes and "admin" not in key.scopes:
        raise ApiError(
            403, f"the key {key.name!r} has no scope {needed!r}. Use one that has.", code="insufficient_scope"
        )
    return key


def log_in(scope: Scope, ledger: Ledger) -> Response | None:
    """GET /console/?key=… and POST /console/session: a cookie for this browser session; None for other requests.

    The page comes back without the key in its address; a key that is no good is told on the page.
    """
    if scope["method"] == "POST" and scope["path"] == SESSION:
        authorise(scope, ledger)
        response = Response(status_code=204, headers={"Cache-Control": "no-store"})
        return _remembering(response, _bearer(Request(scope).headers.get("authorization", "")))
    if scope["method"] != "GET" or scope["path"] != CONSOLE:
        return None
    given = parse_qs(scope["query_string"].decode("latin-1")).get("key")
    if not given:
        return None
    key = ledger.verify_key(given[0])
    good = key is not None and "admin" in key.scopes
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    page = RedirectResponse(CONSOLE if good else REFUSED, status_code=303, headers=headers)
    return _remembering(page, given[0]) if good else page


def _remembering(response: Response, key: str) -> Response:
    """Nothing is remembered for a request that came by cookie: it has no key to give."""
    if key:
        response.set_cookie(COOKIE, key, httponly=True, samesite="strict", path="/")
    return response


def _bearer(header: str) -> str:
    kind, _, value = header.partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
