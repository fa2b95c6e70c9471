"""Text cut into pieces as long as a request."""


def pieces(text: str, size: int = 500) -> list[str]:
    """Cuts at spaces into pieces of about `size` characters."""
    found, start = [], 0
    while start < len(text):
        end = (
            len(text)
            if len(text) - start <= size * 1.3
            else max(text.rfind(" ", start, start + size), start + size // 2)
        )
        piece = text[start:end].strip()
        if piece:
            found.append(piece)
        start = end
    return found
