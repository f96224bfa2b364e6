from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("ticket", "identity_key", "proof_key", "signature")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_KEY_FIELD_NUMBER: _ClassVar[int]
    PROOF_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ticket: str
    identity_key: bytes
    proof_key: bytes
    signature: bytes
    def __init__(self, ticket: _Optional[str] = ..., identity_key: _Optional[bytes] = ..., proof_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("client_id", "membership", "refresh_token")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    REFRESH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    membership: bytes
    refresh_token: str
    def __init__(self, client_id: _Optional[str] = ..., membership: _Optional[bytes] = ..., refresh_token: _Optional[str] = ...) -> None: ...

class IdentityGrant(_message.Message):
    __slots__ = ("iat", "nonce", "signature")
    IAT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    iat: int
    nonce: bytes
    signature: bytes
    def __init__(self, iat: _Optional[int] = ..., nonce: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class TokenRequest(_message.Message):
    __slots__ = ("client_id", "refresh_token", "identity", "proof_key")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    REFRESH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PROOF_KEY_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    refresh_token: str
    identity: IdentityGrant
    proof_key: bytes
    def __init__(self, client_id: _Optional[str] = ..., refresh_token: _Optional[str] = ..., identity: _Optional[_Union[IdentityGrant, _Mapping]] = ..., proof_key: _Optional[bytes] = ...) -> None: ...

class TokenReply(_message.Message):
    __slots__ = ("access_token", "refresh_token", "expires_in")
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REFRESH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    refresh_token: str
    expires_in: int
    def __init__(self, access_token: _Optional[str] = ..., refresh_token: _Optional[str] = ..., expires_in: _Optional[int] = ...) -> None: ...

class KeysRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KeysReply(_message.Message):
    __slots__ = ("jwks_json",)
    JWKS_JSON_FIELD_NUMBER: _ClassVar[int]
    jwks_json: str
    def __init__(self, jwks_json: _Optional[str] = ...) -> None: ...

class EvidenceRequest(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class EvidenceReply(_message.Message):
    __slots__ = ("evidence",)
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    evidence: bytes
    def __init__(self, evidence: _Optional[bytes] = ...) -> None: ...

class OpenRunHeader(_message.Message):
    __slots__ = ("run_id", "layout_json", "recipe_json", "length", "version", "join")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_JSON_FIELD_NUMBER: _ClassVar[int]
    RECIPE_JSON_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    layout_json: str
    recipe_json: str
    length: int
    version: int
    join: bool
    def __init__(self, run_id: _Optional[str] = ..., layout_json: _Optional[str] = ..., recipe_json: _Optional[str] = ..., length: _Optional[int] = ..., version: _Optional[int] = ..., join: _Optional[bool] = ...) -> None: ...

class OpenRunRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: OpenRunHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[OpenRunHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class SignedRecord(_message.Message):
    __slots__ = ("payload", "signature")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    signature: bytes
    def __init__(self, payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class OpenRunReply(_message.Message):
    __slots__ = ("version", "epoch", "opening")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    version: int
    epoch: int
    opening: SignedRecord
    def __init__(self, version: _Optional[int] = ..., epoch: _Optional[int] = ..., opening: _Optional[_Union[SignedRecord, _Mapping]] = ...) -> None: ...

class SubmitHeader(_message.Message):
    __slots__ = ("protected", "wrap", "tags", "signature", "membership")
    PROTECTED_FIELD_NUMBER: _ClassVar[int]
    WRAP_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    protected: bytes
    wrap: bytes
    tags: bytes
    signature: bytes
    membership: bytes
    def __init__(self, protected: _Optional[bytes] = ..., wrap: _Optional[bytes] = ..., tags: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., membership: _Optional[bytes] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("header", "segment")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    header: SubmitHeader
    segment: bytes
    def __init__(self, header: _Optional[_Union[SubmitHeader, _Mapping]] = ..., segment: _Optional[bytes] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("payload", "signature")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    signature: bytes
    def __init__(self, payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class UpdateStatusRequest(_message.Message):
    __slots__ = ("run_id", "update_id", "nonce")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    UPDATE_ID_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    update_id: str
    nonce: bytes
    def __init__(self, run_id: _Optional[str] = ..., update_id: _Optional[str] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class UpdateStatusReply(_message.Message):
    __slots__ = ("status", "receipt")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    status: SignedRecord
    receipt: SignedRecord
    def __init__(self, status: _Optional[_Union[SignedRecord, _Mapping]] = ..., receipt: _Optional[_Union[SignedRecord, _Mapping]] = ...) -> None: ...

class GetReleaseRequest(_message.Message):
    __slots__ = ("run_id", "version")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    version: int
    def __init__(self, run_id: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ReleaseHeader(_message.Message):
    __slots__ = ("payload", "signature", "length")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    signature: bytes
    length: int
    def __init__(self, payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., length: _Optional[int] = ...) -> None: ...

class ReleaseChunk(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: ReleaseHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[ReleaseHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class GetRecordsRequest(_message.Message):
    __slots__ = ("from_seq",)
    FROM_SEQ_FIELD_NUMBER: _ClassVar[int]
    from_seq: int
    def __init__(self, from_seq: _Optional[int] = ...) -> None: ...

class RecordsReply(_message.Message):
    __slots__ = ("records", "head")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[SignedRecord]
    head: SignedRecord
    def __init__(self, records: _Optional[_Iterable[_Union[SignedRecord, _Mapping]]] = ..., head: _Optional[_Union[SignedRecord, _Mapping]] = ...) -> None: ...
