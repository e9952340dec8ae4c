"""Each party its own process: the protocol, tensors on the wire, mutual TLS, parts that other processes hold."""

from splitlearn.parties.protocol import CONVERSE, PROTOCOL_VERSION, party_pb2
from splitlearn.parties.values import read_value, write_value
from splitlearn.parties.wire import Message, MessageReader, columns_of, named_columns, write_message
from splitlearn.parties.wire_checks import WireError, WireLimits, check_finite, check_head

__all__ = [
    "CONVERSE",
    "PROTOCOL_VERSION",
    "Message",
    "MessageReader",
    "WireError",
    "WireLimits",
    "check_finite",
    "check_head",
    "columns_of",
    "named_columns",
    "party_pb2",
    "read_value",
    "write_message",
    "write_value",
]
