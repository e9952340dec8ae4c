"""The messages between two parties (``party_pb2``, generated from ``party.proto``) and the version that both must speak."""

# Raised whenever a message of an older release would be misread.
PROTOCOL_VERSION = 1
# The one method of the service: a bidirectional stream of frames.
CONVERSE = "/splitlearn.parties.v1.Party/Converse"

__all__ = ["CONVERSE", "PROTOCOL_VERSION"]
