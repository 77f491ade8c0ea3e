"""Make loop.mp3, the music of the sandbox: a soft 6/8 arpeggio over four chords, 7.2 s.

python3 tests/tools/make_loop.py needs lame (apt-get install lame) and writes tests/data/loop.mp3.

24 kHz mono at a constant 32 kbit/s makes every frame 96 bytes and 24 ms, so the loop is exactly 300
frames. Without a bit reservoir (--nores) no frame needs the one before it: the frames can be
repeated, and begun with any of them. The loop is encoded three times in a row and the middle one
kept, so that its end runs into its beginning without a click.
"""

from __future__ import annotations

import array
import math
import pathlib
import subprocess
import sys
import tempfile
import wave

RATE = 24000
NOTE = 0.3  # seconds
FRAME_BYTES, FRAMES = 96, 300
LOOP = pathlib.Path(__file__).resolve().parent.parent / "data" / "loop.mp3"
CHORDS = (  # bass, then the arpeggio, as MIDI notes
    (45, (60, 64, 67, 71, 67, 64)),  # Am9
    (41, (57, 60, 64, 67, 64, 60)),  # Fmaj9
    (48, (55, 60, 64, 71, 64, 60)),  # Cmaj7
    (43, (59, 62, 66, 69, 66, 62)),  # Gmaj9
)


def loop() -> list[float]:
    """The samples of one turn. What rings on past the end is added at the beginning."""
    total = round(len(CHORDS) * 6 * NOTE * RATE)
    samples = [0.0] * total

    def pluck(start: float, note: int, seconds: float, volume: float) -> None:
        frequency = 440 * 2 ** ((note - 69) / 12)
        for i in range(int(seconds * RATE)):
            t = i / RATE
            envelope = (
                min(1.0, t / 0.012) * math.exp(-3.5 * t / seconds) * min(1.0, (seconds - t) / 0.05)
            )
            tone = sum(
                math.sin(2 * math.pi * frequency * n * t) * level
                for n, level in ((1, 1), (2, 0.28), (3, 0.09))
            )
            samples[(int(start * RATE) + i) % total] += volume * envelope * tone

    for bar, (bass, notes) in enumerate(CHORDS):
        pluck(bar * 6 * NOTE, bass, 6 * NOTE, 0.30)
        for step, note in enumerate(notes):
            pluck((bar * 6 + step) * NOTE, note, 4 * NOTE, 0.24 if step % 3 == 0 else 0.18)
    return samples


def main() -> None:
    samples = loop()
    peak = max(map(abs, samples))
    pcm = array.array("h", (round(22000 * sample / peak) for sample in samples))
    if sys.byteorder == "big":
        pcm.byteswap()
    with tempfile.TemporaryDirectory() as directory:
        source, encoded = pathlib.Path(directory, "loop.wav"), pathlib.Path(directory, "loop.mp3")
        with wave.open(str(source), "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(RATE)
            wav.writeframes(pcm.tobytes() * 3)
        options = (
            "--cbr",
            "-b32",
            "-mm",
            "--resample",
            "24",
            "--lowpass",
            "9",
            "--nores",
            "-t",
            "-q0",
            "--quiet",
        )
        subprocess.run(["lame", *options, source, encoded], check=True)
        frames = encoded.read_bytes()
    middle = frames[FRAMES * FRAME_BYTES : 2 * FRAMES * FRAME_BYTES]
    assert len(middle) == FRAMES * FRAME_BYTES
    assert all(
        middle[i : i + 2] == middle[:2] and middle[i + 4] == 0
        for i in range(0, len(middle), FRAME_BYTES)
    )
    LOOP.write_bytes(middle)


main()
