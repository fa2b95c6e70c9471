"""The text of documents that are a .zip of XML: .docx (Office Open XML) and .epub (a book of XHTML chapters).

Python's own readers do: of a .docx only paragraphs and the runs in them matter, deleted words and the copies that it
keeps for older programs (mc:Fallback) do not count; of an .epub the chapters come in the order that its spine gives.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote
from xml.etree import ElementTree

from oliveira.data.html_text import html_text
from oliveira.data.zips import DAMAGE, entries, unpacked
from oliveira.errors import UserError

MAX_PART = 128 << 20  # bytes of what is read of it at once
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_HIDDEN = {  # properties of a paragraph, what was moved away, and the copy for older programs
    *(f"{_WORD}pPr", f"{_WORD}moveFrom"),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
}
_BREAKS = {f"{_WORD}tab": "\t", f"{_WORD}br": "\n", f"{_WORD}cr": "\n"}
_DAMAGED = (ElementTree.ParseError, KeyError, *DAMAGE)


class _Parts:
    """Files of a document by their names. Raises `UserError` for an unsafe archive or a part that is too large."""

    def __init__(self, raw: bytes, place: str) -> None:
        self.place = place
        self._packed = zipfile.ZipFile(io.BytesIO(raw))
        self._entries: dict[PurePosixPath, zipfile.ZipInfo] = dict(entries(Path(place), self._packed))

    def __contains__(self, name: str) -> bool:
        return PurePosixPath(name) in self._entries

    def __getitem__(self, name: str) -> bytes:
        entry = self._entries[PurePosixPath(name)]
        if entry.file_size > MAX_PART:
            raise UserError(f"{self.place} unpacks to more than {MAX_PART >> 20} MiB. Give a part of it.")
        return unpacked(self._packed, entry)


def docx_text(raw: bytes, place: str) -> str:
    """Raises `UserError`, which names `place`, for what holds no text that can be read."""
    if raw.startswith(b"\xd0\xcf\x11\xe0"):  # the envelope of an older Office, and of an encrypted document
        raise UserError(f"{place} is encrypted, or a document of an older Office. Save it as .docx without a password.")
    try:
        text = "\n".join(_paragraphs(_Parts(raw, place)["word/document.xml"])).strip()
    except _DAMAGED as error:
        raise UserError(f"{place} is not a whole .docx file ({type(error).__name__}). Save it again.") from None
    if not text:
        raise UserError(f"{place} is a document without text. Leave it out.")
    return text


def _paragraphs(xml: bytes) -> list[str]:
    """In the order in which they end: what stands in a box comes before the paragraph that holds the box."""
    done: list[str] = []
    around: list[list[str]] = []  # open paragraphs, the innermost last
    hidden = 0
    for event, element in ElementTree.iterparse(io.BytesIO(xml), events=("start", "end")):
        tag, starts = element.tag, event == "start"
        if tag in _HIDDEN:
            hidden += 1 if starts else -1
        elif tag == f"{_WORD}p" and starts:
            around.append([])
        elif tag == f"{_WORD}p":
            words = "".join(around.pop())
            done += [] if hidden else [words]
            element.clear()
        elif around and not starts and not hidden:
            around[-1].append(element.text or "" if tag == f"{_WORD}t" else _BREAKS.get(tag, ""))
    return done


def epub_text(raw: bytes, place: str) -> str:
    """Raises `UserError`, which names `place`, for what holds no text that can be read."""
    try:
        parts = _Parts(raw, place)
        names = _chapters(parts)
        texts = [_chapter(parts[name], name) for name in names]
    except _DAMAGED as error:
        raise UserError(f"{place} is not a whole .epub file ({type(error).__name__}). Save it again.") from None
    if not (text := "\n\n".join(filter(None, texts))):
        raise UserError(f"{place} is a book without text (pictures alone). Leave it out.")
    return text


def _chapter(raw: bytes, name: str) -> str:
    try:
        return html_text(raw, name)
    except UserError:  # a cover: a picture and no text
        return ""


def _chapters(parts: _Parts) -> list[str]:
    """Names of the chapters in reading order, without the table of contents."""
    container = ElementTree.fromstring(parts["META-INF/container.xml"])
    package = next((e.attrib["full-path"] for e in container.iter() if _local(e) == "rootfile"), "")
    described = list(ElementTree.fromstring(parts[package]).iter())
    items = {e.attrib["id"]: e for e in described if _local(e) == "item"}
    spine = [items[e.attrib["idref"]] for e in described if _local(e) == "itemref" if e.attrib["idref"] in items]
    base = posixpath.dirname(package)
    chapters = [
        posixpath.normpath(posixpath.join(base, unquote(item.attrib["href"])))
        for item in spine
        if "nav" not in item.attrib.get("properties", "").split()
    ]
    if "META-INF/encryption.xml" in parts:  # which may name fonts alone
        locks = ElementTree.fromstring(parts["META-INF/encryption.xml"]).iter()
        locked = {unquote(e.attrib.get("URI", "")) for e in locks if _local(e) == "CipherReference"}
        if locked & set(chapters):
            raise UserError(f"{parts.place} is encrypted. Give a book without protection.")
    if not chapters:
        raise ValueError("no spine")
    return [name for name in chapters if name in parts]


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
