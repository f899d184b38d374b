"""Entries of triples and texts in XML, as WebNLG and DART have them."""

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from lora_jax.data.read_bytes import MAX_DOCUMENT, read_bytes
from lora_jax.data.table import raise_problems

# The official files have six levels, and some 300,000 elements.
MAX_DEPTH = 50
MAX_ELEMENTS = 500_000
# Triples of one entry. The official ones have seven, some of DART a few more.
MAX_TRIPLES = 1_000
# Between the parts of a triple. Only the first two separate: an object may hold others.
BAR = " | "
# Elements beside a text from WebNLG's release 1.4 on: they hold words, but no text.
ANNOTATIONS = ("sortedtripleset", "references", "template", "lexicalization")
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


class Text(NamedTuple):
    """One person's text of an entry.

    `mark` and `language` are as the corpus has them, and empty where it has none.
    """

    text: str
    mark: str
    language: str


class Entry(NamedTuple):
    """The triples [subject, relation, object] of an entry, and its texts."""

    category: str | None
    triples: list[list[str]]
    texts: list[Text]


def read_entries(path: Path) -> list[Entry]:
    """Return the entries of a file.

    Raises:
        ValueError: the file is no XML, has no entries, or entries of triples or texts
            that are none; it names the entries.
        OSError: the file cannot be read.
    """
    entries = []
    problems = []
    for element in _entry_elements(path):
        triples = _triples(element)
        for problem in _entry_problems(element, triples):
            problems.append(f"{path.name}, entry {element.get('eid')}: {problem}")
        texts = [_text(lex) for lex in element.iterfind("lex")]
        entries.append(Entry(element.get("category"), triples, texts))
    raise_problems(problems)
    return entries


class _Builder(ElementTree.TreeBuilder):
    """Builds a tree of bounded depth and size, without a document type.

    A document type may define entities that unfold to gigabytes; the corpora have none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0
        self._elements = 0

    def start(self, tag: Any, attrs: Any, /) -> Any:
        self._depth += 1
        self._elements += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"elements are nested more than {MAX_DEPTH} levels deep")
        if self._elements > MAX_ELEMENTS:
            raise ValueError(f"there are more than {MAX_ELEMENTS:,} elements")
        return super().start(tag, attrs)

    def end(self, tag: Any, /) -> Any:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, name: str, *_: Any) -> None:
        raise ValueError(
            f"the document type {name!r} is refused, as the corpora have none"
        )


def _entry_elements(path: Path) -> list[ElementTree.Element]:
    content = read_bytes(path, limit=MAX_DOCUMENT)
    parser = ElementTree.XMLParser(target=_Builder())
    # Encodings that Python does not know, or knows but not of text, have errors of
    # their own.
    errors = (ElementTree.ParseError, LookupError, ValueError, TypeError)
    try:
        parser.feed(content)
        root = parser.close()
    except errors as error:
        raise ValueError(
            f"{path.name}: expected XML, got what is none: {error}"
        ) from None
    entries = list(root.iter("entry"))
    if not entries:
        raise ValueError(f"{path.name}: expected XML with <entry> elements, got none")
    return entries


def _entry_problems(entry: ElementTree.Element, triples: list[list[str]]) -> list[str]:
    problems = []
    if len(triples) > MAX_TRIPLES:
        problems.append(
            f"expected at most {MAX_TRIPLES:,} triples, got {len(triples):,}"
        )
    # A subject, a relation and an object each, one triple or more.
    if not triples or any(len(triple) != 3 for triple in triples):
        problems.append(
            "expected triples such as 'Aarhus | leader | Bo', "
            f"got {reprlib.repr(triples)}"
        )
    for lex in entry.iterfind("lex"):
        # Two may be two texts, or two parts of one.
        if (count := len(_text_elements(lex))) > 1:
            problems.append(f"expected one <text> in a <lex>, got {count:,}")
    return problems


def _triples(entry: ElementTree.Element) -> list[list[str]]:
    triples = []
    for element in entry.iterfind("modifiedtripleset/mtriple"):
        # An object may be empty: the last bar then ends the text.
        text = f"{_words(element)} "
        parts = text.split(BAR, 2)
        triples.append([part.strip() for part in parts])
    return triples


def _text(lex: ElementTree.Element) -> Text:
    # From WebNLG's release 1.4 on the text has an element of its own, among others.
    inner = _text_elements(lex)
    text = _words(inner[0] if inner else lex)
    # Marks are empty in WebNLG's release 3.
    mark = lex.get("comment", "").strip()
    language = lex.get("lang") or lex.get(LANGUAGE, "")
    return Text(text.strip(), mark, language.strip())


def _text_elements(lex: ElementTree.Element) -> list[ElementTree.Element]:
    return [element for element in lex if element.tag.lower() == "text"]


def _words(element: ElementTree.Element) -> str:
    """The text of an element and of those in it, such as <b>."""
    text = "".join(_pieces(element))
    # Text alone stays as it is; beside elements, lines and indentation are markup.
    return " ".join(text.split()) if len(element) else text


def _pieces(element: ElementTree.Element) -> Iterator[str]:
    yield element.text or ""
    for inner in element:
        if inner.tag not in ANNOTATIONS:
            yield from _pieces(inner)
        yield inner.tail or ""
