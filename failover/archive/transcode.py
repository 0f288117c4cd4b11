"""An instance in another transfer syntax than it is kept in: uncompressed, little endian. For a decoder.

Only for peers that do not take what is stored; whoever does gets the bytes as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pydicom

from failover.archive import codecs, pixels
from failover.dicom.data_sets import encoded
from failover.dicom.syntaxes import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.errors import UnreadableDataSet

TARGETS: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
_PIXEL_DATA: Final = 0x7FE00010
# Up to this all frames are decoded before the first byte is given, so that a broken one is a proper refusal.
_WHOLE_BYTES: Final = 64 * 2**20
_MOST_BYTES: Final = 0xFFFFFFFE  # what the length of an element can say


def data_set_in(path: Path, transfer_syntax: str) -> Iterator[bytes]:
    """Yield the data set of the object at `path` in one of TARGETS, frame by frame where it was compressed.

    Raises UnreadableDataSet, Undecodable (codecs), NoSuchFrame, FileNotFoundError.
    """
    if transfer_syntax not in TARGETS:
        raise codecs.Undecodable("only uncompressed little endian is made here")
    try:
        instance = pydicom.dcmread(path)
        stored = instance.file_meta.TransferSyntaxUID
        is_compressed = stored.is_encapsulated and "PixelData" in instance
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # pydicom raises what it likes for a broken file
        raise UnreadableDataSet(f"cannot be read again: {type(error).__name__}") from error
    if is_compressed:
        yield from _decompressed(path, instance, transfer_syntax)
        return
    if stored == EXPLICIT_BIG:
        _swap_words(instance)
    yield encoded(instance, transfer_syntax)


def _decompressed(path: Path, instance: pydicom.Dataset, transfer_syntax: str) -> Iterator[bytes]:
    del instance.PixelData  # the frames are read from the file, one by one
    image = pixels.open_image(path)
    image.read_frame(image.frames)  # a number of frames that is a mere claim ends here
    samples, layout = codecs.decode(image.read_frame(1), image.transfer_syntax, image.layout)
    frame = codecs.native_bytes(samples, layout)
    length = len(frame) * image.frames
    if length > _MOST_BYTES:
        raise codecs.Undecodable("uncompressed it is larger than an element can be")
    instance.PhotometricInterpretation = layout.photometric
    if layout.samples > 1:
        instance.PlanarConfiguration = 0
    tags = [*instance.keys()]
    before = pydicom.Dataset({tag: instance.get_item(tag) for tag in tags if tag < _PIXEL_DATA})
    after = pydicom.Dataset({tag: instance.get_item(tag) for tag in tags if tag > _PIXEL_DATA})
    character_set = instance.get("SpecificCharacterSet", "iso8859")
    vr = b"OB" if layout.bits_allocated <= 8 and transfer_syntax == EXPLICIT_LITTLE else b"OW"
    padding = length % 2
    if transfer_syntax == EXPLICIT_LITTLE:
        pixel_head = struct.pack("<HH2s2xI", 0x7FE0, 0x0010, vr, length + padding)
    else:
        pixel_head = struct.pack("<HHI", 0x7FE0, 0x0010, length + padding)
    ahead = encoded(before, transfer_syntax) + pixel_head
    behind = b"\0" * padding + (encoded(after, transfer_syntax, character_set) if after else b"")
    others = _frames(image, 2)
    if length <= _WHOLE_BYTES:
        others = iter([*others])
    yield ahead
    yield frame
    yield from others
    yield behind


def _frames(image: pixels.Image, first: int) -> Iterator[bytes]:
    for number in range(first, image.frames + 1):
        samples, layout = codecs.decode(image.read_frame(number), image.transfer_syntax, image.layout)
        yield codecs.native_bytes(samples, layout)


def _swap_words(instance: pydicom.Dataset) -> None:
    # PS3.5 A.3: in big endian the samples of more than a byte, and words of bytes, are swapped.
    if "PixelData" in instance and instance["PixelData"].VR == "OW":
        instance.PixelData = np.frombuffer(instance.PixelData, ">u2").astype("<u2").tobytes()
