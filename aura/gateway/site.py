"""The built-in page: three files, read once, served with an entity tag. No inline scripts, nothing from elsewhere
(see the CSP)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}


def _file(path: str, name: str, media: str) -> Route:
    body = (_FOLDER / name).read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'

    async def serve(request: Request) -> Response:
        headers = {"etag": tag, "cache-control": "no-cache", "content-type": media}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers)

    return Route(path, serve, methods=["GET"])


def page_routes() -> list[BaseRoute]:
    """Routes of the page and its files."""
    return [_file(path, name, media) for path, (name, media) in _FILES.items()]
