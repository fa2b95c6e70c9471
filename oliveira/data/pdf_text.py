"""The text of a PDF, a page a paragraph or more; lines that were wrapped to the page are joined again."""

from __future__ import annotations

import io
import logging
import re

from oliveira.data.text import unwrap
from oliveira.errors import UserError

_HYPHENATED = re.compile(r"(?<=[^\W\d_])[-\u00ad]\n(?=[a-zà-ÿ])")


def pdf_text(raw: bytes, place: str) -> str:
    """Raises `UserError`, which names `place`, for what holds no text that can be read."""
    try:
        import pypdf
    except ImportError:
        raise UserError(
            f"{place} needs pypdf to be read. Install it: pip install 'oliveira[texts]', or save it as .txt."
        ) from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its warnings may quote the text
    try:
        reader = pypdf.PdfReader(io.BytesIO(raw))
        locked = reader.is_encrypted and not reader.decrypt("")
        pages = [] if locked else [page.extract_text() for page in reader.pages]
    except (pypdf.errors.DependencyError, pypdf.errors.FileNotDecryptedError):
        locked, pages = True, []
    except Exception as error:  # a damaged file may raise anything at all
        raise UserError(f"{place} is not a whole PDF ({type(error).__name__}). Save it again.") from None
    if locked:
        raise UserError(f"{place} is encrypted. Save it without a password.")
    text = "\n\n".join(unwrap(_HYPHENATED.sub("", page)).strip() for page in pages if page.strip())
    if not text:
        raise UserError(
            f"{place} holds {len(pages)} page(s) and no text: it was scanned. Recognise its text first (OCR)."
        )
    return text
