"""A trust policy in a TOML file; whatever is not written there is refused."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.files import open_regular, read_regular
from fl_protocol.ports import Disk, LocalDisk
from tee_sim.appraisal import TrustPolicy
from tee_sim.policy import Guardrails
from tee_sim.quotes.facts import AMD_SEV_SNP, INTEL_SGX
from tee_sim.quotes.revocation import MAX_LIST_BYTES, RevocationLists, read_list
from tee_sim.quotes.verifiers import ROOT_KEYS, hardware_verifiers

# Of MRSIGNER (SHA-256), and of an ID key or its author's (SHA-384).
_SIGNER_BYTES = {INTEL_SGX: 32, AMD_SEV_SNP: 48}
_MAX_LISTS = 8
# Lists may stand in the file itself.
_MAX_BYTES = 16 << 20
_PEM = "-----BEGIN X509 CRL-----"
REVOCATION_LISTS_FORM = (
    f"revocation_lists has at most {_MAX_LISTS} files for any of the platforms "
    f"{', '.join(ROOT_KEYS)}."
)


def load_trust(path: Path) -> TrustPolicy:
    """Read the members of `TrustPolicy`, except `verifiers`: those are the hardware ones.

    Raises
    ------
    ConfigInvalid
        The file cannot be read, or a member is unknown or of another type.
    """
    try:
        members = tomllib.loads(read_regular(path, _MAX_BYTES).decode())
        for name, value in members.items():
            if name not in _RULES or not _RULES[name](value):
                known = ", ".join(_RULES)
                raise ValueError(f"{name} is not known or not valid; the settings are {known}")
        for name in ("roots_of_trust", "measurements", "tcb_statuses"):
            members[name] = tuple(members.get(name, ()))
        members["signers"] = listed_signers(members.get("signers", {}))
        named = located_lists(members.get("revocation_lists", {}), path.resolve().parent)
        members["revocation_lists"] = read_lists(named)
        guardrails = Guardrails.from_members(members.pop("guardrails", {}))
        return TrustPolicy(**members, guardrails=guardrails, verifiers=hardware_verifiers())
    except ConfigInvalid as error:
        raise ConfigInvalid(error.code, f"{path}: {error.sentence}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{path}: {error}") from None


def write_trust(path: Path, trust: TrustPolicy, disk: Disk | None = None) -> None:
    """Write what `load_trust` reads, readable for all: a trust policy holds nothing secret."""
    members = {name: getattr(trust, name) for name in _RULES if name != "guardrails"}
    tables = {
        "guardrails": asdict(trust.guardrails),
        "signers": members.pop("signers"),
        "revocation_lists": _written_lists(members.pop("revocation_lists")),
        **{f"minimum_tcb.{name}": parts for name, parts in members.pop("minimum_tcb").items()},
    }
    lines = [_assignment(name, value) for name, value in members.items() if value is not None]
    for name, table in tables.items():
        lines += [f"[{name}]", *(_assignment(*item) for item in table.items())]
    (disk or LocalDisk()).write_atomic(path, "\n".join([*lines, ""]).encode(), 0o644)


def listed_signers(lists: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Return lists as a file has them in the form of `TrustPolicy`."""
    return {platform: tuple(digests) for platform, digests in lists.items()}


def located_lists(named: Mapping[str, Iterable[str]], folder: Path) -> dict[str, list[str]]:
    """Return lists as a file in a folder names them, with each path started from that folder.

    Raises
    ------
    ValueError
        They are not of the form that `is_revocation_lists` describes.
    """
    if not is_revocation_lists(named):
        raise ValueError(REVOCATION_LISTS_FORM)
    return {
        platform: [each if each.startswith(_PEM) else str(folder / each) for each in lists]
        for platform, lists in named.items()
    }


def read_lists(named: Mapping[str, Iterable[str]]) -> dict[str, RevocationLists]:
    """Read revocation lists by their paths; a PEM text stands for itself.

    Raises
    ------
    ConfigInvalid
        One cannot be read, is too large, or is of a kind that `RevocationLists` refuses.
    """
    return {platform: _lists(platform, lists) for platform, lists in named.items()}


def _lists(platform: str, named: Iterable[str]) -> RevocationLists:
    lists = tuple(map(_read_list, named))
    try:
        return RevocationLists(lists)
    except ValueError as error:
        raise _unusable(platform, error) from None


def _read_list(named: str) -> x509.CertificateRevocationList:
    inline = named.startswith(_PEM)
    try:
        return read_list(named.encode() if inline else _content(Path(named)))
    except (OSError, ValueError) as error:
        raise _unusable("a text" if inline else named, error) from None


def _unusable(name: str, error: Exception) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, f"revocation_lists: {name}: {error}")


def _content(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read(MAX_LIST_BYTES + 1)


def _written_lists(lists: Mapping[str, RevocationLists]) -> dict[str, list[str]]:
    return {
        platform: [each.public_bytes(Encoding.PEM).decode() for each in revocation.lists]
        for platform, revocation in lists.items()
    }


def _assignment(name: str, value: object) -> str:
    # Texts, finite numbers, booleans and lists of texts are spelt alike in JSON and TOML, but that
    # TOML knows no surrogates and wants DEL escaped.
    written = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{name} = {'inf' if value == math.inf else written}"


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_truth(value: object) -> bool:
    return type(value) is bool


def _is_texts(value: object) -> bool:
    return type(value) is list and all(map(_is_text, value))


def _is_whole(value: object) -> bool:
    return type(value) is int and value >= 0


def is_signers(value: object) -> bool:
    """Tell whether a value lists digests of signers, for platforms whose code is signed."""
    return (
        type(value) is dict
        and value.keys() <= _SIGNER_BYTES.keys()
        and all(
            _is_texts(digests) and all(_is_digest(each, _SIGNER_BYTES[name]) for each in digests)
            for name, digests in value.items()
        )
    )


def _is_digest(text: str, length: int) -> bool:
    # Zeros stand for nobody.
    return re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", text) is not None and bool(text.strip("0"))


def is_revocation_lists(value: object) -> bool:
    """Tell whether a value names at most eight revocation lists for each of some platforms."""
    return (
        type(value) is dict
        and value.keys() <= ROOT_KEYS.keys()
        and all(_is_texts(lists) and len(lists) <= _MAX_LISTS for lists in value.values())
    )


def is_minimum_tcb(value: object) -> bool:
    """Tell whether a value says least versions of parts, for platforms that there are."""
    return (
        type(value) is dict
        and value.keys() <= ROOT_KEYS.keys()
        and all(
            type(parts) is dict and all(map(_is_whole, parts.values())) for parts in value.values()
        )
    )


_RULES: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "roots_of_trust": _is_texts,
        "simulated_root_pem": _is_text,
        "measurements": _is_texts,
        "signers": is_signers,
        "revocation_lists": is_revocation_lists,
        "min_security_version": _is_whole,
        "minimum_tcb": is_minimum_tcb,
        "tcb_statuses": _is_texts,
        "allow_debug": _is_truth,
        "allow_sept_ve": _is_truth,
        "federation": _is_text,
        "policy_digest": _is_text,
        "guardrails": lambda value: type(value) is dict,
    }
)
