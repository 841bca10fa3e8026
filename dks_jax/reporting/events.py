"""Writes event files for TensorBoard.

A file is a sequence of TFRecords, each of them an `Event` protocol buffer, as defined by TensorFlow's
record_writer.h, event.proto and summary.proto. This module encodes them itself because importing tensorboardX
also imports PyTorch if that is installed, which takes seconds.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from dks_jax.runtime.files import naming

# The numbers of the fields of Event, Summary, Summary.Value and SessionLog; START is a value of STATUS.
WALL_TIME, STEP, FILE_VERSION, SUMMARY, SESSION_LOG = 1, 2, 3, 5, 7
VALUE = 1
TAG, SIMPLE_VALUE = 1, 2
STATUS, START = 1, 1


class EventFile:
    """A new event file in `folder`; TensorBoard discards the events of earlier files from `step` on."""

    def __init__(self, folder: Path, step: int):
        self._path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._append(_text(FILE_VERSION, b"brain.Event:2"))
        self._append(_integer(STEP, step) + _text(SESSION_LOG, _integer(STATUS, START)))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step, by tag."""
        values = [_text(TAG, tag.encode()) + _float32(SIMPLE_VALUE, value) for tag, value in scalars.items()]
        summary = b"".join(_text(VALUE, value) for value in values)
        self._append(_integer(STEP, step) + _text(SUMMARY, summary))

    def _append(self, event: bytes) -> None:
        event = _float64(WALL_TIME, time.time()) + event
        length = struct.pack("<Q", len(event))
        with naming(self._path), self._path.open("ab") as file:
            file.write(length + _masked_checksum(length) + event + _masked_checksum(event))


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float64(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _text(field: int, content: bytes) -> bytes:
    """A field with a text or with a nested message."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _float32(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    """Encodes an integer in seven bits per byte, lowest first; the eighth bit is set in all but the last."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _masked_checksum(content: bytes) -> bytes:
    checksum = _crc32c(content)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc32c(content: bytes) -> int:
    """The CRC-32C (Castagnoli) checksum of RFC 3720, bit by bit, which suffices for events of a kilobyte."""
    checksum = 0xFFFFFFFF
    for byte in content:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF
