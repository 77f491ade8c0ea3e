"""What the stand-in (tests/sandbox.py) holds from the start: two users' tracks and playlists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox import Sandbox

FOCUS = (  # 14 tracks of three minutes, oldest first
    "deep focus ambient, soft pads, slow evolving",
    "rain on the window, felt piano, vinyl crackle",
    "minimal techno for coding, hypnotic, no vocals",
    "集中できるローファイ、夜の図書館",
    "warm Rhodes, brushed drums, Sunday morning",
    "binaural drift, low drones, distant bells",
    "집중력을 위한 잔잔한 재즈 피아노",
    "slow house, dusty samples, tape hiss",
    "marimba patterns, Steve Reich style, gentle",
    "study beats ☕ with a mellow upright bass",
    "cinematic strings, held notes, very quiet",
    "boom bap at half speed, jazzy chords",
    "modular synth garden, random bells, airy",
    "lo-fi, chill, morning coffee",
)
DRAFTS = (
    "garage rock riff, raw, one take",
    "synthwave chase, neon, 80s drums",
    "夏祭り 🎆 太鼓と笛、にぎやかに",
    "acoustic ballad about leaving home",
    "drum and bass, liquid, female vocal chops",
    "cafe\u0301 bossa nova, nylon guitar, ze\u0301phyr",
    "orchestral trailer, huge brass, slow build",
    "k-pop 댄스, 밝고 빠르게 ✨",
    "reggae dub with endless echoes",
    "harpsichord waltz, slightly out of tune",
    "8-bit boss fight 🎮👾 fast arpeggios",
    "gospel choir, hand claps, Hammond organ",
)
ALBUM = (
    ("modern country instrumental, acoustic guitar strumming", 120),
    ("night drive through Lisbon, fado guitar, electronic beat", 90.3),
    ("a cappella lullaby, three voices", 58),
)
LOOSE = (  # prompt, duration, status
    ("piano sketch, one minute, sad", 60, "completed"),
    ("ünïcödé polka with accordion 👩‍🎤 and family 👨‍👩‍👧‍👦", 33.5, "completed"),
    ("death metal sung by a kindergarten choir", 60, "failed"),
    ("upbeat ad jingle, brass and snare", 30, "completed"),
    ("東京の夜、シティポップ、サックス 🌃", 147.25, "completed"),
    ("theremin solo over white noise", 210, "failed"),
    ("한여름 밤의 재즈 🎷", 210, "completed"),
    ("silence, but louder", 5, "failed"),
    ("a song that is " + "very " * 130 + "long", 60, "completed"),
    ("dark trap", 60, "completed"),
    ("polyrhythms in 7 against 11 against 13", 45, "failed"),
    ("lofi chill piano, mellow, late night", 60, "completed"),
    ("deep ambient drone", 180, "processing"),
    ("サウナの後のアンビエント 🧖", 90, "processing"),
    ("sea shanty, concertina, stomping", 60, "pending"),
    ("ice cream van at dusk 🍦", 20, "pending"),
)
KNOWN_IDS = {  # those in the command reference's examples
    FOCUS[-2]: "1c474c27-e97d-4c35-bb98-e588d06c32f0",
    FOCUS[-1]: "a9b16641-2f0c-4d4e-9b52-6f1f6c1f7d0e",
    DRAFTS[0]: "fea285f2-f8e4-4e60-98b0-c78f868ccc26",
    DRAFTS[1]: "aa8ca15d-f5c0-4c7d-8e3c-c3ca332c0a26",
    LOOSE[11][0]: "07e8d430-2310-4c57-87a8-cf1e6db376f7",
}


def fill(sandbox: Sandbox) -> None:
    """Add what is there from the start: two users' generations and playlists."""
    hour, day = 3600.0, 86400.0

    def add(prompt: str, age: float, **fields: Any) -> str:
        return str(
            sandbox.add_generation(id=KNOWN_IDS.get(prompt), prompt=prompt, age=age, **fields)["id"]
        )

    album = [
        add(prompt, (90 - n) * day, seconds=seconds) for n, (prompt, seconds) in enumerate(ALBUM)
    ]
    drafts = [
        add(prompt, (60 - 2 * n) * day, seconds=30 + 7.5 * n) for n, prompt in enumerate(DRAFTS)
    ]
    shared = [
        add(prompt, 20 * day, seconds=75, isPublic=True, playCount=1234, likeCount=56)
        for prompt in ("open air festival opener, big room", "公園のピクニック、ウクレレ")
    ]
    focus = [
        add(prompt, 2 * hour + (13 - n) * 9 * hour, seconds=180) for n, prompt in enumerate(FOCUS)
    ]
    for n, (prompt, seconds, status) in enumerate(LOOSE):
        age = (len(LOOSE) - 1 - n) ** 2 * 31.0 + 20
        add(prompt, age, seconds=seconds, status=status)
    add("string quartet warm-up, instrumental", 10.0, seconds=45, type="instrumental", title=None)
    theirs = [
        add(prompt, 5 * day, owner="other", isPublic=True)
        for prompt in ("midnight taxi, jazz noir", "雨のち晴れ ☔")
    ]
    secret = [add("somebody's secret demo", 4 * day, owner="other")]

    sandbox.add_playlist("Focus Beats", focus, id="5ab3ec64-6225-4965-acac-49a053609225")
    sandbox.add_playlist("Deep Work", focus[:2], age=2 * day, description="No words, no surprises")
    sandbox.add_playlist("Drafts", drafts, age=5 * hour)
    sandbox.add_playlist("Album", album, age=40 * day)
    sandbox.add_playlist(
        "Open Studio", shared, age=day, isPublic=True, description="Everybody may listen 🎧"
    )
    sandbox.add_playlist("chill", focus[3:5], age=3 * day)
    sandbox.add_playlist("Chill", [], age=7 * day)
    sandbox.add_playlist(
        "Night Shift",
        theirs,
        owner="other",
        isPublic=True,
        id="b7c1f0de-8a52-4f0e-9d0b-2f5d0a9f6e11",
    )
    sandbox.add_playlist(
        "Private Matters", secret, owner="other", id="c3d9a7b4-1e6f-4c2a-8f3e-7a6b5c4d3e2f"
    )
