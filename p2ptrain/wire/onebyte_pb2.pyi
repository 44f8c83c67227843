from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Said(_message.Message):
    __slots__ = ("id", "hello", "records", "seal", "question", "answer", "want", "final", "freeze", "snapshot", "fetch", "piece", "closing")
    class Hello(_message.Message):
        __slots__ = ("identity", "key")
        IDENTITY_FIELD_NUMBER: _ClassVar[int]
        KEY_FIELD_NUMBER: _ClassVar[int]
        identity: bytes
        key: bytes
        def __init__(self, identity: _Optional[bytes] = ..., key: _Optional[bytes] = ...) -> None: ...
    class Records(_message.Message):
        __slots__ = ("keys", "batches")
        KEYS_FIELD_NUMBER: _ClassVar[int]
        BATCHES_FIELD_NUMBER: _ClassVar[int]
        keys: _containers.RepeatedScalarFieldContainer[bytes]
        batches: _containers.RepeatedScalarFieldContainer[bytes]
        def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., batches: _Optional[_Iterable[bytes]] = ...) -> None: ...
    class Seal(_message.Message):
        __slots__ = ("round", "log", "master")
        ROUND_FIELD_NUMBER: _ClassVar[int]
        LOG_FIELD_NUMBER: _ClassVar[int]
        MASTER_FIELD_NUMBER: _ClassVar[int]
        round: int
        log: bytes
        master: bytes
        def __init__(self, round: _Optional[int] = ..., log: _Optional[bytes] = ..., master: _Optional[bytes] = ...) -> None: ...
    class Question(_message.Message):
        __slots__ = ("first", "last")
        FIRST_FIELD_NUMBER: _ClassVar[int]
        LAST_FIELD_NUMBER: _ClassVar[int]
        first: _containers.RepeatedScalarFieldContainer[int]
        last: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, first: _Optional[_Iterable[int]] = ..., last: _Optional[_Iterable[int]] = ...) -> None: ...
    class Answer(_message.Message):
        __slots__ = ("hashes",)
        HASHES_FIELD_NUMBER: _ClassVar[int]
        hashes: _containers.RepeatedScalarFieldContainer[bytes]
        def __init__(self, hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...
    class Want(_message.Message):
        __slots__ = ("first", "last", "slots")
        FIRST_FIELD_NUMBER: _ClassVar[int]
        LAST_FIELD_NUMBER: _ClassVar[int]
        SLOTS_FIELD_NUMBER: _ClassVar[int]
        first: int
        last: int
        slots: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ..., slots: _Optional[_Iterable[int]] = ...) -> None: ...
    class Closing(_message.Message):
        __slots__ = ("key", "round", "log", "signature")
        KEY_FIELD_NUMBER: _ClassVar[int]
        ROUND_FIELD_NUMBER: _ClassVar[int]
        LOG_FIELD_NUMBER: _ClassVar[int]
        SIGNATURE_FIELD_NUMBER: _ClassVar[int]
        key: bytes
        round: int
        log: bytes
        signature: bytes
        def __init__(self, key: _Optional[bytes] = ..., round: _Optional[int] = ..., log: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...
    class Final(_message.Message):
        __slots__ = ("key", "number", "log", "master", "signature", "done")
        KEY_FIELD_NUMBER: _ClassVar[int]
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        LOG_FIELD_NUMBER: _ClassVar[int]
        MASTER_FIELD_NUMBER: _ClassVar[int]
        SIGNATURE_FIELD_NUMBER: _ClassVar[int]
        DONE_FIELD_NUMBER: _ClassVar[int]
        key: bytes
        number: int
        log: bytes
        master: bytes
        signature: bytes
        done: bool
        def __init__(self, key: _Optional[bytes] = ..., number: _Optional[int] = ..., log: _Optional[bytes] = ..., master: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., done: _Optional[bool] = ...) -> None: ...
    class Freeze(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Snapshot(_message.Message):
        __slots__ = ("round", "hashes")
        ROUND_FIELD_NUMBER: _ClassVar[int]
        HASHES_FIELD_NUMBER: _ClassVar[int]
        round: int
        hashes: _containers.RepeatedScalarFieldContainer[bytes]
        def __init__(self, round: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...
    class Fetch(_message.Message):
        __slots__ = ("round", "index")
        ROUND_FIELD_NUMBER: _ClassVar[int]
        INDEX_FIELD_NUMBER: _ClassVar[int]
        round: int
        index: int
        def __init__(self, round: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...
    class Piece(_message.Message):
        __slots__ = ("payload",)
        PAYLOAD_FIELD_NUMBER: _ClassVar[int]
        payload: bytes
        def __init__(self, payload: _Optional[bytes] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    FREEZE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    id: int
    hello: Said.Hello
    records: Said.Records
    seal: Said.Seal
    question: Said.Question
    answer: Said.Answer
    want: Said.Want
    final: Said.Final
    freeze: Said.Freeze
    snapshot: Said.Snapshot
    fetch: Said.Fetch
    piece: Said.Piece
    closing: Said.Closing
    def __init__(self, id: _Optional[int] = ..., hello: _Optional[_Union[Said.Hello, _Mapping]] = ..., records: _Optional[_Union[Said.Records, _Mapping]] = ..., seal: _Optional[_Union[Said.Seal, _Mapping]] = ..., question: _Optional[_Union[Said.Question, _Mapping]] = ..., answer: _Optional[_Union[Said.Answer, _Mapping]] = ..., want: _Optional[_Union[Said.Want, _Mapping]] = ..., final: _Optional[_Union[Said.Final, _Mapping]] = ..., freeze: _Optional[_Union[Said.Freeze, _Mapping]] = ..., snapshot: _Optional[_Union[Said.Snapshot, _Mapping]] = ..., fetch: _Optional[_Union[Said.Fetch, _Mapping]] = ..., piece: _Optional[_Union[Said.Piece, _Mapping]] = ..., closing: _Optional[_Union[Said.Closing, _Mapping]] = ...) -> None: ...

class Aired(_message.Message):
    __slots__ = ("key", "identity", "number", "index", "more", "part", "signature")
    KEY_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    identity: bytes
    number: int
    index: int
    more: bool
    part: bytes
    signature: bytes
    def __init__(self, key: _Optional[bytes] = ..., identity: _Optional[bytes] = ..., number: _Optional[int] = ..., index: _Optional[int] = ..., more: _Optional[bool] = ..., part: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...
