# What each does: its twin in `_protocol/masking.py` or `_protocol/codec.py`.

def mask(data: bytes | bytearray | memoryview, key: bytes | bytearray, /) -> bytes: ...
def read_frames(
    data: bytes | bytearray | memoryview,
    start: int,
    masked: bool,
    limit: int,
    compressed_limit: int,
    max_messages: int,
    max_bytes: int,
    /,
) -> tuple[list[str | bytes | tuple[int, bytes]], int, int]: ...
def build_frame(first: int, payload: bytes, key: bytes | None, /) -> bytes: ...
