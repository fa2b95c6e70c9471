"""The text that a reader of an HTML page sees: paragraphs, no scripts, no styles.

<h1>Um</h1><p>dois <b>três</b><br>quatro<script>x()</script>   →   "Um\\n\\ndois três\\nquatro"
"""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser

from oliveira.data.encodings import decoded, wide_encoding
from oliveira.errors import UserError

_SILENT = frozenset(("script", "style", "template", "noscript", "svg", "math", "title", "textarea", "select"))
_LINES = frozenset(("br", "li", "tr", "dt", "dd", "div", "option", "caption", "figcaption", "hr"))
_BLOCKS = frozenset(
    (
        *("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "section", "article", "header"),
        *("footer", "main", "nav", "aside", "blockquote", "pre", "figure", "form"),
    )
)
_CELLS = frozenset(("td", "th"))
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w:.-]+)""", re.IGNORECASE)
_HEAD = 2048  # bytes in which a page says its encoding
_SPACES = re.compile(r"[^\S\xa0]+")
_LINE_END = re.compile(r" +\n")


def html_text(raw: bytes, place: str) -> str:
    """Raises `UserError`, which names `place`, for what holds no text."""
    reader = _Reader()
    reader.feed(_decoded(raw, place))
    reader.close()
    text = _LINE_END.sub("\n", "".join(reader.pieces)).strip()
    if not text:
        raise UserError(f"{place} is a page without text (scripts or pictures alone). Save what it shows, or leave it.")
    return text


def _decoded(raw: bytes, place: str) -> str:
    """As the page declares, where all of it can be read so; else as any text."""
    declared = _DECLARED.search(raw[:_HEAD])
    if declared and not wide_encoding(raw) and not raw.startswith(codecs.BOM_UTF8):
        try:
            return raw.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeError):
            pass
    if (read := decoded(raw)) is None:
        raise UserError(f"{place} is not text (it holds NUL bytes). Move it out of the folder.")
    return read[0]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._silent: list[str] = []  # open elements that show nothing
        self._kept = 0  # open <pre>

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent.append(tag)
        elif tag == "body":  # a head that was never closed
            self._silent.clear()
        self._kept += tag == "pre"
        self._break(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._break(tag)  # <script/> in XHTML opens nothing

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        self._kept = max(0, self._kept - (tag == "pre"))
        if tag != "br":
            self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        text = data if self._kept else _SPACES.sub(" ", data)
        last = self.pieces[-1] if self.pieces else "\n"
        if not self._kept and last[-1:].isspace():
            text = text.lstrip(" ")
        if text:
            self.pieces.append(text)

    def _break(self, tag: str) -> None:
        wanted = "\n\n" if tag in _BLOCKS else "\n" if tag in _LINES else " " if tag in _CELLS else ""
        if not wanted or self._silent or not self.pieces:
            return
        last = self.pieces[-1]
        if wanted == " ":
            if not last[-1:].isspace():
                self.pieces.append(" ")
        elif set(last) == {"\n"}:
            self.pieces[-1] = "\n" * (max(len(last), len(wanted)) if tag != "br" else min(2, len(last) + 1))
        else:
            self.pieces.append(wanted)
