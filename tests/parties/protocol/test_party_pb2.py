"""The generated messages are those of ``party.proto``."""

from __future__ import annotations

import re
from pathlib import Path

from splitlearn.parties import CONVERSE, party_pb2, protocol

PROTO = Path(protocol.__file__).with_name("party.proto")


def fields_of_the_file() -> dict[str, dict[str, int]]:
    """Name and number of each field, by the message's name, from the text of the file."""
    text, empty = PROTO.read_text(), r"^message (\w+) \{\}$"
    messages: dict[str, dict[str, int]] = {name: {} for name in re.findall(empty, text, re.MULTILINE)}
    whole = re.sub(empty, "", text, flags=re.MULTILINE)
    for name, body in re.findall(r"^message (\w+) \{(.*?)^\}", whole, re.MULTILINE | re.DOTALL):
        messages[name] = {field: int(number) for field, number in re.findall(r"(\w+) = (\d+);", body)}
    return messages


def test_the_generated_module_is_of_this_file() -> None:
    """Whoever changes the file and does not generate the module anew sees it here."""
    described = {
        name: {field.name: field.number for field in message.fields}
        for name, message in party_pb2.DESCRIPTOR.message_types_by_name.items()
    }
    written = fields_of_the_file()
    assert len(written) > 30
    assert described == written
    kinds = dict(re.findall(r"^  (ERROR_KIND_\w+) = (\d+);", PROTO.read_text(), re.MULTILINE))
    assert {name: str(number) for name, number in party_pb2.ErrorKind.items()} == kinds


def test_the_method_is_the_services() -> None:
    (service,) = party_pb2.DESCRIPTOR.services_by_name.values()
    (method,) = service.methods
    assert f"/{service.full_name}/{method.name}" == CONVERSE


def test_no_service_is_generated() -> None:
    """Handlers are generic: frames are bytes already."""
    assert not list(PROTO.parent.glob("*_grpc.py*"))
