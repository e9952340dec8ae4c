"""Each party its own process: the protocol, tensors on the wire, mutual TLS, parts that other processes hold."""

import splitlearn.parties.extra  # noqa: F401
from splitlearn.parties.client_order import ClientOrder, Sharing
from splitlearn.parties.connection import Connection
from splitlearn.parties.conversation import Conversation
from splitlearn.parties.errors import PartyError, PartyLostError
from splitlearn.parties.forward_checks import ServerLimits
from splitlearn.parties.grpc_connection import GrpcConnection
from splitlearn.parties.in_process import InProcessConnection
from splitlearn.parties.joining import join, join_parts
from splitlearn.parties.kept_state import kept_state_file, read_kept_state
from splitlearn.parties.part_server import PartServer
from splitlearn.parties.protocol import CONVERSE, PROTOCOL_VERSION, party_pb2
from splitlearn.parties.remote_part import RemotePart
from splitlearn.parties.security import Patience, add_port, check_target, open_channel, peer_name
from splitlearn.parties.served_part import ServedPart
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
    "ClientOrder",
    "Connection",
    "Conversation",
    "GrpcConnection",
    "InProcessConnection",
    "Message",
    "MessageReader",
    "PartServer",
    "PartyError",
    "PartyLostError",
    "PartyService",
    "Patience",
    "RemotePart",
    "ServedPart",
    "ServerLimits",
    "ServiceSettings",
    "Sharing",
    "WireError",
    "WireLimits",
    "add_port",
    "check_finite",
    "check_head",
    "check_target",
    "columns_of",
    "join",
    "join_parts",
    "kept_state_file",
    "named_columns",
    "open_channel",
    "party_pb2",
    "peer_name",
    "read_kept_state",
    "read_value",
    "write_message",
    "write_value",
]
