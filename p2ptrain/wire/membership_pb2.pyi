from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerRecord(_message.Message):
    __slots__ = ("public_key", "swarm", "name", "slot", "addresses", "dht", "certificate", "sequence", "expires_unix_ms")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SWARM_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    DHT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    swarm: str
    name: str
    slot: int
    addresses: _containers.RepeatedScalarFieldContainer[str]
    dht: _containers.RepeatedScalarFieldContainer[str]
    certificate: bytes
    sequence: int
    expires_unix_ms: int
    def __init__(self, public_key: _Optional[bytes] = ..., swarm: _Optional[str] = ..., name: _Optional[str] = ..., slot: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ..., dht: _Optional[_Iterable[str]] = ..., certificate: _Optional[bytes] = ..., sequence: _Optional[int] = ..., expires_unix_ms: _Optional[int] = ...) -> None: ...

class SignedRecord(_message.Message):
    __slots__ = ("record", "signature", "membership")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    signature: bytes
    membership: bytes
    def __init__(self, record: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., membership: _Optional[bytes] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("record", "state", "step", "view", "now_unix_ms", "epoch")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Beat.State]
        STATE_STARTING: _ClassVar[Beat.State]
        STATE_TRAINING: _ClassVar[Beat.State]
        STATE_FINISHED: _ClassVar[Beat.State]
        STATE_LEAVING: _ClassVar[Beat.State]
        STATE_DONE: _ClassVar[Beat.State]
    STATE_UNSPECIFIED: Beat.State
    STATE_STARTING: Beat.State
    STATE_TRAINING: Beat.State
    STATE_FINISHED: Beat.State
    STATE_LEAVING: Beat.State
    STATE_DONE: Beat.State
    RECORD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    record: SignedRecord
    state: Beat.State
    step: int
    view: bytes
    now_unix_ms: int
    epoch: int
    def __init__(self, record: _Optional[_Union[SignedRecord, _Mapping]] = ..., state: _Optional[_Union[Beat.State, str]] = ..., step: _Optional[int] = ..., view: _Optional[bytes] = ..., now_unix_ms: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class PeersRequest(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, known: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PeersReply(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[SignedRecord]
    def __init__(self, records: _Optional[_Iterable[_Union[SignedRecord, _Mapping]]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("config",)
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    config: str
    def __init__(self, config: _Optional[str] = ...) -> None: ...
