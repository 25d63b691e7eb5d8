"""Frames and times are those that ffmpeg shows, whatever a clip was cut from and however wide it is."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from pixel_reasoner_jax.processing import MediaError, PictureStore, load_video
from pixel_reasoner_jax.processing.decoding import VideoFile
from tests.video.clips import ffmpeg, film, needs_ffmpeg, shown, times

pytestmark = needs_ffmpeg
pytest.importorskip("av", reason="PyAV is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("clips")
    film(folder / "film.mp4")
    open_gops = "open-gop=1:bframes=2:keyint=10:min-keyint=10:scenecut=0"
    film(
        folder / "open.mp4", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x264-params", open_gops
    )
    return folder


def check(path: pathlib.Path, same_times: bool = True) -> VideoFile:
    """Holds all frames, and a few that are reached by themselves, against ffmpeg."""
    video = VideoFile(path)
    expected = shown(path, video.size)
    assert video.total == len(expected) > 0
    everything = list(range(video.total))
    for chosen in (everything, sorted({video.total // 3, 2 * video.total // 3, video.total - 1})):
        frames = [np.asarray(frame, np.int16) for frame in video.frames(chosen)]
        assert [frame.shape for frame in frames] == [expected.shape[1:]] * len(chosen)
        differences = [np.abs(frame - expected[index]).mean() for frame, index in zip(frames, chosen, strict=True)]
        assert max(differences) < 1
    if same_times:
        np.testing.assert_allclose(video.times(everything), times(path), atol=1e-3)
    return video


@pytest.mark.parametrize("width", [16, 24, 144])
def test_narrow_videos(tmp_path, width):
    path = film(tmp_path / "narrow.mp4", size=f"{width}x32", seconds=1)
    assert check(path).size == (width, 32)


@pytest.mark.parametrize(("degrees", "size"), [(90, (32, 48)), (180, (48, 32))])
def test_rotated_videos_are_shown_upright(tmp_path, degrees, size):
    stored = film(tmp_path / "stored.mp4", size="48x32", seconds=1)
    ffmpeg("-i", stored, "-c", "copy", "-metadata:s:v:0", f"rotate={degrees}", tmp_path / "rotated.mp4")
    if VideoFile(tmp_path / "rotated.mp4").size == VideoFile(stored).size and degrees != 180:
        ffmpeg("-display_rotation", degrees, "-i", stored, "-c", "copy", tmp_path / "rotated.mp4")
    assert check(tmp_path / "rotated.mp4").size == size


@pytest.mark.parametrize(
    "cut",
    [
        "film.mp4 from 1.3 to cut.mp4",
        "film.mp4 from 1.3 to cut.mkv",
        "film.mp4 from 0 to whole.ts",
        "whole.ts from 1.3 to cut.ts",
        "open.mp4 from 1.3 to cut.mp4",
        "open.mp4 from 1.3 to cut.mkv",
    ],
)
def test_clips_that_were_cut_without_coding_them_anew(folder, tmp_path, cut):
    """They begin between key frames, with negative times, or with frames that refer to what was cut off."""
    source, _, start, _, target = cut.split()
    if source == "whole.ts":
        ffmpeg("-i", folder / "film.mp4", "-c", "copy", tmp_path / source)
    path = tmp_path / source if source == "whole.ts" else folder / source
    ffmpeg("-ss", start, "-i", path, "-c", "copy", tmp_path / target)
    check(tmp_path / target)


def test_a_transport_stream_that_begins_and_ends_in_the_midst_of_a_packet(folder, tmp_path):
    ffmpeg("-i", folder / "film.mp4", "-c", "copy", tmp_path / "whole.ts")
    data = (tmp_path / "whole.ts").read_bytes()
    (tmp_path / "part.ts").write_bytes(data[len(data) // 3 :])
    video = check(tmp_path / "part.ts")
    assert 10 <= video.total < 30
    (tmp_path / "part.ts").write_bytes(data[: len(data) // 2])
    video, whole = VideoFile(tmp_path / "part.ts"), shown(tmp_path / "whole.ts", (64, 48))
    for index, frame in enumerate(video.frames(range(video.total))):  # the damaged last one is left out
        assert np.abs(np.asarray(frame, np.int16) - whole[index]).mean() < 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b_frames.avi", "-c:v mpeg4 -bf 2"),
        ("program.mpg", "-c:v mpeg2video -bf 2"),
        ("picture.gif", "-vf fps=10"),
        ("hidden_frames.webm", "-c:v libvpx -auto-alt-ref 1 -lag-in-frames 8 -cpu-used 8 -deadline realtime"),
    ],
)
def test_other_containers(tmp_path, name, options):
    path = film(tmp_path / name, *options.split(), seconds=2)
    check(path, same_times=name in ("picture.gif", "hidden_frames.webm"))  # ffprobe tells no times of some frames


def test_of_several_streams_the_default_one_is_shown(folder, tmp_path):
    film(tmp_path / "larger.mp4", size="96x64", seconds=1)
    streams = ("-i", folder / "film.mp4", "-i", tmp_path / "larger.mp4", "-map", "0:v", "-map", "1:v", "-c", "copy")
    ffmpeg(*streams, "-disposition:v:1", "0", tmp_path / "two.mp4")
    assert check(tmp_path / "two.mp4").size == (64, 48)


def test_varying_frame_rates(folder, tmp_path):
    late = "setpts='if(lt(N,10),N,3*N-20)/10/TB'"
    coded = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p")
    ffmpeg("-i", folder / "film.mp4", "-vf", late, "-vsync", "vfr", *coded, tmp_path / "varying.mp4")
    video = check(tmp_path / "varying.mp4")
    assert video.times([0, 9, 29]) == pytest.approx((0, 0.9, 6.7), abs=1e-3)
    assert video.fps == pytest.approx(29 / 6.7, rel=0.02)
    path = tmp_path / "varying.mp4"
    assert PictureStore().open_video(path, 5).times == load_video(path, 5).times


@pytest.mark.parametrize("container", ["mp4", "avi", "mkv"])
def test_a_file_that_was_cut_off_says_so(folder, tmp_path, container):
    ffmpeg("-i", folder / "film.mp4", "-c", "copy", "-movflags", "+faststart", tmp_path / f"whole.{container}")
    data = (tmp_path / f"whole.{container}").read_bytes()
    path = tmp_path / f"part.{container}"
    for share in (0.6, 0.85):
        path.write_bytes(data[: int(share * len(data))])
        for source in (path, path.read_bytes()):
            with pytest.raises(MediaError, match="the video is (damaged or )?truncated: copy it anew"):
                load_video(source)


def test_what_has_no_video_says_so(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "sound.mkv")
    with pytest.raises(MediaError, match="sound.mkv: the video has no video stream"):
        load_video(tmp_path / "sound.mkv")
