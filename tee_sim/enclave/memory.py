"""What outlives an enclave: which contributions have left it, run by run, in sealed state.

An update must not be in two releases, and the releases of an enclave that has ended cannot be
asked for. So before a release is handed out for the first time, the newest model handed out and
the contributions in all of them are sealed and stored with the platform; a successor opens the run
at that model only, and counts none of these contributions again. What was merged but never handed
out has been seen by nobody, and may be contributed again.

The release itself is sealed and stored before that: whoever was about to receive it when the
enclave died gets it from the successor. Else nobody would have the model at which alone the run may
go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, RunRejected
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.ports import Rng
from fl_protocol.receipts import record_digest
from fl_protocol.signatures import Signed
from tee_sim.channel import Channel, ChannelClosed

KEY_BYTES = 32
MAX_STATE_BYTES = 64 << 20
# AES-GCM at one go takes no more; models beyond it cannot be run under a release memory.
MAX_SEALED_BYTES = (1 << 31) - 1

_NONCE_BYTES, _TAG_BYTES = 12, 16
_MAX_HEAD_BYTES = 8192
_DOMAIN = b"asynclave/release-memory/v1\0"

Contribution: TypeAlias = tuple[int, str, str]
"""Base version, client and update id."""


@dataclass(frozen=True)
class RunMemory:
    """What of a run was handed out.

    Parameters
    ----------
    version : int
        The newest version handed out.
    first_version : int
        The version the run began with.
    digests : Mapping of int to str
        Hex SHA-256 of each model that an update may still start from, the newest included.
    contributions : tuple of Contribution
        Those in releases up to `version`, as far as their base is not too old to be refused.
    release : str
        Chain link of the record of release `version`.
    spent : Mapping of str to int
        Releases up to `version` by client, where the policy has differential privacy.
    privacy : Mapping of str to str
        Its parameters, none without: what a release spends follows from them.
    """

    version: int
    first_version: int
    digests: Mapping[int, str]
    contributions: tuple[Contribution, ...]
    release: str
    spent: Mapping[str, int] = field(default_factory=dict)
    privacy: Mapping[str, str] = field(default_factory=dict)


class Vault(Protocol):
    """Keeps opaque bytes by name; the platform's side is `SealedState`."""

    def load(self, name: str) -> tuple[int, bytes]:
        """Return how often a name was stored and its latest bytes."""
        ...

    def store(self, name: str, sealed: bytes | bytearray) -> None:
        """Keep bytes durably; raises RunRejected ``RUN_MEMORY``."""
        ...


class PlatformVault:
    """The vault at the other end of the enclave's second socket."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def load(self, name: str) -> tuple[int, bytes]:
        """Return how often a name was stored and its latest bytes."""
        return self._ask({"op": "LOAD", "name": name})

    def store(self, name: str, sealed: bytes | bytearray) -> None:
        """Keep bytes durably."""
        self._ask({"op": "STORE", "name": name}, sealed)

    def _ask(self, header: dict[str, Any], body: bytes | bytearray = b"") -> tuple[int, bytes]:
        try:
            self._channel.send(header, body)
            reply = self._channel.receive()
            content = bytearray(reply.body.remaining)
            reply.body.read_into(memoryview(content))
        except ChannelClosed as error:
            raise RunRejected(Code.RUN_MEMORY) from error
        if reply.header.get("ok") is not True:
            raise RunRejected(Code.RUN_MEMORY)
        return reply.header["counter"], bytes(content)


class ReleaseMemory:
    """Seals and opens what is remembered of runs.

    Parameters
    ----------
    vault : Vault
        Where sealed bytes are kept.
    key : bytes
        The image's sealing key, 32 bytes.
    rng : Rng
        Source of nonces.
    """

    def __init__(self, vault: Vault, key: bytes, rng: Rng) -> None:
        self._vault, self._key, self._rng = vault, key, rng
        self._counters: dict[str, int] = {}

    def recall(self, run_id: str) -> RunMemory | None:
        """Return what was kept of a run, None when nothing ever was.

        Raises
        ------
        RunRejected
            ``RUN_MEMORY``: it is damaged, missing, or not of its counter.
        """
        counter, sealed = self._vault.load(_name(run_id))
        if not counter and not sealed:
            # Whoever asks for runs that never were must not fill the memory with their names.
            self._counters.pop(run_id, None)
            return None
        self._counters[run_id] = counter
        try:
            plain = self._opened(sealed, _name(run_id), run_id)
            members = canonical.decode_object(plain, MAX_STATE_BYTES)
            if members["counter"] == counter + 1:
                # The platform ended between storing and counting. Without the count, the next to
                # be sealed would have the same number, and this could be put in its place.
                self._vault.store(_name(run_id), sealed)
                self._counters[run_id] = counter = counter + 1
            if members["counter"] != counter:
                raise ValueError("not of its counter")
            return RunMemory(
                members["version"],
                members["first_version"],
                {version: digest for version, digest in members["digests"]},
                tuple((base, client, update) for base, client, update in members["contributions"]),
                members["release"],
                {client: releases for client, releases in members["spent"]},
                dict(members["privacy"]),
            )
        except (InvalidTag, CanonicalError, KeyError, TypeError, ValueError) as error:
            raise RunRejected(Code.RUN_MEMORY) from error

    def keep(self, run_id: str, memory: RunMemory, release: Signed, model: memoryview) -> None:
        """Seal and store a release, then that it was handed out.

        Parameters
        ----------
        run_id : str
            The run.
        memory : RunMemory
            With the release.
        release : Signed
            Its record.
        model : memoryview
            Its bytes.

        Raises
        ------
        RunRejected
            ``RUN_MEMORY``: it could not be stored, or no successor could read it back; then
            nothing was.
        """
        if run_id not in self._counters:
            self.recall(run_id)
        counter = self._counters.get(run_id, 0) + 1
        members = {
            "counter": counter,
            "version": memory.version,
            "first_version": memory.first_version,
            "digests": [list(item) for item in memory.digests.items()],
            "contributions": [list(contribution) for contribution in memory.contributions],
            "release": memory.release,
            "spent": [list(item) for item in memory.spent.items()],
            "privacy": dict(memory.privacy),
        }
        remembered = canonical.encode(members)
        if len(remembered) > MAX_STATE_BYTES:
            raise RunRejected(
                Code.RUN_MEMORY,
                "Too many contributions could still come again: lower max_staleness or the number "
                "of updates in a release.",
            )
        head = canonical.encode(
            {"payload": b64url(release.payload), "signature": b64url(release.signature)}
        )
        self._store(_release_name(run_id, counter), (head, b"\n", model), run_id)
        # Stored or not, should that fail: recalled first, what comes next gets a number of its own.
        self._counters.pop(run_id, None)
        self._store(_name(run_id), (remembered,), run_id)
        self._counters[run_id] = counter

    def release(self, run_id: str, version: int) -> tuple[Signed, bytes] | None:
        """Return the newest release handed out, its record and its bytes, if it has this version.

        Raises
        ------
        RunRejected
            ``RUN_MEMORY``: it is damaged.
        """
        memory = self.recall(run_id)
        if memory is None or memory.version != version:
            return None
        name = _release_name(run_id, self._counters[run_id])
        _, sealed = self._vault.load(name)
        try:
            head, _, model = self._opened(sealed, name, run_id).partition(b"\n")
            members = canonical.decode_object(head, _MAX_HEAD_BYTES)
            signed = Signed(b64url_decode(members["payload"]), b64url_decode(members["signature"]))
        except (InvalidTag, CanonicalError, KeyError, TypeError, ValueError) as error:
            raise RunRejected(Code.RUN_MEMORY) from error
        return (signed, model) if record_digest(signed) == memory.release else None

    def _store(self, name: str, plain: Sequence[bytes | memoryview], run_id: str) -> None:
        length = sum(len(part) for part in plain)
        if length > MAX_SEALED_BYTES:
            raise RunRejected(Code.RUN_MEMORY)
        nonce = self._rng.bytes(_NONCE_BYTES)
        cipher = Cipher(AES(self._key), GCM(nonce)).encryptor()
        cipher.authenticate_additional_data(_bound_to(name, run_id))
        # A model may be large: it is encrypted straight to where it leaves from.
        sealed = bytearray(_NONCE_BYTES + length + _TAG_BYTES)
        sealed[:_NONCE_BYTES], at = nonce, _NONCE_BYTES
        for part in plain:
            at += cipher.update_into(part, memoryview(sealed)[at:])
        cipher.finalize()
        sealed[at:] = cipher.tag
        self._vault.store(name, sealed)

    def _opened(self, sealed: bytes, name: str, run_id: str) -> bytes:
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return AESGCM(self._key).decrypt(nonce, ciphertext, _bound_to(name, run_id))


def _name(run_id: str) -> str:
    return hashlib.sha256(run_id.encode()).hexdigest()


def _release_name(run_id: str, counter: int) -> str:
    # Two in turn, whichever versions are handed out: the one before stays whole until the memory
    # names its successor.
    return hashlib.sha256(f"{counter % 2} {run_id}".encode()).hexdigest()


def _bound_to(name: str, run_id: str) -> bytes:
    return _DOMAIN + name.encode() + run_id.encode()
