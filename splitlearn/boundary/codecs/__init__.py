"""Encodings of what crosses a cut: unchanged, in fewer bits, or less of it. One codec is one class in one file."""

from splitlearn.boundary.codecs.bf16 import BFloat16
from splitlearn.boundary.codecs.chain import Chain
from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns
from splitlearn.boundary.codecs.error_feedback import ErrorFeedback
from splitlearn.boundary.codecs.exact import Exact
from splitlearn.boundary.codecs.gaussian import Gaussian
from splitlearn.boundary.codecs.int8 import Int8
from splitlearn.boundary.codecs.packing import pack, unpack
from splitlearn.boundary.codecs.registry import codec_class, codec_names
from splitlearn.boundary.codecs.reuse import Reuse

__all__ = [
    "BFloat16",
    "Chain",
    "Codec",
    "CodecContext",
    "Columns",
    "ErrorFeedback",
    "Exact",
    "Gaussian",
    "Int8",
    "Reuse",
    "codec_class",
    "codec_names",
    "pack",
    "unpack",
]
