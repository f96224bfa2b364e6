"""A new issuer key, put in place as docs/how-to/key-ceremony.md says under "Rotation"."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_client.uploader import SealedUploader
from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.encoding import b64url
from fl_server.stack import LocalStack, StackSettings
from fl_server.stack.keys import ISSUER_KEY
from tests.support.sealed import RECIPE, K, client, open_run, trained


def refused(uploader: SealedUploader, run: str) -> bool:
    with pytest.raises(EnvelopeRejected) as refusal:
        uploader.upload(trained(run, 1.0))
    return refusal.value.code == Code.ENV_MEMBERSHIP


def test_the_enclave_believes_the_key_that_its_policy_names(tmp_path: Path) -> None:
    with LocalStack(tmp_path, StackSettings(recipe=RECIPE, k=K)) as stack:
        open_run(stack, "first")
        client(stack, "before").upload(trained("first", 1.0))

        # The file alone: who holds the old key is as good a member as ever.
        key = os.urandom(32)
        (stack.state_dir / ISSUER_KEY).write_bytes(key)
        stack.restart_launcher()
        stack.restart_gateway()
        open_run(stack, "second")
        client(stack, "before").upload(trained("second", 1.0))
        assert refused(client(stack, "after"), "second")

        # And the policy.
        public = Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
        launcher = json.loads(stack._files.config_path.read_text())
        launcher["policy"]["issuer_key"] = b64url(public)
        stack._files.config_path.write_text(json.dumps(launcher))
        stack._files.policy = replace(stack._files.policy, issuer_key=b64url(public))
        stack.restart_launcher()
        stack.restart_gateway()
        open_run(stack, "third")
        client(stack, "later").upload(trained("third", 1.0))
        assert refused(client(stack, "before"), "third")
