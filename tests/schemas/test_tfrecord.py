"""Framing against TensorFlow's reader and writer, and against damage."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskmill.schemas.errors import DamageError
from maskmill.schemas.tfrecord import frame, read_records


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_what_is_framed_is_read(payloads):
    stream = io.BytesIO(b"".join(map(frame, payloads)))
    assert list(read_records(stream)) == payloads


def test_tensorflow_reads_and_writes_the_same_bytes(tmp_path):
    tf = pytest.importorskip("tensorflow")
    payloads = [b"", b"a", b"x" * 100_000]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_bytes(b"".join(map(frame, payloads)))
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in payloads:
            writer.write(payload)
    assert ours.read_bytes() == theirs.read_bytes()
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(ours))] == payloads


@given(st.integers(0, 45), st.integers(0, 7))
def test_any_flipped_bit_is_found(byte, bit):
    data = bytearray(frame(b"first record") + frame(b"second"))
    byte %= len(data)
    data[byte] ^= 1 << bit
    with pytest.raises(DamageError, match=r"shard-7: record [01] at byte (0|28)"):
        list(read_records(io.BytesIO(bytes(data)), "shard-7"))


@given(st.integers(1, 27))
def test_a_file_cut_anywhere_is_found(length):
    with pytest.raises(DamageError, match="the file ends inside the record"):
        list(read_records(io.BytesIO(frame(b"first record")[:length])))


def test_an_absurd_length_is_refused_before_memory_is_taken():
    import struct

    from maskmill.schemas.tfrecord import masked_crc

    length = struct.pack("<Q", 1 << 60)
    with pytest.raises(DamageError, match="beyond the limit"):
        list(read_records(io.BytesIO(length + struct.pack("<I", masked_crc(length)))))
