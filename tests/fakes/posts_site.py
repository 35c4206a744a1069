"""A site where people post pictures before and after, on this machine; it remembers what it was asked for."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import published
from PIL import Image as Pillow

BY = '<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>'
ALLOWED = ("--licence", "*/licenses/by/*")


def post(number: int, *, licence: str = BY, before: str = "", after: str = "", request: str = "") -> str:
    """A post of pictures `number`, in the markup that is looked for when none is described."""
    said = request or f"Please make picture {number} lighter"
    return (
        f'<article><a rel="bookmark" href="/post/{number}">#</a><p class="request">{said}<b>!</b></p>'
        f'<img class="before" src="{before or f"/before/{number}.png"}">'
        f'<img class="after" src="{after or f"/after/{number}.png"}">'
        f'{licence} by <a rel="author" href="/u">Ada</a></article>'
    )


def page(*posts: str, leads: tuple[str, ...] = ()) -> str:
    links = "".join(f'<a rel="next" href="{lead}">more</a>' for lead in leads)
    return f"<html><body>{''.join(posts)}{links}</body></html>"


def picture(number: int, lighter: int = 0, kind: str = "PNG", size: tuple[int, int] | None = None) -> bytes:
    """A picture unlike those of other numbers; `lighter` moves a corner of it."""
    pixels = published.texture(number).copy()
    pixels[:40, :40] = 255 - pixels[:40, :40] if lighter else pixels[:40, :40]
    file, drawn = io.BytesIO(), Pillow.fromarray(pixels)
    (drawn.resize(size) if size else drawn).save(file, kind)
    return file.getvalue()


class Site:
    """Pages by path; `cut` are answered in part only, `down` with 503, `held` not before `go` is set."""

    def __init__(self, pages: dict[str, str | bytes]) -> None:
        self.pages = pages
        self.asked: list[str] = []
        self.agents: set[str] = set()
        self.cut: set[str] = set()
        self.down: set[str] = set()
        self.held: set[str] = set()
        self.reached, self.go = threading.Event(), threading.Event()

    def body(self, path: str) -> bytes | None:
        kind, _, name = path.strip("/").partition("/")
        if path in self.pages:
            found = self.pages[path]
            return found.encode() if isinstance(found, str) else found
        if kind in ("before", "after") and name.endswith(".png"):
            return picture(int(name.removesuffix(".png")), lighter=kind == "after")
        return None

    @contextmanager
    def serving(self) -> Iterator[str]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.agents.add(self.headers.get("User-Agent", ""))
                if self.path in site.held:
                    site.reached.set()
                    site.go.wait(60)
                data = site.body(self.path)
                self.send_response(503 if self.path in site.down else 200 if data is not None else 404)
                self.send_header("Content-Type", "text/html" if "." not in self.path else "application/octet-stream")
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write((data or b"")[: len(data or b"") // 2 if self.path in site.cut else None])

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            self.go.set()
            server.shutdown()
            server.server_close()
