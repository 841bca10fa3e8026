"""Event files, as tensorboardX's protocol buffers read them."""

import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from dks_jax import events


def read(path):
    content, found = path.read_bytes(), []
    while content:
        length, checksum = struct.unpack("<QI", content[:12])
        event, (event_checksum,) = content[12 : 12 + length], struct.unpack_from("<I", content, 12 + length)
        assert (checksum, event_checksum) == (masked_crc32c(content[:8]), masked_crc32c(event))
        found.append(Event.FromString(event))
        content = content[16 + length :]
    return found


def test_the_checksum_is_that_of_rfc_3720():
    # Its section B.4; the last is the usual check value.
    assert events.crc32c(bytes(32)) == 0x8A9136AA
    assert events.crc32c(bytes([0xFF] * 32)) == 0x62A8AB43
    assert events.crc32c(b"123456789") == 0xE3069283


def test_events_are_read_as_they_were_written(tmp_path):
    scalars = {"train/loss": 1.5, "train/kl/main_to_branch1": -0.25, "t" * 200: 0.0}
    file = events.EventFile(tmp_path, step=301)
    file.add(301, scalars)
    file.add(2**31, {})
    (path,) = tmp_path.glob("events.out.tfevents.*")
    version, start, first, second = read(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (301, SessionLog.START)
    assert (first.step, {value.tag: value.simple_value for value in first.summary.value}) == (301, scalars)
    assert (second.step, list(second.summary.value)) == (2**31, [])
    assert version.wall_time <= start.wall_time <= first.wall_time <= second.wall_time
