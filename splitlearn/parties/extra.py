"""Refuses, in one sentence, a machine without the packages of the extra ``parties``."""

import os

# Otherwise gRPC writes its own account of every handshake that fails to stderr, beside the sentence of this library.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
_NEEDED = "parties in processes of their own need the packages of an extra: pip install 'splitlearn[parties]'"

try:
    import grpc  # noqa: F401

    import splitlearn.parties.protocol.party_pb2  # noqa: F401
except ImportError as error:
    raise ImportError(f"{_NEEDED} ({error})") from error
# protobuf raises an error of a class of its own where it is older than the generated messages.
except Exception as error:
    raise ImportError(f"{_NEEDED} ({' '.join(str(error).split())})") from error
