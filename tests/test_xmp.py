"""Pictures say in their XMP what they are; what a photo says of itself is kept."""

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2gan.images import decode_photo, read_metadata, write_png
from clip2gan.images.png import SIGNATURE, chunks
from clip2gan.images.xmp import COMPOSITE, GENERATED, LARGEST_PACKET, change_packet, make_packet
from clip2gan.video import write_video

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
RIGHTS = "{http://purl.org/dc/elements/1.1/}rights"
ORIENTATION = "{http://ns.adobe.com/tiff/1.0/}Orientation"
CAMERA = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"


def photo_packet(source_type: str = CAMERA, orientation: int = 1, as_elements: bool = False) -> bytes:
    """A camera's packet with rights, written in prefixes of its own, with its padding."""
    values = {"tiff:Orientation": str(orientation), "ext:DigitalSourceType": source_type}
    if as_elements:
        attributes, elements = "", "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    else:
        attributes, elements = "".join(f' {name}="{value}"' for name, value in values.items()), ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description r:about="" '
        'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        f'xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"{attributes}>{elements}'
        '<dc:rights><r:Alt><r:li xml:lang="x-default">© Zoë &amp; Söhne</r:li></r:Alt></dc:rights>'
        f'</r:Description></r:RDF></x:xmpmeta>{" " * 200}<?xpacket end="w"?>'
    ).encode()


def properties(packet: bytes) -> dict[str, str]:
    """A packet's simple properties, and the text of the others."""
    found: dict[str, str] = {}
    for description in ET.fromstring(packet.decode()).iter(f"{RDF}Description"):
        found.update(description.attrib)
        found.update({child.tag: "".join(child.itertext()) for child in description})
    return found


def packet_of(path: Path | str) -> bytes | None:
    """The packet in a file, by Pillow."""
    with Image.open(path) as image:
        return image.info.get("xmp")


def source_type(path: Path | str) -> str | None:
    packet = packet_of(path)
    return None if packet is None else properties(packet).get(TYPE)


def test_a_written_picture_says_that_it_was_generated(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "teal")
    write_png(tmp_path / "a.png", image, {"seed": 1})
    write_png(tmp_path / "b.png", image, {"seed": 1})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert source_type(tmp_path / "a.png") == GENERATED
    assert read_metadata(tmp_path / "a.png") == {"seed": 1}
    with (tmp_path / "a.png").open("rb") as file:
        assert file.read(8) == SIGNATURE
        found = [chunk for chunk in chunks(file) if chunk.kind == b"iTXt"]
        file.seek(found[0].start)
        # keyword, not compressed, no language: as XMP's specification has it
        assert file.read(found[0].size) == b"XML:com.adobe.xmp\0\0\0\0\0" + make_packet()
    write_png(tmp_path / "c.png", image, {}, xmp=None)
    assert packet_of(tmp_path / "c.png") is None


def test_pillow_reads_the_type(tmp_path: Path) -> None:
    pytest.importorskip("defusedxml")
    write_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), {})
    with Image.open(tmp_path / "a.png") as image:
        assert image.getxmp()["xmpmeta"]["RDF"]["Description"]["DigitalSourceType"] == GENERATED


@pytest.mark.parametrize("as_elements", [False, True])
def test_the_type_takes_the_place_of_the_photos_own(as_elements: bool) -> None:
    before = photo_packet(orientation=6, as_elements=as_elements)
    after = properties(change_packet(before, COMPOSITE))
    assert after[TYPE] == COMPOSITE
    assert after[RIGHTS] == "© Zoë & Söhne"
    assert ORIENTATION not in after  # the picture is upright now
    assert change_packet(before, COMPOSITE).count(b"DigitalSourceType=") == 1
    assert properties(change_packet(photo_packet(GENERATED), COMPOSITE))[TYPE] == GENERATED
    element = b"<ext:DigitalSourceType>" + GENERATED.encode() + b"</ext:DigitalSourceType>"
    reference = b'<ext:DigitalSourceType r:resource="' + GENERATED.encode() + b'"/>'
    linked = photo_packet(GENERATED, as_elements=True).replace(element, reference)
    assert reference in linked
    assert properties(change_packet(linked, COMPOSITE))[TYPE] == GENERATED
    assert change_packet(before.decode().encode("utf-16"), COMPOSITE) == change_packet(before, COMPOSITE)


def test_an_unchanged_photo_keeps_its_packet() -> None:
    turned = photo_packet(orientation=6)
    upright = change_packet(turned, None)
    assert ORIENTATION not in properties(upright)
    assert properties(upright)[TYPE] == CAMERA
    assert change_packet(upright, None) == upright
    plain = make_packet(CAMERA)
    assert change_packet(plain, None) == plain


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"<x/>",
        b"<x",
        b"\xff\xfe\x00",
        b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
        b"<a>" * 20_000 + b"</a>" * 20_000,
        b"<a>" + b" " * LARGEST_PACKET + b"</a>",
    ],
)
def test_what_is_no_packet_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match=r"XMP packet"):
        change_packet(packet, COMPOSITE)


@given(st.integers(0, len(photo_packet())), st.binary(max_size=8))
def test_a_damaged_packet_gives_a_packet_or_an_error(place: int, inserted: bytes) -> None:
    packet = photo_packet()
    try:
        changed = change_packet(packet[:place] + inserted + packet[place:], COMPOSITE)
    except ValueError:  # and no other error
        return
    assert properties(changed)[TYPE] == COMPOSITE


def save(image: Image.Image, path: Path, packet: bytes) -> None:
    """A photo's file with a packet, where its format has it."""
    if path.suffix == ".png":
        write_png(path, image, {}, xmp=packet)
    elif path.suffix == ".tif":
        image.save(path, tiffinfo={700: packet})
    else:
        image.save(path, xmp=packet)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_photo_keeps_its_rights_when_a_part_of_it_is_generated(suffix: str, tmp_path: Path) -> None:
    save(Image.linear_gradient("L").convert("RGB"), tmp_path / f"a{suffix}", photo_packet())
    photo = decode_photo(tmp_path / f"a{suffix}")
    same = photo.packet(photo.restore(photo.picture.copy()))
    assert same is not None
    assert properties(same)[TYPE] == CAMERA
    edited = photo.picture.copy()
    edited.putpixel((3, 3), (1, 200, 3))
    packet = photo.packet(photo.restore(edited))
    assert packet is not None
    assert (properties(packet)[TYPE], properties(packet)[RIGHTS]) == (COMPOSITE, "© Zoë & Söhne")


def test_a_photo_without_a_packet(tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "a.jpg")
    photo = decode_photo(tmp_path / "a.jpg")
    assert photo.packet(photo.picture) is None
    edited = Image.new("RGB", photo.picture.size)
    packet = photo.packet(edited)
    assert packet is not None
    assert properties(packet)[TYPE] == COMPOSITE


@pytest.fixture
def call(run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command on a tiny model, in an empty folder; its warnings."""
    monkeypatch.chdir(tmp_path)

    def succeed(command: str, *args: object) -> str:
        model = ["--model", tiny_bundle] if command != "sample" else ["--generator", tiny_bundle]
        code, _, err = run(command, *model, "--device", "cpu", *args)
        assert code == 0, err
        return err

    return succeed


def test_every_command_marks_its_pictures(call: Callable[..., str]) -> None:
    call("generate", "--text", "a hat", "--num", 2, "--grid", "--out", "g")
    call("sample", "--seeds", "0-1", "--grid", "--out", "s")
    written = [*Path("g").glob("*.png"), *Path("s").glob("*.png")]
    assert len(written) == 6
    assert {source_type(path) for path in written} == {GENERATED}
    Image.linear_gradient("L").convert("RGB").save("photo.png")
    call("edit", "--image", "photo.png", "--attr", "sad:1", "--source", "clip", "--sheet", "--out", "e.png")
    assert source_type("e.png") == GENERATED  # drawn as a whole
    assert source_type("e-sheet.png") == COMPOSITE  # it shows the photo


def test_a_pasted_photo_says_whose_it_is_and_that_it_was_edited(call: Callable[..., str]) -> None:
    photo = Image.linear_gradient("L").resize((200, 160)).convert("RGB")
    photo.save("photo.jpg", xmp=photo_packet(), quality=95)
    points = "80,70,110,72,94,85,84,100,108,101"
    args = ["--image", "photo.jpg", "--points", points, "--attr", "sad", "--source", "clip", "--paste-back"]
    call("edit", *args, "--strength", 0, "--out", "same.png")
    assert source_type("same.png") == CAMERA
    call("edit", *args, "--strength", 3, "--out", "other.png")
    assert source_type("other.png") == COMPOSITE
    packet = packet_of("other.png")
    assert packet is not None
    assert properties(packet)[RIGHTS] == "© Zoë & Söhne"

    photo.save("photo.jpg", xmp=b"<x", quality=95)
    err = call("edit", *args, "--strength", 3, "--out", "damaged.png")
    assert "photo.jpg: it has an XMP packet that is damaged, which is left out\n" in err
    assert source_type("damaged.png") == COMPOSITE


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_videos_are_marked_too(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("teal", "pink", "gold")]
    path = tmp_path / f"v{suffix}"
    write_video(path, frames, 12, source_type=COMPOSITE)
    content = path.read_bytes()
    packet = make_packet(COMPOSITE)
    start = content.index(packet)
    if suffix == ".gif":
        assert content[start - 14 : start] == b"\x21\xff\x0bXMP DataXMP"
        with Image.open(io.BytesIO(content)) as video:
            assert getattr(video, "n_frames", 1) == 3
        return
    boxes = []  # a chain of boxes from the first byte to the last
    place = 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        boxes.append(content[place + 4 : place + 8])
        place += size
    assert place == len(content)
    assert boxes[0] == b"ftyp"
    assert boxes[-1] == b"uuid"
    from imageio_ffmpeg import count_frames_and_secs

    assert count_frames_and_secs(str(path))[0] == 3
