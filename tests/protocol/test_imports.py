import subprocess
import sys

ENCLAVE_MODULES = "canonical, codes, envelope, membership, ports, receipts, records, signatures"


def test_enclave_modules_load_neither_grpc_nor_jose():
    script = (
        f"import sys; from fl_protocol import {ENCLAVE_MODULES}; "
        "print([name for name in ('grpc', 'google.protobuf', 'joserfc', 'numpy') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
