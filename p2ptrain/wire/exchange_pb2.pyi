from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SwapMessage(_message.Message):
    __slots__ = ("open", "chunk", "ready", "commit", "done", "refuse")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    chunk: Chunk
    ready: Ready
    commit: Commit
    done: Done
    refuse: Refuse
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., refuse: _Optional[_Union[Refuse, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("exchange", "run", "model", "size", "chunk_size", "codec", "step", "seed", "have", "account", "statement", "round")
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    exchange: bytes
    run: str
    model: bytes
    size: int
    chunk_size: int
    codec: str
    step: int
    seed: int
    have: int
    account: bytes
    statement: Statement
    round: int
    def __init__(self, exchange: _Optional[bytes] = ..., run: _Optional[str] = ..., model: _Optional[bytes] = ..., size: _Optional[int] = ..., chunk_size: _Optional[int] = ..., codec: _Optional[str] = ..., step: _Optional[int] = ..., seed: _Optional[int] = ..., have: _Optional[int] = ..., account: _Optional[bytes] = ..., statement: _Optional[_Union[Statement, _Mapping]] = ..., round: _Optional[int] = ...) -> None: ...

class Statement(_message.Message):
    __slots__ = ("key", "number", "digest", "signature")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    number: int
    digest: bytes
    signature: bytes
    def __init__(self, key: _Optional[bytes] = ..., number: _Optional[int] = ..., digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("index", "payload", "padding")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    index: int
    payload: bytes
    padding: bytes
    def __init__(self, index: _Optional[int] = ..., payload: _Optional[bytes] = ..., padding: _Optional[bytes] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Commit(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Refuse(_message.Message):
    __slots__ = ("reason", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    detail: str
    def __init__(self, reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Heard(_message.Message):
    __slots__ = ("digests", "proven")
    class Digest(_message.Message):
        __slots__ = ("peer", "number", "digest")
        PEER_FIELD_NUMBER: _ClassVar[int]
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        DIGEST_FIELD_NUMBER: _ClassVar[int]
        peer: bytes
        number: int
        digest: bytes
        def __init__(self, peer: _Optional[bytes] = ..., number: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...
    class Proven(_message.Message):
        __slots__ = ("peer", "number")
        PEER_FIELD_NUMBER: _ClassVar[int]
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        peer: bytes
        number: int
        def __init__(self, peer: _Optional[bytes] = ..., number: _Optional[int] = ...) -> None: ...
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    PROVEN_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedCompositeFieldContainer[Heard.Digest]
    proven: _containers.RepeatedCompositeFieldContainer[Heard.Proven]
    def __init__(self, digests: _Optional[_Iterable[_Union[Heard.Digest, _Mapping]]] = ..., proven: _Optional[_Iterable[_Union[Heard.Proven, _Mapping]]] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("statements", "proofs")
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    PROOFS_FIELD_NUMBER: _ClassVar[int]
    statements: _containers.RepeatedCompositeFieldContainer[Statement]
    proofs: _containers.RepeatedCompositeFieldContainer[Proof]
    def __init__(self, statements: _Optional[_Iterable[_Union[Statement, _Mapping]]] = ..., proofs: _Optional[_Iterable[_Union[Proof, _Mapping]]] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("one", "other")
    ONE_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    one: Statement
    other: Statement
    def __init__(self, one: _Optional[_Union[Statement, _Mapping]] = ..., other: _Optional[_Union[Statement, _Mapping]] = ...) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("exchange",)
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    exchange: bytes
    def __init__(self, exchange: _Optional[bytes] = ...) -> None: ...

class ResolveReply(_message.Message):
    __slots__ = ("outcome",)
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[ResolveReply.Outcome]
        OUTCOME_COMMITTED: _ClassVar[ResolveReply.Outcome]
        OUTCOME_ABORTED: _ClassVar[ResolveReply.Outcome]
    OUTCOME_UNSPECIFIED: ResolveReply.Outcome
    OUTCOME_COMMITTED: ResolveReply.Outcome
    OUTCOME_ABORTED: ResolveReply.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: ResolveReply.Outcome
    def __init__(self, outcome: _Optional[_Union[ResolveReply.Outcome, str]] = ...) -> None: ...
