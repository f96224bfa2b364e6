"""Fill in envoy.yaml: ``python deploy/envoy/render.py --help``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from string import Template

_TEMPLATE = Path(__file__).with_name("envoy.yaml")
_RETRY_AFTER = 250
# What Envoy says of a token it refuses, and the code that a gateway would have answered.
_TOKEN_CODES = {
    "Jwt_is_missing": "TOKEN_MISSING",
    "Jwt_is_expired": "TOKEN_EXPIRED",
    "Jwt_not_yet_valid": "TOKEN_NOT_YET_VALID",
    "Jwt_verification_fails": "TOKEN_SIGNATURE",
    "Jwks_doesn't_have_key": "TOKEN_UNKNOWN_KEY",
    "Audiences_in_Jwt": "TOKEN_CLAIMS",
    "Jwt_issuer": "TOKEN_CLAIMS",
}


def render(
    *,
    gateways: list[str],
    listen: str,
    federation: str,
    certificate: Path,
    key: Path,
    gateway_ca: Path,
    jwks: Path,
    admin: Path,
    gateway_name: str = "localhost",
    rate: int = 500,
    burst: int = 1000,
    address_rate: int = 50,
    address_burst: int = 200,
    most_requests: int = 512,
    most_connections: int = 2048,
) -> str:
    """Return the configuration of one Envoy.

    Parameters
    ----------
    gateways : list of str
        "address:port" of each.
    listen : str
        "address:port" for the nodes.
    federation : str
        Its name, as in the gateways' settings.
    certificate, key : Path
        PEM files that the nodes see.
    gateway_ca : Path
        PEM certificates of the authority of the gateways' certificates.
    jwks : Path
        Their key set; a new file put in its place is read at once.
    admin : Path
        Unix socket for the administration interface; one for the key set is made beside it.
    gateway_name : str
        DNS name in the gateways' certificates.
    rate, burst : int
        Calls a second of all nodes together, and how many of them at once after a quiet time.
    address_rate, address_burst : int
        The same of one address; for many nodes behind one, as much more.
    most_requests, most_connections : int
        Calls under way at the gateways, connections of nodes.
    """
    host, port = _split(listen)
    return Template(_TEMPLATE.read_text()).substitute(
        admin=_text(admin),
        listen_host=_text(host),
        listen_port=port,
        certificate=_text(certificate),
        key=_text(key),
        gateway_ca=_text(gateway_ca),
        gateway_name=_text(gateway_name),
        issuer=_text(f"asynclave:{federation}"),
        audience=_text(f"asynclave-gateway:{federation}"),
        jwks=_text(jwks),
        jwks_folder=_text(jwks.parent),
        jwks_socket=_text(admin.with_name("key-set")),
        rate=rate,
        burst=burst,
        address_rate=address_rate,
        address_burst=address_burst,
        retry_after=_RETRY_AFTER,
        most_requests=most_requests,
        most_connections=most_connections,
        endpoints="\n".join(f"        - {_endpoint(gateway)}" for gateway in gateways),
        mappers="\n".join(f"            - {json.dumps(mapper)}" for mapper in _mappers()),
    )


def _mappers() -> list[dict[str, object]]:
    refused = [_mapper(_details(said), code) for said, code in _TOKEN_CODES.items()]
    overflow = _mapper({"response_flag_filter": {"flags": ["UO"]}}, "OVERLOADED", _RETRY_AFTER)
    status = {"comparison": {"op": "EQ", "value": {"default_value": 401, "runtime_key": "none"}}}
    # Everything else that is wrong with a token.
    return [*refused, _mapper({"status_code_filter": status}, "TOKEN_MALFORMED"), overflow]


def _details(said: str) -> dict[str, object]:
    expression = f"response.code_details.contains({json.dumps(said)})"
    kind = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    config = {"@type": kind, "expression": expression}
    name = "envoy.access_loggers.extension_filters.cel"
    return {"extension_filter": {"name": name, "typed_config": config}}


def _mapper(matches: dict[str, object], code: str, retry_after: int = 0) -> dict[str, object]:
    headers = {"asynclave-code": code}
    if retry_after:
        headers["asynclave-retry-after"] = str(retry_after)
    added = [{"header": {"key": key, "value": value}} for key, value in headers.items()]
    return {"filter": matches, "headers_to_add": added}


def _endpoint(gateway: str) -> str:
    host, port = _split(gateway)
    return json.dumps(
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
    )


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _text(value: str | Path) -> str:
    """Quote for YAML, of which JSON is a part."""
    return json.dumps(str(value))


def main(arguments: list[str]) -> None:
    """Print the configuration that the arguments describe."""
    parser = argparse.ArgumentParser(description="Print the configuration of one Envoy.")
    parser.add_argument("--gateway", dest="gateways", action="append", required=True)
    for name in ("listen", "federation"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("certificate", "key", "gateway-ca", "jwks", "admin"):
        parser.add_argument(f"--{name}", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--gateway-name", default="localhost")
    for name in ("rate", "burst", "address-rate", "address-burst"):
        parser.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS)
    print(render(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    main(sys.argv[1:])
