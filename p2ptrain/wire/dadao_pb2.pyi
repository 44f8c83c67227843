from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Bounds(_message.Message):
    __slots__ = ("smoothness", "convexity")
    SMOOTHNESS_FIELD_NUMBER: _ClassVar[int]
    CONVEXITY_FIELD_NUMBER: _ClassVar[int]
    smoothness: float
    convexity: float
    def __init__(self, smoothness: _Optional[float] = ..., convexity: _Optional[float] = ...) -> None: ...
