"""Entries of triples and texts in XML, as WebNLG and DART have them."""

from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from lora_jax.data.read_bytes import MAX_DOCUMENT, read_bytes
from lora_jax.data.table import raise_problems

# The official files have six levels, and some 300,000 elements.
MAX_DEPTH = 50
MAX_ELEMENTS = 500_000
# Between the parts of a triple. Only the first two separate: an object may hold others.
BAR = " | "


class Text(NamedTuple):
    """One person's text of an entry, and how the corpus marks it; maybe not at all."""

    text: str
    mark: str


class Entry(NamedTuple):
    """The triples [subject, relation, object] of an entry, and its texts."""

    category: str | None
    triples: list[list[str]]
    texts: list[Text]


def read_entries(path: Path) -> list[Entry]:
    """Return the entries of a file.

    Raises:
        ValueError: the file is no XML, has no entries, or triples that are none; it
            names the entries.
        OSError: the file cannot be read.
    """
    entries = []
    problems = []
    for element in _entry_elements(path):
        # A subject, a relation and an object each, one triple or more.
        triples = _triples(element)
        if not triples or any(len(triple) != 3 for triple in triples):
            problems.append(
                f"{path.name}, entry {element.get('eid')}: expected triples such as "
                f"'Aarhus | leader | Bo', got {triples}"
            )
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


def _triples(entry: ElementTree.Element) -> list[list[str]]:
    triples = []
    for element in entry.iterfind("modifiedtripleset/mtriple"):
        # An object may be empty: the last bar then ends the text.
        text = f"{element.text or ''} "
        parts = text.split(BAR, 2)
        triples.append([part.strip() for part in parts])
    return triples


def _text(lex: ElementTree.Element) -> Text:
    # From WebNLG's release 1.4 on the text has an element of its own, among others.
    inner = lex.find("text")
    text = lex.text if inner is None else inner.text
    # Marks are empty in WebNLG's release 3.
    return Text((text or "").strip(), (lex.get("comment") or "").strip())
