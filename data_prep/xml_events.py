"""XML files as a stream of elements, safe for files from anywhere.

A parser keeps the whole tree unless elements are cleared, so readers get each element when it begins and when it ends, with its depth, and clear
what they have read. Old files define namespaces as entities of an internal DTD. Such an entity is a short text; anything else in a DTD, which
could expand without limit, is refused before parsing. A DTD in another file is never opened.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import IO
from xml.parsers import expat

from data_prep.zip_files import InputFile, open_file
from xsap.errors import DataError

_MAX_ENTITY_CHARACTERS = 200  # a namespace is shorter
_CHUNK_BYTES = 1 << 16
MAX_TEXT_BYTES = 1 << 24


class _BoundedStream:
    """A stream for the parser, which keeps all that it reads until an element begins or ends.

    Args:
        stream: The bytes of the file.
        path: The file, for the error.
        limit: How many bytes may be read until `unread` is set to 0.
    """

    def __init__(self, stream: IO[bytes], path: InputFile, limit: int) -> None:
        self._stream, self._path, self._limit = stream, path, limit
        self.unread = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises DataError if there were too many."""
        self.unread += size
        if self.unread > self._limit:
            raise DataError(
                f"{self._path}: expected XML, found over {self._limit:,} bytes in which no element begins or ends. "
                "Is it the right file?"
            )
        return self._stream.read(size)


def xml_events(
    path: InputFile, expected: str, without_dtd: str, *, max_depth: int, max_text_bytes: int = MAX_TEXT_BYTES
) -> Iterator[tuple[str, ET.Element, int]]:
    """The elements of a file as they begin and end.

    Args:
        path: The file, optionally compressed, or in a zip.
        expected: What the file should be, for errors: "OWL as RDF/XML".
        without_dtd: How to write the file without its DTD, for errors.
        max_depth: How deep elements may be in each other; the root is 1 deep.
        max_text_bytes: The longest text, comment or attribute, about.

    Yields:
        ("start" or "end", the element, its depth: 1 for the root). At the start, an element has its attributes only.

    Raises:
        DataError: With file and line.
    """
    with open_file(path) as stream:
        _check_dtd(_BoundedStream(stream, path, max_text_bytes), path, without_dtd)
    depth = 0
    with open_file(path) as stream:
        bounded = _BoundedStream(stream, path, max_text_bytes)
        try:
            for event, element in ET.iterparse(bounded, ("start", "end")):
                bounded.unread = 0
                if event == "start":
                    depth += 1
                    if depth > max_depth:
                        raise DataError(
                            f"{path}: expected {expected}, found elements nested {depth:,} deep. Is it the right file?"
                        )
                    yield event, element, depth
                else:
                    yield event, element, depth
                    depth -= 1
        except ET.ParseError as error:
            line = error.position[0]
            raise DataError(
                f"{path}:{line}: expected {expected}: {error}. Is the file cut short, or of another syntax?"
            ) from None
        except (ValueError, LookupError) as error:  # an unknown encoding
            raise DataError(f"{path}: expected {expected}: {error}") from None


def local_name(element: ET.Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def text_of(element: ET.Element | None) -> str:
    """The text in an element and all below it, with single spaces; empty without an element."""
    return "" if element is None else " ".join("".join(element.itertext()).split())


def _check_dtd(stream: _BoundedStream, path: InputFile, without_dtd: str) -> None:
    """Read the DTD, up to the first element.

    Raises DataError for an entity that refers to another, is long, or is in another file, and for a long default of an attribute.
    """
    at_root = False

    def entity(name: str, is_parameter: bool, value: str | None, *_: object) -> None:
        if value is None or is_parameter or "&" in value or len(value) > _MAX_ENTITY_CHARACTERS:
            refuse(f"entity '{name}'")

    def attribute(of: str, name: str, _: str, default: str | None, __: bool) -> None:
        if default is not None and len(default) > _MAX_ENTITY_CHARACTERS:
            refuse(f"attribute '{name}' of {of}")

    def refuse(what: str) -> None:
        raise DataError(
            f"{path}:{parser.CurrentLineNumber}: expected a DTD of short texts such as namespaces, found the {what[:80]}, which could expand without limit; "
            f"write the file without it: {without_dtd}"
        )

    def element(_: str, __: dict[str, str]) -> None:
        nonlocal at_root
        at_root = True

    parser = expat.ParserCreate()
    parser.EntityDeclHandler, parser.AttlistDeclHandler, parser.StartElementHandler = entity, attribute, element
    try:
        while not at_root and (chunk := stream.read(_CHUNK_BYTES)):
            parser.Parse(chunk)
    except (expat.ExpatError, ValueError, LookupError):
        pass  # the main parser reaches the same position and reports the error
