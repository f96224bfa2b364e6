"""Intel's collateral for made-up quotes, under a root that only tests pin."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.quotes import FMSPC, QE_SIGNERS, Vendor

_TIMES = {"issueDate": "2025-06-20T00:00:00Z", "nextUpdate": "2025-07-20T00:00:00Z"}


@dataclass
class CollateralMaker:
    """Writes collateral for SGX quotes of `IntelMaker`; each field can be spoilt."""

    vendor: Vendor
    tcb_status: str = "UpToDate"
    by_root: tuple[int, ...] = ()
    by_middle: tuple[int, ...] = ()
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def make(self) -> str:
        """Return the JSON that `dcap_qvl.QuoteCollateralV3` reads."""
        chain = _pem(self.vendor.signer_of_data(self.key))
        tcb_info, qe_identity = json.dumps(self._tcb_info()), json.dumps(self._qe_identity())
        members = {
            "pck_crl_issuer_chain": _pem((self.vendor.middle, self.vendor.root)),
            "root_ca_crl": self._list("root", self.by_root),
            "pck_crl": self._list("middle", self.by_middle),
            "tcb_info_issuer_chain": chain,
            "tcb_info": tcb_info,
            "tcb_info_signature": self._sign(tcb_info),
            "qe_identity_issuer_chain": chain,
            "qe_identity": qe_identity,
            "qe_identity_signature": self._sign(qe_identity),
        }
        return json.dumps(members)

    def _list(self, issuer: str, serials: tuple[int, ...]) -> str:
        return self.vendor.revocations(issuer, *serials).public_bytes(Encoding.DER).hex()

    def _sign(self, text: str) -> str:
        signature = self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(signature)
        return (r.to_bytes(32) + s.to_bytes(32)).hex()

    def _tcb_info(self) -> dict[str, Any]:
        tcb = {"sgxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0}
        return {
            "id": "SGX",
            "version": 3,
            **_TIMES,
            "fmspc": FMSPC.hex(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 17,
            "tcbLevels": [_level(tcb, self.tcb_status)],
        }

    def _qe_identity(self) -> dict[str, Any]:
        return {
            "id": "QE",
            "version": 2,
            **_TIMES,
            "tcbEvaluationDataNumber": 17,
            "miscselect": "00" * 4,
            "miscselectMask": "ff" * 4,
            "attributes": "01" + "00" * 15,
            "attributesMask": "ff" * 16,
            "mrsigner": QE_SIGNERS["sgx"].hex(),
            "isvprodid": 1,
            "tcbLevels": [_level({"isvsvn": 1}, "UpToDate")],
        }


def _level(tcb: dict[str, Any], status: str) -> dict[str, Any]:
    return {"tcb": tcb, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": status}


def _pem(chain: tuple[x509.Certificate, ...]) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in chain)
