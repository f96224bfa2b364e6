"""Evidence of real hardware: Intel SGX and TDX quotes, AMD SEV-SNP reports.

One file per format, `chains` for the vendors' certificates, `verifiers` for the seam that
appraisal uses. The enclave itself never loads this package.
"""
