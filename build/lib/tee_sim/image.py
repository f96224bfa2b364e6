"""The enclave's code as one reproducible, measured file.

The image is an uncompressed zip archive of exactly the modules the enclave's entry reaches, with
fixed order, dates and permissions, plus a manifest with the versions and content digests of the
installed dependencies. Its SHA-384 is the measurement. The interpreter, the C library and cached
bytecode of the dependencies belong to the platform and are not measured.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fl_protocol import canonical

ENTRY = "tee_sim.enclave.main"
ROOMS = ("strategies", "fl_protocol", "tee_sim")
DEPENDENCIES = ("numpy", "cryptography", "cffi")
MANIFEST = "MANIFEST.json"

_START = "import sys\nsys.path.extend(sys.argv[4:])\nfrom {entry} import main\nmain(sys.argv)\n"
_EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)
_NOTHING: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True)
class Image:
    """A built image.

    Parameters
    ----------
    archive : bytes
        The zip archive.
    """

    archive: bytes

    @property
    def measurement(self) -> str:
        """Hexadecimal SHA-384 of the archive."""
        return hashlib.sha384(self.archive).hexdigest()

    def seal(self) -> int:
        """Copy the archive to an anonymous file that nobody can change any more.

        Returns
        -------
        int
            File descriptor of the sealed memfd; the caller closes it.

        Raises
        ------
        OSError
            The kernel has no sealed anonymous files.
        """
        handle = os.memfd_create("asynclave-enclave", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        view = memoryview(self.archive)
        while view:
            view = view[os.write(handle, view) :]
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals)
        return handle


def build(entry: str = ENTRY, extra: Mapping[str, bytes] = _NOTHING) -> Image:
    """Build the image from the installed packages.

    Parameters
    ----------
    entry : str
        Module whose ``main(argv)`` starts the enclave.
    extra : Mapping of str to bytes
        Further files by archive path; any of them changes the measurement.

    Returns
    -------
    Image
    """
    files = {path: source for path, source in _sources(entry, extra)}
    files |= extra
    files["__main__.py"] = _START.format(entry=entry).encode()
    files[MANIFEST] = canonical.encode(
        {
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "dependencies": {name: _dependency(name) for name in DEPENDENCIES},
        }
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            member = zipfile.ZipInfo(path, _EPOCH_OF_ZIP)
            member.create_system = 3
            member.external_attr = 0o444 << 16
            archive.writestr(member, files[path])
    return Image(buffer.getvalue())


def measure() -> str:
    """Return the measurement of the enclave these installed packages make.

    A client whose installation has the same versions and wheels as the enclave's can use it as
    the reference value; others need the value from whoever built the enclave.
    """
    return build().measurement


def measurement_of(handle: int) -> str:
    """Return the hexadecimal SHA-384 of what a sealed file really holds."""
    size = os.fstat(handle).st_size
    return hashlib.sha384(os.pread(handle, size, 0)).hexdigest()


def dependency_paths() -> tuple[str, ...]:
    """Return the directories the enclave imports its dependencies from."""
    folders = (
        str(Path(str(importlib.metadata.distribution(name).locate_file(""))).resolve())
        for name in DEPENDENCIES
    )
    return tuple(dict.fromkeys(folders))


def _sources(entry: str, extra: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    waiting, seen = [entry], set[str]()
    while waiting:
        name = waiting.pop()
        path = name.replace(".", "/") + ".py"
        found = (path, extra[path]) if path in extra else _module(name)
        if name in seen or found is None:
            continue
        seen.add(name)
        yield found
        waiting += _imports(found[1])
        if "." in name:
            waiting.append(name.rpartition(".")[0])


def _module(name: str) -> tuple[str, bytes] | None:
    room, *parts = name.split(".")
    spec = importlib.util.find_spec(room) if room in ROOMS else None
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    for file, path in (
        (base / "__init__.py", "/".join((room, *parts, "__init__.py"))),
        (base.with_suffix(".py"), "/".join((room, *parts)) + ".py"),
    ):
        if file.is_file():
            return path, file.read_bytes()
    return None


def _imports(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            # The name may be a submodule; what is no module is skipped when looked up.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _dependency(name: str) -> dict[str, str]:
    distribution = importlib.metadata.distribution(name)
    digest = hashlib.sha256()
    for file in sorted(distribution.files or (), key=str):
        # Left out: what installers add (scripts outside, bytecode) and the records about it.
        if ".." in file.parts or file.suffix == ".pyc" or file.parts[0].endswith(".dist-info"):
            continue
        content = hashlib.sha256(file.read_binary()).hexdigest()
        digest.update(f"{file}\0{content}\n".encode())
    return {"version": distribution.version, "sha256": digest.hexdigest()}
