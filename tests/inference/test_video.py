"""Reading and writing videos: times, rotation, sound, interruptions and broken files."""

import struct
from fractions import Fraction

import numpy as np
import pytest

from pyranet_fast.errors import UserError
from pyranet_fast.inference.video import VideoWriter, read_frames

av = pytest.importorskip("av")

TIMES = [0.0, 0.04, 0.05, 0.2, 0.237, 0.5, 0.9, 0.901, 1.4]


def picture(number, height=48, width=64):
    image = np.full((height, width, 3), 20 * number % 200, np.uint8)
    image[: height // 4] = 255
    return image


def write(path, times=TIMES, **options):
    with VideoWriter(path, **options) as writer:
        for number, seconds in enumerate(times):
            writer.write(picture(number), seconds)
    return path


def with_sound(path, codec="aac", seconds=1.5):
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream(codec, rate=16000, layout="mono")
        for number in range(round(25 * seconds)):
            output.mux(video.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        tone = (8000 * np.sin(np.arange(round(16000 * seconds)) / 8)).astype(np.int16)[None]
        for start in range(0, tone.shape[1], 1000):
            frame = av.AudioFrame.from_ndarray(tone[:, start : start + 1000], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            output.mux(sound.encode(frame))
        output.mux(video.encode(None))
        output.mux(sound.encode(None))
    return path


def sound_of(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_variable_frame_rate_survives_writing_and_reading(tmp_path):
    frames = list(read_frames(write(tmp_path / "out.mp4")))
    assert np.allclose([frame.seconds for frame in frames], TIMES, rtol=0, atol=1e-3)
    assert abs(int(frames[3].image[-4, 10, 0]) - 60) < 8
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_odd_sizes_are_widened(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4") as writer:
        writer.write(picture(1, 45, 63), 0.0)
    assert next(read_frames(tmp_path / "odd.mp4")).image.shape == (46, 64, 3)


def test_sound_is_copied_packet_by_packet(tmp_path):
    source = with_sound(tmp_path / "in.mp4")
    with VideoWriter(tmp_path / "out.mp4", audio=source) as writer:
        for frame in read_frames(source):
            writer.write(frame.image, frame.seconds)
    assert len(sound_of(source)) > 10
    assert sound_of(tmp_path / "out.mp4") == sound_of(source)


def test_sound_that_mp4_does_not_take_is_one_sentence(tmp_path):
    source = with_sound(tmp_path / "in.avi", codec="adpcm_ms")
    with pytest.raises(UserError, match=r"the sound of .*in\.avi is adpcm_ms"):
        write(tmp_path / "out.mp4", audio=source)
    assert [path.name for path in tmp_path.iterdir()] == ["in.avi"]


def test_a_source_without_sound_gives_none(tmp_path):
    write(tmp_path / "out.mp4", audio=write(tmp_path / "in.mp4"))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio


def test_an_interruption_leaves_what_was_done(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "out.mp4") as writer:
        for number, seconds in enumerate(TIMES[:4]):
            writer.write(picture(number), seconds)
        raise KeyboardInterrupt
    assert [frame.seconds for frame in read_frames(tmp_path / "out.mp4")] == pytest.approx(TIMES[:4], abs=1e-3)


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "out.mp4") as writer:
        writer.write(picture(1), 0.0)
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_names_that_do_not_end_in_mp4_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"out\.webm cannot be written; expected a name that ends in \.mp4"):
        VideoWriter(tmp_path / "out.webm")


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_broken_video_is_one_sentence(tmp_path, share):
    data = write(tmp_path / "in.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: round(share * len(data))] or b"no video")
    with pytest.raises(UserError, match=r"cut\.mp4"):
        list(read_frames(tmp_path / "cut.mp4"))


def test_a_turned_video_is_read_and_written_upright(tmp_path):
    data = bytearray(write(tmp_path / "in.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    frames = list(read_frames(tmp_path / "turned.mp4"))
    with VideoWriter(tmp_path / "out.mp4") as writer:
        for frame in frames:
            writer.write(frame.image, frame.seconds)
    again = list(read_frames(tmp_path / "out.mp4"))
    for frame in (frames[1], again[1]):
        assert frame.image.shape == (64, 48, 3)
        bright = frame.image[:, :, 0] > 150  # the top of the stored picture is the right of the turned one
        assert bright[:, -6:].all() and not bright[:, :30].any()
