from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class FreezeRequest(_message.Message):
    __slots__ = ("run", "model", "final")
    RUN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    run: str
    model: bytes
    final: bool
    def __init__(self, run: _Optional[str] = ..., model: _Optional[bytes] = ..., final: _Optional[bool] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("snapshot", "step", "size", "chunk_size", "hashes")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    snapshot: bytes
    step: int
    size: int
    chunk_size: int
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, snapshot: _Optional[bytes] = ..., step: _Optional[int] = ..., size: _Optional[int] = ..., chunk_size: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("snapshot", "index")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    snapshot: bytes
    index: int
    def __init__(self, snapshot: _Optional[bytes] = ..., index: _Optional[int] = ...) -> None: ...

class FetchReply(_message.Message):
    __slots__ = ("payload",)
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    def __init__(self, payload: _Optional[bytes] = ...) -> None: ...
