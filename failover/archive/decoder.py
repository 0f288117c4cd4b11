"""The process in which hostile bytes are decoded: `python -m failover.archive.decoder`, by `decoders`.

Reads questions from its standard input, one after the other, and answers on its standard output. It has no
socket, may use no more memory than DECODER_BYTES, and ends when its input does; whoever asks kills it when an
answer takes too long. What a question means is decided in `rendering`, `transcode`, `metadata` and
`compressing`, which alone writes a file: the one it is told to make.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from failover.archive import compressing, metadata, rendering, reports, transcode
from failover.archive.codecs import Undecodable
from failover.archive.pixels import Images, NoPixels, NoSuchFrame
from failover.archive.rendering import NoSuchRegion, Region, View, Window
from failover.durable import NO_ROOM
from failover.errors import UnreadableDataSet

# Beyond it an allocation fails, and the frame is refused as one that cannot be decoded.
DECODER_BYTES: Final = 512 * 2**20
# An argument: this process has all the time in the world.
BACKGROUND: Final = "--background"
PIECE: Final = b"D"
END: Final = b"E"
REFUSED: Final = b"X"
# Pieces are cut to this, so that whoever reads them holds little.
PIECE_BYTES: Final = 256 * 1024
HEAD: Final = struct.Struct("<cI")
LENGTH: Final = struct.Struct("<I")
# What an answer may say by its own name; all else is Undecodable.
TOLD: Final = (NoPixels, NoSuchFrame, NoSuchRegion, Undecodable, UnreadableDataSet)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (DECODER_BYTES, DECODER_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if BACKGROUND in sys.argv:
        os.nice(19)  # whoever reads, stores or routes comes first
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a C library prints is no answer
    images = Images()
    while len(head := questions.read(LENGTH.size)) == LENGTH.size:
        serve(json.loads(questions.read(*LENGTH.unpack(head))), images, answers)


def serve(question: dict[str, Any], images: Images, answers: BinaryIO) -> None:
    """Write the answer to one question."""
    try:
        for content in answer(question, images):
            view = memoryview(content)
            for at in range(0, len(view), PIECE_BYTES):
                piece = view[at : at + PIECE_BYTES]
                answers.write(HEAD.pack(PIECE, len(piece)))
                answers.write(piece)
        answers.write(HEAD.pack(END, 0))
    except BrokenPipeError:
        raise SystemExit(0) from None  # whoever asked is gone
    except Exception as error:  # hostile bytes raise what they like, MemoryError and RecursionError among it
        said = json.dumps(refusal(error)).encode()
        answers.write(HEAD.pack(REFUSED, len(said)) + said)
    answers.flush()


def refusal(error: Exception) -> tuple[str, str]:
    """Return the name of the error that the asker is to raise, and its sentence."""
    if isinstance(error, FileNotFoundError):
        return "FileNotFoundError", "its file is gone"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return "DiskFull", "no room for what is made"
    if isinstance(error, MemoryError):
        return "Undecodable", "decoding takes more memory than a decoder may have"
    for kind in TOLD:
        if isinstance(error, kind):
            return kind.__name__, str(error)
    return "Undecodable", f"cannot be read: {type(error).__name__}"


def answer(question: dict[str, Any], images: Images) -> Iterator[bytes]:
    """Yield the content that `question` asks for."""
    path = Path(question["path"])
    match question["work"]:
        case "picture":
            yield rendering.render(images.open(path), question["frame"], view_of(question["view"]))
        case "animation":
            yield rendering.animate(images.open(path), question["frames"], view_of(question["view"]))
        case "report":
            yield reports.document(path, question["media_type"])
        case "frame":
            image = images.open(path)
            number: int = question["frame"]
            yield rendering.decoded_frame(image, number) if question["decoded"] else image.read_frame(number)
        case "frames":
            yield str(images.open(path).frames).encode()
        case "data set":
            yield from transcode.data_set_in(path, question["syntax"])
        case "metadata":
            yield metadata.read(path)
        case "compress":
            yield from compressing.compress(path, Path(question["target"]), question["syntax"])
        case "restore":
            original = compressing.Original(**question["original"])
            yield from compressing.restore(path, Path(question["target"]), original)
        case "value":
            yield metadata.value(path, question["at"])


def view_of(said: dict[str, Any]) -> View:
    window = Window(**said["window"]) if said["window"] is not None else None
    viewport = (said["viewport"][0], said["viewport"][1]) if said["viewport"] is not None else None
    region = Region(**said["region"]) if said["region"] is not None else None
    return View(window, viewport, said["quality"], said["media_type"], region)


if __name__ == "__main__":
    main()
