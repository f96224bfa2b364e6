"""The report of an Intel SGX enclave.

Source: Intel SGX ECDSA Quote Library Reference, appendix A, "Enclave Report Body" (384 bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from tee_sim.quotes.reader import Reader

REPORT_BYTES = 384

_INITIALISED, _DEBUG = 0x1, 0x2


@dataclass(frozen=True)
class SgxReport:
    """What the processor states about an enclave; digests in hexadecimal."""

    attributes: int
    mr_enclave: str
    mr_signer: str
    product_id: int
    security_version: int
    report_data: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read 384 bytes; raises ValueError."""
        reader = Reader(data)
        # CPUSVN, MISCSELECT, reserved, ISVEXTPRODID
        reader.take(16 + 4 + 12 + 16)
        attributes = reader.number(8)
        reader.take(8)  # XFRM
        mr_enclave = reader.hexadecimal(32)
        reader.take(32)
        mr_signer = reader.hexadecimal(32)
        reader.take(32 + 64)  # reserved, CONFIGID
        product_id, security_version = reader.number(2), reader.number(2)
        reader.take(2 + 42 + 16)  # CONFIGSVN, reserved, ISVFAMILYID
        report_data = reader.take(64)
        reader.end()
        if not attributes & _INITIALISED:
            raise ValueError("the enclave is not initialised")
        return cls(attributes, mr_enclave, mr_signer, product_id, security_version, report_data)

    @property
    def debug(self) -> bool:
        """Whether a debugger may read the enclave's memory."""
        return bool(self.attributes & _DEBUG)

    @property
    def unsafe_attributes(self) -> tuple[str, ...]:
        """Nothing: attributes other than debug and initialisation are not judged."""
        return ()

    @property
    def measurement(self) -> str:
        """MRENCLAVE."""
        return self.mr_enclave

    @property
    def code_signers(self) -> tuple[str, ...]:
        """MRSIGNER."""
        return (self.mr_signer,)

    def tcb(self) -> dict[str, int]:
        """Return versions of parts that only this kind of report names."""
        return {}

    def registers(self) -> dict[str, str]:
        """Return the measured values by name."""
        return {
            "mr_enclave": self.mr_enclave,
            "mr_signer": self.mr_signer,
            "isv_prod_id": str(self.product_id),
        }
