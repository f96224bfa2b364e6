"""The report of an Intel TDX trust domain.

Sources: Intel TDX DCAP Quoting Library API, appendix A, "TD Quote Body" (1.0: 584 bytes; 1.5: 648);
Intel TDX Module Base Architecture Specification, "TD Attributes".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from tee_sim.quotes.facts import RESERVED_ATTRIBUTE, SEPT_VE
from tee_sim.quotes.reader import Reader

REPORT_10_BYTES, REPORT_15_BYTES = 584, 648

# Bits 0 to 7 of TDATTRIBUTES are the group "TD under debug", 29 is MIGRATABLE.
_UNDER_DEBUG, _MIGRATABLE = 0xFF, 1 << 29
_SEPT_VE_DISABLE = 1 << 28
# LASS, PKS, KL and PERFMON are features of the processor for the workload itself. Of the others,
# some have a meaning for special trust domains (16 ICSSD, 62 TPA) and the rest none yet.
_FEATURES = 1 << 27 | 1 << 30 | 1 << 31 | 1 << 63
_ZERO = "00" * 48


@dataclass(frozen=True)
class TdReport:
    """What the TDX module states about a trust domain; digests in hexadecimal."""

    tee_tcb_svn: bytes
    mr_seam: str
    mr_signer_seam: str
    seam_attributes: int
    attributes: int
    mr_td: str
    mr_config_id: str
    mr_owner: str
    mr_owner_config: str
    rtmr: tuple[str, str, str, str]
    report_data: bytes
    mr_service_td: str = _ZERO

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read 584 or 648 bytes; raises ValueError."""
        reader = Reader(data)
        tee_tcb_svn = reader.take(16)
        mr_seam, mr_signer_seam = reader.hexadecimal(48), reader.hexadecimal(48)
        seam_attributes, attributes = reader.number(8), reader.number(8)
        reader.take(8)  # XFAM
        mr_td, mr_config_id = reader.hexadecimal(48), reader.hexadecimal(48)
        mr_owner, mr_owner_config = reader.hexadecimal(48), reader.hexadecimal(48)
        rtmr = (
            reader.hexadecimal(48),
            reader.hexadecimal(48),
            reader.hexadecimal(48),
            reader.hexadecimal(48),
        )
        report_data = reader.take(64)
        mr_service_td = _ZERO
        if len(data) == REPORT_15_BYTES:
            reader.take(16)  # TEE_TCB_SVN_2, of a module loaded after the launch
            mr_service_td = reader.hexadecimal(48)
        reader.end()
        return cls(
            tee_tcb_svn,
            mr_seam,
            mr_signer_seam,
            seam_attributes,
            attributes,
            mr_td,
            mr_config_id,
            mr_owner,
            mr_owner_config,
            rtmr,
            report_data,
            mr_service_td,
        )

    @property
    def debug(self) -> bool:
        """Whether a debugger or a migration domain may read the memory."""
        return bool(self.attributes & (_UNDER_DEBUG | _MIGRATABLE)) or self.mr_service_td != _ZERO

    @property
    def unsafe_attributes(self) -> tuple[str, ...]:
        """What of the attributes is refused unless a policy allows it, see `Facts`."""
        judged = _UNDER_DEBUG | _SEPT_VE_DISABLE | _MIGRATABLE | _FEATURES
        found = {
            RESERVED_ATTRIBUTE: self.attributes & ~judged,
            SEPT_VE: not self.attributes & _SEPT_VE_DISABLE,
        }
        return tuple(name for name, holds in found.items() if holds)

    @property
    def of_intel_module(self) -> bool:
        """Whether Intel's own module, not under debug itself, made the report."""
        return self.mr_signer_seam == _ZERO and self.seam_attributes == 0

    @property
    def measurement(self) -> str:
        """SHA-384 of MRTD, RTMR0, RTMR1, RTMR2 and RTMR3: firmware alone says nothing of a VM."""
        return hashlib.sha384(bytes.fromhex(self.mr_td + "".join(self.rtmr))).hexdigest()

    @property
    def security_version(self) -> int:
        """Security version of the TDX module."""
        return self.tee_tcb_svn[0]

    @property
    def code_signers(self) -> tuple[str, ...]:
        """Nobody: a trust domain is measured and not signed."""
        return ()

    def tcb(self) -> dict[str, int]:
        """Return the sixteen components of TEE_TCB_SVN."""
        return {f"tdx_svn_{n:02}": svn for n, svn in enumerate(self.tee_tcb_svn, 1)}

    def registers(self) -> dict[str, str]:
        """Return the measured values by name."""
        return {
            "td_attributes": f"{self.attributes:016x}",
            "mr_td": self.mr_td,
            **{f"rtmr{n}": value for n, value in enumerate(self.rtmr)},
            "mr_config_id": self.mr_config_id,
            "mr_owner": self.mr_owner,
            "mr_owner_config": self.mr_owner_config,
            "mr_seam": self.mr_seam,
            "mr_service_td": self.mr_service_td,
        }
