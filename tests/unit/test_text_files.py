"""Texts of any usual form become documents; a bad file is passed over by name and with its reason."""

from __future__ import annotations

import builtins
import logging
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from oliveira.data import folder as folders
from oliveira.data import packed_text, zips
from oliveira.data.folder import list_folder, place_of, read_folder
from oliveira.data.html_text import html_text
from oliveira.errors import UserError
from tests.unit.text_documents import WORD, docx, epub, pdf, put, zipped

MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"
SECRET = "segredo da Ana"
ROWS = f'nota,comentario\n1,"{SECRET}, e mais palavras; muitas"\n2,"outro texto, que\ncontinua noutra linha"\n'


def read(path: Path, column: str = "", said: list[str] | None = None) -> dict[str, str]:
    say = (said if said is not None else []).append
    return dict(read_folder(path, list_folder(path).files, say, column))


PAGE = """<!DOCTYPE html><html><head><title>Não</title><meta charset="{}"><style>p{{}}</style></head><body>
<nav>Início</nav><h1>Título</h1><script>var x = "<p>não</p>"</script>
<p>Uma   frase
 com <b>ênfase</b>&nbsp;&amp; fim.<br>Outra linha<!-- não --></p><ul><li>um<li>dois</ul>
<table><tr><td>a</td><td>b</td></tr></table><pre>x
  y</pre></body></html>"""
SEEN = "Início\n\nTítulo\n\nUma frase com ênfase\xa0& fim.\nOutra linha\n\num\ndois\n\na b\n\nx\n  y"


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "cp1252", "nonsense"])
def test_a_page_is_what_its_reader_sees(charset: str) -> None:
    raw = PAGE.format(charset).encode("utf-8" if charset == "nonsense" else charset)
    assert html_text(raw, "p.html") == SEEN
    assert html_text("<head><title>não</title><body>sim<svg>não</svg><p/><script/>".encode(), "x") == "sim"
    assert html_text("日本".encode("shift-jis") + b'<meta charset="shift-jis">', "x") == "日本"


def test_a_document_of_word_is_its_paragraphs() -> None:
    run = "<w:r><w:t>{}</w:t></w:r>".format
    box = f"<w:txbxContent><w:p>{run('caixa')}</w:p></w:txbxContent>"
    body = (
        f'<w:p><w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr>{run("um ")}{run("dois")}<w:r><w:br/></w:r>'
        f"{run('três')}<w:del><w:r><w:delText>apagado</w:delText></w:r></w:del><w:ins>{run(' novo')}</w:ins></w:p>"
        f"<w:tbl><w:tr><w:tc><w:p>{run('célula')}</w:p></w:tc></w:tr></w:tbl>"
        f'<w:p><mc:A xmlns:mc="{MC}">{box}<mc:Fallback>{box}</mc:Fallback></mc:A>{run("fim")}</w:p>'
    )
    assert packed_text.docx_text(docx(body), "x.docx") == "um dois\ntrês novo\ncélula\ncaixa\nfim"


def test_a_book_comes_in_the_order_of_its_spine() -> None:
    page = (
        "<html xmlns='http://www.w3.org/1999/xhtml'><head><title/><script src='x'/></head><body><p>{}</p></body></html>"
    )
    chapters = {
        "b.xhtml": page.format("primeiro"),
        "cover.xhtml": page.format("<img/>"),
        "a.xhtml": page.format("fim&nbsp;!"),
    }
    assert packed_text.epub_text(epub(chapters), "x.epub") == "primeiro\n\nfim\xa0!"
    lock = "<e><CipherReference URI='OEBPS/{}'/></e>".format
    assert packed_text.epub_text(epub(chapters, encryption=lock("font.otf")), "x.epub").startswith("primeiro")
    with pytest.raises(UserError, match="is encrypted"):
        packed_text.epub_text(epub(chapters, encryption=lock("a.xhtml")), "x.epub")


def test_every_form_becomes_documents_in_a_folder_and_in_a_zip(tmp_path: Path) -> None:
    first, wide = (
        "um começo",
        "Esta linha da página é longa o bastante para que seja que-\nbrada pela largura, como se faz.",
    )
    files: dict[str, bytes | str] = {
        "a__html": "<p>página</p>",
        "b__pdf": pdf(first, "", wide),
        "c__docx": docx("<w:p><w:r><w:t>palavra</w:t></w:r></w:p>"),
        "d__epub": epub({"c.xhtml": "<p>livro</p>"}),
        "e__csv": ROWS.encode("cp1252"),
        "f__jsonl": '{"id": "1", "corpo": "um"}\n\n{"corpo": 3}\nnada\n{"corpo": "dois"}\n',
        "g__md": "# nota",
    }
    folder = put(tmp_path / "textos", **files)
    wanted = {
        "a.html": "página",
        "b.pdf": f"{first}\n\n" + wide.replace("-\n", ""),
        "c.docx": "palavra",
        "d.epub": "livro",
        "e.csv:1": f"{SECRET}, e mais palavras; muitas",
        "e.csv:2": "outro texto, que\ncontinua noutra linha",
        "f.jsonl:1": "um",
        "f.jsonl:5": "dois",
        "g.md": "# nota",
    }
    said: list[str] = []
    assert read(folder, said=said) == wanted
    assert said == [
        "e.csv: the texts are those of 'comentario'",
        "f.jsonl: the texts are those of 'corpo'",
        "f.jsonl: 2 lines without a text are left out, the first is line 3",
    ]
    assert read(folder, "id")["f.jsonl:1"] == "1", "the column that was named"
    packed = tmp_path / "textos.zip"
    packed.write_bytes(
        zipped({f"pasta/{p.name}": p.read_bytes() for p in folder.iterdir()} | {"x.png": b"", "y.zip": b""})
    )
    assert read(packed) == {f"textos.zip/pasta/{name}": text for name, text in wanted.items()}
    (folder / "mais.zip").write_bytes(packed.read_bytes())
    assert len(read(folder)) == 2 * len(wanted)
    assert read(folder / "b.pdf") == {"b.pdf": wanted["b.pdf"]}, "one file is given as a folder is"
    assert place_of(f"{folder}?text=corpo") == (folder, "corpo") and place_of(str(folder)) == (folder, "")


def encrypted(files: dict[str, str | bytes]) -> bytes:
    return zipped(files).replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")


BAD: dict[str, tuple[str, bytes, str]] = {
    "scanned": ("a.pdf", pdf("", ""), "holds 2 page(s) and no text: it was scanned"),
    "locked": (
        "a.pdf",
        pdf("x").replace(b"/Root", b"/Encrypt<</Filter/Standard/V 4/R 4/O(1)/U(1)/P 1>>/ID[(1)(1)]/Root"),
        "is encrypted",
    ),
    "cut PDF": ("a.pdf", pdf("x")[:200], "is not a whole PDF"),
    "no PDF": ("a.pdf", b"x", "is not a whole PDF"),
    "cut docx": ("a.docx", docx("<w:p/>")[:90], "is not a whole .docx file (BadZipFile)"),
    "docx without its part": ("a.docx", zipped({"x": "y"}), "is not a whole .docx file (KeyError)"),
    "torn docx": ("a.docx", docx("<w:p>"), "is not a whole .docx file (ParseError)"),
    "old Word": ("a.docx", b"\xd0\xcf\x11\xe0" + bytes(99), "is encrypted, or a document of an older Office"),
    "empty docx": ("a.docx", docx("<w:p/>"), "is a document without text"),
    "laughs": (
        "a.docx",
        zipped(
            {
                "word/document.xml": "<!DOCTYPE a [<!ENTITY b '"
                + "b" * 99
                + "'>"
                + "".join(f"<!ENTITY b{n} '{f'&b{n - 1 if n else str()};' * 20}'>" for n in range(9))
                + f"]><w:document {WORD}><w:p><w:t>&b8;</w:t></w:p></w:document>"
            }
        ),
        "is not a whole .docx file (ParseError)",
    ),
    "docx that is a bomb": ("a.docx", zipped({"word/document.xml": bytes(4 << 20)}), "more than 200 times its size"),
    "epub of pictures": ("a.epub", epub({"c.xhtml": "<img/>"}), "is a book without text"),
    "epub without spine": ("a.epub", epub({}), "is not a whole .epub file"),
    "scripts": ("a.html", b"<script>document.write('x')</script>", "is a page without text"),
    "no page": ("a.html", b"", "is a page without text"),
    "csv of numbers": ("a.csv", b"a,b\n1,2\n3,4\n", "has no column of texts"),
    "csv of nothing": ("a.csv", b"", "is empty"),
    "short labels": ("a.jsonl", b'{"a": "x", "b": 2}\n', "has no column of texts"),
    "a zip that leaves itself": ("a.zip", zipped({"../x.txt": "x"}), "names a file outside of itself"),
    "a bomb": ("a.zip", zipped({"x.txt": bytes(4 << 20)}), "more than 200 times its size"),
    "a zip of zips": ("a.zip", zipped({"x.zip": b""}), "holds no .txt"),
    "too many": ("a.zip", zipped({f"{n}.txt": "x" for n in range(30)}), "holds 30 files, more than 20"),
    "a password": ("a.zip", encrypted({"x.txt": "x"}), "is encrypted"),
    "a damaged zip": ("a.zip", zipped({"x.txt": "abc" * 99}).replace(b"K\x4c", b"K\x4d", 1), "is damaged"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_sentence_and_costs_the_folder_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, data, sentence = BAD[case]
    monkeypatch.setattr(zips, "MOST_FILES", 20)
    folder = put(tmp_path / "textos", **{name.replace(".", "__"): data})
    for path in (folder, folder / name):
        with pytest.raises(UserError) as refused:
            read(path)
        assert sentence in str(refused.value) and name in str(refused.value) and "\n" not in str(refused.value)
    put(folder, z__txt="bom")
    said: list[str] = []
    assert read(folder, said=said) == {"z.txt": "bom"}
    assert said == [f"passed over: {refused.value}"]


def test_the_rest_of_a_zip_with_a_bad_file_is_read(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("l.txt")
    link.external_attr = 0o120777 << 16
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"a.pdf": b"x", "b.txt": "bom", "__MACOSX/c.txt": "não", ".d.txt": "não"}))
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(link, "/etc/passwd")
    said: list[str] = []
    assert read(path, said=said) == {"a.zip/b.txt": "bom"} and len(said) == 1 and "a.zip/a.pdf" in said[0]


def test_many_bad_files_are_counted(tmp_path: Path) -> None:
    folder = put(tmp_path / "textos", **{f"{n:02}__pdf": b"x" for n in range(folders.MOST_SAID + 5)}, z__txt="bom")
    said: list[str] = []
    read(folder, said=said)
    assert len(said) == folders.MOST_SAID + 1 and said[-1] == "and 5 more of that kind"


def test_without_the_library_a_pdf_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name == "pypdf":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "pypdf", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'oliveira\[texts\]'"):
        read(put(tmp_path / "textos", a__pdf=pdf("x")))


def test_no_text_of_a_file_is_in_any_log_or_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    broken = pdf(SECRET).replace(b"Tj", b"T\xff", 1).replace(b"startxref", b"startxxxx")
    folder = put(
        tmp_path / "textos", a__pdf=broken, b__jsonl=f'{{"x": "{SECRET}\n', c__csv=ROWS, d__docx=docx(SECRET)[:-9]
    )
    said: list[str] = []
    read(folder, said=said)
    with pytest.raises(UserError) as refused:
        read(folder / "c.csv", "nada")
    assert "'nada'" in str(refused.value) and "'nota'" in str(refused.value)
    assert SECRET not in " ".join([*said, caplog.text, str(refused.value)])
