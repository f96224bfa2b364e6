"""What Intel says today about a platform: revocation lists, TCB info, quoting enclave's identity.

The judgement is left to the library ``dcap-qvl`` (extra ``dcap``); it is only loaded when
collateral is given.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from fl_protocol.codes import Code, ConfigInvalid, EvidenceRejected

# The library has one type of error, so only its words tell one refusal from another. "Revoked"
# alone would not do: it is a status, too, and named where another one cannot be read.
_CODES = (
    ("tcb status is invalid", Code.EVIDENCE_TCB_STATUS),
    ("certrevoked", Code.EVIDENCE_REVOKED),
    ("expired", Code.EVIDENCE_EXPIRED),
    ("in the future", Code.EVIDENCE_EXPIRED),
)


@dataclass(frozen=True)
class TcbStatus:
    """Intel's judgement of a platform.

    Parameters
    ----------
    status : str
        "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "OutOfDate" and combinations.
    advisories : tuple of str
        Intel's security advisories that apply, as "INTEL-SA-00615".
    """

    status: str
    advisories: tuple[str, ...]


def tcb_status(quote: bytes, collateral: str, now: float) -> TcbStatus:
    """Judge an Intel quote by collateral, with Intel's root as the library pins it.

    Parameters
    ----------
    quote : bytes
        SGX or TDX quote.
    collateral : str
        JSON object with the members of ``dcap_qvl.QuoteCollateralV3``.
    now : float
        Unix seconds.

    Raises
    ------
    EvidenceRejected
        ``EVIDENCE_EXPIRED``: the collateral is not of this time. ``EVIDENCE_REVOKED``: it lists a
        certificate as revoked. ``EVIDENCE_TCB_STATUS``: Intel has revoked the platform's TCB.
        ``EVIDENCE_CHAIN``: it does not vouch for the quote.
    ConfigInvalid
        The collateral cannot be read, or the library is not installed.
    """
    try:
        dcap_qvl = importlib.import_module("dcap_qvl")
    except ImportError:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, "Collateral needs the extra: pip install 'asynclave[dcap]'."
        ) from None
    try:
        read = dcap_qvl.QuoteCollateralV3.from_json(collateral)
    except ValueError as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"The collateral: {error}.") from None
    try:
        report = dcap_qvl.verify(quote, read, int(now))
    except ValueError as error:
        raise EvidenceRejected(
            _code(str(error)), f"The collateral does not hold: {error}."
        ) from error
    return TcbStatus(report.status, tuple(report.advisory_ids))


def _code(sentence: str) -> Code:
    said = sentence.lower()
    return next((code for words, code in _CODES if words in said), Code.EVIDENCE_CHAIN)
