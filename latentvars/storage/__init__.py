"""Values as files: JSON and safetensors, whole or not at all. Nothing is pickled, and nothing is imported by name."""

from latentvars.storage.describe import Json, Registry, Undescribed, class_name, decode, encode
from latentvars.storage.digests import digest
from latentvars.storage.files import Kind, read_fit, read_folder, write_fit, write_folder
from latentvars.storage.rows import decode_rows, encode_rows

__all__ = [
    "Json",
    "Kind",
    "Registry",
    "Undescribed",
    "class_name",
    "decode",
    "decode_rows",
    "digest",
    "encode",
    "encode_rows",
    "read_fit",
    "read_folder",
    "write_fit",
    "write_folder",
]
