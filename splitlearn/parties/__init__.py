"""Each party its own process: the protocol, tensors on the wire, mutual TLS, parts that other processes hold."""

import splitlearn.parties.extra  # noqa: F401
from splitlearn.parties.errors import PartyError, PartyLostError
from splitlearn.parties.grpc_connection import GrpcConnection
from splitlearn.parties.protocol import CONVERSE, PROTOCOL_VERSION, party_pb2
from splitlearn.parties.security import LinkSettings, add_port, check_target, open_channel, peer_name
from splitlearn.parties.service import PartyService
from splitlearn.parties.service_settings import Answer, Answerer, ServiceSettings
from splitlearn.parties.values import read_value, write_value
from splitlearn.parties.wire import Message, MessageReader, columns_of, named_columns, write_message
from splitlearn.parties.wire_checks import WireError, WireLimits, check_finite, check_head

__all__ = [
    "CONVERSE",
    "PROTOCOL_VERSION",
    "Answer",
    "Answerer",
    "GrpcConnection",
    "LinkSettings",
    "Message",
    "MessageReader",
    "PartyError",
    "PartyLostError",
    "PartyService",
    "ServiceSettings",
    "WireError",
    "WireLimits",
    "add_port",
    "check_finite",
    "check_head",
    "check_target",
    "columns_of",
    "named_columns",
    "open_channel",
    "party_pb2",
    "peer_name",
    "read_value",
    "write_message",
    "write_value",
]
