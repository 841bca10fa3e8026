"""Event files, as tensorboardX's protocol buffers read them."""

import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from dks_jax.reporting import events
from support.runs import records


def read(folder):
    """The events of the one file in a folder."""
    (path,) = folder.glob("events.out.tfevents.*")
    content, found = path.read_bytes(), []
    while content:
        length, checksum = struct.unpack("<QI", content[:12])
        event, (event_checksum,) = content[12 : 12 + length], struct.unpack_from("<I", content, 12 + length)
        assert (checksum, event_checksum) == (masked_crc32c(content[:8]), masked_crc32c(event))
        found.append(Event.FromString(event))
        content = content[16 + length :]
    return found


def scalars(event):
    return {value.tag: value.simple_value for value in event.summary.value}


def test_events_are_read_as_they_were_written(tmp_path):
    written = {"train/loss": 1.5, "train/kl/main_to_branch1": -0.25, "t" * 200: 0.0}
    file = events.EventFile(tmp_path, step=301)
    file.add(301, written)
    file.add(2**31, {})
    version, start, first, second = read(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (301, SessionLog.START)
    assert (first.step, scalars(first)) == (301, written)
    assert (second.step, scalars(second)) == (2**31, {})
    assert version.wall_time <= start.wall_time <= first.wall_time <= second.wall_time


def test_a_run_leaves_the_figures_of_its_log(unbroken):
    _, _, *found = read(unbroken)
    for line, event in zip(records(unbroken), found, strict=True):
        step, _, split = (line.pop(name) for name in ("step", "epoch", "split"))
        assert event.step == step
        named = {f"{split}/{name.replace('->', '_to_')}": value for name, value in line.items()}
        as_float32 = {name: struct.unpack("<f", struct.pack("<f", value))[0] for name, value in named.items()}
        assert scalars(event) == as_float32
