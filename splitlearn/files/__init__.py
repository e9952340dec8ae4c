"""Writing files and folders whole or not at all, and hidden folders for work under way."""

from splitlearn.files.system_errors import ReadError, refusal_to_read, system_error_of
from splitlearn.files.temporary import claim_folder, release_all_folders, remove_leftovers
from splitlearn.files.writing import (
    WriteError,
    check_room,
    check_writable,
    explain_full_disk,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)

__all__ = [
    "ReadError",
    "WriteError",
    "check_room",
    "check_writable",
    "claim_folder",
    "explain_full_disk",
    "refusal_to_read",
    "release_all_folders",
    "remove_leftovers",
    "system_error_of",
    "whole_file",
    "whole_folder",
    "write_json",
    "write_text",
]
