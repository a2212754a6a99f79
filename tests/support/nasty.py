"""What becomes of the nasty files: the reason owed to each that cannot be a record."""

# What the manifest of the collection says each file is, as the reason we owe it; every other file must become a record.
NASTY = {
    "truncated_jpeg.jpg": "truncated",
    "truncated_image.png": "truncated",
    "truncated_end_chunk.png": "truncated",
    "incomplete_image.jpg": "truncated",
    "missing-sof.jpg": "truncated",
    "40bb78b1ac031125a6d8466b374962a8.jpg": "decode_error",
    "broken_data_stream.png": "decode_error",
    "broken.png": "decode_error",
    "null_height.jpg": "decode_error",
    "decompression_bomb.gif": "too_large",
    "max_size.jpg": "too_large",
    "empty.jpg": "empty_file",
    "jpeg_lossless_sel2.jpg": "unsupported_format",
}
