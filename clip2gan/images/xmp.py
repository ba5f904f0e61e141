"""XMP, the packet in which a picture says what it is: drawn by a network, or pasted together with what is.

The property is IPTC's digital source type (IPTC Photo Metadata Standard, `Iptc4xmpExt:DigitalSourceType`;
https://cv.iptc.org/newscodes/digitalsourcetype), which picture programs and websites show.
"""

from typing import TYPE_CHECKING
from xml.parsers.expat import ExpatError

if TYPE_CHECKING:
    from xml.dom.minidom import Document, Element

_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = _TYPES + "trainedAlgorithmicMedia"
COMPOSITE = _TYPES + "compositeWithTrainedAlgorithmicMedia"

PNG_KEYWORD = "XML:com.adobe.xmp"
LARGEST_PACKET = 512 << 10  # bytes; a parsed packet takes up to a thousand times as much

_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMLNS = "http://www.w3.org/2000/xmlns/"
_TYPE = (_IPTC, "DigitalSourceType")
# What is no longer true of a picture that was turned upright, changed and written alone: how the camera was
# held, small copies of the picture, and a second packet beside this one.
_OUTDATED = (
    ("http://ns.adobe.com/tiff/1.0/", "Orientation"),
    ("http://ns.adobe.com/xap/1.0/", "Thumbnails"),
    ("http://ns.adobe.com/xmp/note/", "HasExtendedXMP"),
)


def make_packet(source_type: str = GENERATED) -> bytes:
    """A packet (UTF-8) with nothing but the digital source type."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
        f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC}" '
        f'Iptc4xmpExt:DigitalSourceType="{source_type}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def change_packet(packet: bytes, source_type: str | None) -> bytes:
    """A photo's packet for an edit of it, in UTF-8: all that it says, but for what is no longer true.

    Args:
        packet: as the photo's file has it.
        source_type: the digital source type to put in place of the photo's own, which stays where that was
            generated as a whole; None for a photo that was not changed.

    Raises ValueError for what is no XMP, or larger than 512 KB.
    """
    if len(packet) > LARGEST_PACKET:
        raise ValueError(f"an XMP packet of more than {LARGEST_PACKET >> 10} KB")
    try:
        text = _decode(packet)
        document = _parse(text)
        descriptions = _descriptions(document)
        outdated = [_take(each, name) for each in descriptions for name in _OUTDATED]
        if source_type is None and not any(value is not None for value in outdated):
            return text.encode()
        if source_type is not None:
            own = [_take(each, _TYPE) for each in descriptions]
            _add_type(document, descriptions, GENERATED if GENERATED in own else source_type)
        return "".join(node.toxml() for node in document.childNodes).encode()
    except (ExpatError, UnicodeError, RecursionError) as error:
        raise ValueError("an XMP packet that is damaged") from error


def _decode(packet: bytes) -> str:
    encoding = "utf-16" if packet[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return packet.decode(encoding).strip("\0 \t\r\n")


def _parse(text: str) -> "Document":
    from xml.dom import minidom

    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # whose entities can grow without limit
        raise ValueError("an XMP packet with a document type")
    return minidom.parseString(text.encode())


def _descriptions(document: "Document") -> "list[Element]":
    """The elements that hold a packet's properties."""
    found = [
        node
        for rdf in document.getElementsByTagNameNS(_RDF, "RDF")[:1]
        for node in rdf.childNodes
        if node.nodeType == node.ELEMENT_NODE and (node.namespaceURI, node.localName) == (_RDF, "Description")
    ]
    if not found and not document.getElementsByTagNameNS(_RDF, "RDF"):
        raise ValueError("no XMP packet")
    return found


def _take(description: "Element", name: tuple[str, str]) -> str | None:
    """Take a property out, whether it is an attribute or an element; its value, if it was there."""
    value = None
    if description.hasAttributeNS(*name):
        value = description.getAttributeNS(*name)
        description.removeAttributeNS(*name)
    for node in list(description.childNodes):
        if node.nodeType == node.ELEMENT_NODE and (node.namespaceURI, node.localName) == name:
            text = "".join(child.data for child in node.childNodes if child.nodeType == child.TEXT_NODE)
            value = node.getAttributeNS(_RDF, "resource") or text.strip()
            description.removeChild(node)
    return value


def _add_type(document: "Document", descriptions: "list[Element]", source_type: str) -> None:
    """Add a description of its own, whose prefixes depend on no others."""
    about = descriptions[0].getAttributeNS(_RDF, "about") if descriptions else ""
    added = document.createElementNS(_RDF, "rdf:Description")
    added.setAttributeNS(_XMLNS, "xmlns:rdf", _RDF)
    added.setAttributeNS(_XMLNS, "xmlns:Iptc4xmpExt", _IPTC)
    added.setAttributeNS(_RDF, "rdf:about", about)
    added.setAttributeNS(_IPTC, "Iptc4xmpExt:DigitalSourceType", source_type)
    document.getElementsByTagNameNS(_RDF, "RDF")[0].appendChild(added)
