"""An instance in another transfer syntax than it is kept in: uncompressed, little endian. For a thread.

Only for peers that do not take what is stored; whoever does gets the bytes as they are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pydicom

from failover.archive import codecs, pixels
from failover.archive.index import Held
from failover.dicom.data_sets import encoded
from failover.dicom.negotiation import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.errors import UnreadableDataSet

TARGETS: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)


def data_set_in(held: Held, transfer_syntax: str) -> bytes:
    """Return the data set of `held` in one of TARGETS.

    Raises UnreadableDataSet, Undecodable (codecs), FileNotFoundError.
    """
    if transfer_syntax not in TARGETS:
        raise codecs.Undecodable("only uncompressed little endian is made here")
    try:
        instance = pydicom.dcmread(held.path)
    except Exception as error:  # pydicom raises what it likes for a broken file
        raise UnreadableDataSet(f"cannot be read again: {type(error).__name__}") from error
    if instance.file_meta.TransferSyntaxUID.is_encapsulated and "PixelData" in instance:
        _decompress(held, instance)
    elif instance.file_meta.TransferSyntaxUID == EXPLICIT_BIG:
        _swap_words(instance)
    return encoded(instance, transfer_syntax)


def _decompress(held: Held, instance: pydicom.Dataset) -> None:
    image = pixels.open_image(held.path)
    frames, layout = [], image.layout
    for number in range(1, image.frames + 1):
        samples, layout = codecs.decode(image.read_frame(number), image.transfer_syntax, image.layout)
        frames.append(codecs.native_bytes(samples, layout))
    native = b"".join(frames)
    instance.PixelData = native + b"\0" * (len(native) % 2)
    instance["PixelData"].VR = "OB" if layout.bits_allocated <= 8 else "OW"
    instance["PixelData"].is_undefined_length = False
    instance.PhotometricInterpretation = layout.photometric
    if layout.samples > 1:
        instance.PlanarConfiguration = 0


def _swap_words(instance: pydicom.Dataset) -> None:
    # PS3.5 A.3: in big endian the samples of more than a byte, and words of bytes, are swapped.
    if "PixelData" in instance and instance["PixelData"].VR == "OW":
        instance.PixelData = np.frombuffer(instance.PixelData, ">u2").astype("<u2").tobytes()
