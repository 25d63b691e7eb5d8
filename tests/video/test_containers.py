"""Only known containers are opened, told by their content; lists of other files are not."""

from __future__ import annotations

import pathlib

import pytest

from pixel_reasoner_jax.processing import MediaError, load_video
from pixel_reasoner_jax.video.containers import container_of
from pixel_reasoner_jax.video.index import VideoError

LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{0}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{0}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash": '<?xml version="1.0"?>\n<MPD><BaseURL>{0}</BaseURL></MPD>\n',
    "after_a_mark": "\ufeff\n#EXTM3U\n{0}\n",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8"])
def test_lists_of_files_are_never_followed(tmp_path, kind, suffix):
    path = tmp_path / f"clip{suffix}"
    path.write_text(LISTS[kind].format(tmp_path / "secret.mp4"), encoding="utf-8")
    for source in (path, path.read_bytes()):
        with pytest.raises(MediaError, match="the video is a list of other files") as raised:
            load_video(source)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x20ftypisom", "mov"),
        (b"\0\0\0\x08moov", "mov"),
        (b"\x1a\x45\xdf\xa3", "matroska"),
        (b"RIFF\0\0\0\0AVI LIST", "avi"),
        (b"\0\0\x01\xba\x44", "mpeg"),
        (b"GIF89a", "gif"),
        ((b"\x47" + b"x" * 187) * 4, "mpegts"),
        (b"x" * 50 + (b"\x47" + b"x" * 187) * 4, "mpegts"),
        ((b"time\x47" + b"x" * 187) * 4, "mpegts"),
    ],
)
def test_known_containers(head, name):
    assert container_of(head) == name


@pytest.mark.parametrize(
    "head", [b"RIFF\0\0\0\0WEBP", b"\x89PNG", b"GGGG" * 3, b"%PDF-1.4", b"concat:a|b", b"text" * 200]
)
def test_everything_else_is_no_video(head):
    with pytest.raises(VideoError, match="is no video in a known container"):
        container_of(head)


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "empty.mp4"
    pathlib.Path(path).touch()
    with pytest.raises(MediaError, match=r"empty\.mp4: the file is empty"):
        load_video(path)
