"""Which container a video file is, told by its first bytes.

Only the containers named here are opened, each by its own demuxer. Formats that are lists of other files (HLS, concat,
SDP, DASH) are not among them: a file that somebody else wrote must not choose what else is read.
"""

from __future__ import annotations

from pixel_reasoner_jax.video.index import VideoError

HEAD_BYTES = 1024
"""How much of a file `container_of` looks at."""

NAMES = "MP4, MOV, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, FLV, ASF, Ogg or GIF"

_MAGIC = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"OggS", "ogg"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    *((4, box, "mov") for box in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")),
)
_LISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"<?xml", b"<MPD", b"[playlist]", b"<asx", b"[Reference]")
_TS_PACKETS = ((188, 0), (192, 4), (204, 0))  # length of a packet, and where in it the byte of synchronization is


def container_of(head: bytes) -> str:
    """The name of ffmpeg's demuxer for a file that begins with these bytes.

    Raises:
      VideoError: there is none.
    """
    if not head:
        raise VideoError("is empty")
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    if head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"AVIX", b"AVI\x19"):
        return "avi"
    if any(_is_transport_stream(head, *packet) for packet in _TS_PACKETS):
        return "mpegts"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_LISTS):
        raise VideoError("is a list of other files (HLS, concat, SDP or DASH), which is never followed: name a video")
    raise VideoError(f"is no video in a known container ({NAMES}): it is damaged, or something else")


def _is_transport_stream(head: bytes, length: int, offset: int) -> bool:
    """Whether packets of this length begin in the head; a recording may begin in the midst of one."""
    return any(
        len(head) > start + 2 * length and head[start::length].strip(b"\x47") == b""
        for start in range(offset, offset + length)
    )
