"""One frame of samples → a lossless codestream, and the samples again by decoders other than our own. Pure.

Which objects are compressed is decided in `compressing`; what stands here is how a frame is written in each
transfer syntax, such that every reader finds what the header of the object says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt

from failover.archive.codecs import Layout

Array = npt.NDArray[Any]

JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.70"
JPEG_LS: Final = "1.2.840.10008.1.2.4.80"
HTJ2K: Final = "1.2.840.10008.1.2.4.201"
# Noise can grow in JPEG-LS: the library wants the room beforehand.
_ROOM_BYTES: Final = 65536


def encode(samples: Array, transfer_syntax: str) -> bytes:
    """Return one frame, (rows, columns) or (rows, columns, 3), as a codestream. Raises what codecs raise."""
    return _ENCODERS[transfer_syntax](np.ascontiguousarray(samples))


def decoded_by_another(frame: bytes, transfer_syntax: str, layout: Layout) -> Array | None:
    """Return the samples as a second library reads them; None: there is none for this transfer syntax."""
    if transfer_syntax == JPEG_LOSSLESS:
        return _with_sign(imagecodecs.ljpeg_decode(frame), layout)
    if transfer_syntax == HTJ2K:
        return _with_sign(imagecodecs.jpeg2k_decode(frame, numthreads=1), layout)
    return None


def _jpeg_lossless(samples: Array) -> bytes:
    # PS3.5 annex F, 8.2.1: the codestream knows no sign. Predictor 1 is what makes process 14 a .70; the
    # colour space is named so that no transformation takes place, and none is undone by a reader.
    space = "RGB" if samples.ndim == 3 else None
    plain = _without_sign(samples)
    return bytes(
        imagecodecs.jpeg8_encode(
            plain,
            lossless=True,
            predictor=1,
            bitspersample=8 * plain.dtype.itemsize,
            colorspace=space,
            outcolorspace=space,
        )
    )


def _jpeg_ls(samples: Array) -> bytes:
    plain = _without_sign(samples)
    codestream = bytes(imagecodecs.jpegls_encode(plain, out=2 * plain.nbytes + _ROOM_BYTES))
    at = 2
    while codestream[at : at + 2] == b"\xff\xe8":  # a SPIFF header, which DICOM does not ask for
        at += 2 + int.from_bytes(codestream[at + 2 : at + 4], "big")
    return codestream[:2] + codestream[at:]


def _htj2k(samples: Array) -> bytes:
    # Without the colour transform, so that the photometric interpretation stays what it is.
    return bytes(imagecodecs.htj2k_encode(samples, reversible=True, rgb=False))


_ENCODERS: Final[dict[str, Callable[[Array], bytes]]] = {
    JPEG_LOSSLESS: _jpeg_lossless,
    JPEG_LS: _jpeg_ls,
    HTJ2K: _htj2k,
}


def _without_sign(samples: Array) -> Array:
    return samples.view(np.dtype(f"u{samples.dtype.itemsize}"))


def _with_sign(samples: Array, layout: Layout) -> Array:
    kind = "i" if layout.signed else "u"
    return np.asarray(samples).view(np.dtype(f"{kind}{np.asarray(samples).dtype.itemsize}"))
