"""A PostgreSQL server of one's own, in a temporary folder and on a free port."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
# Debian keeps the programs where no PATH leads; a server refuses to run as root.
PROGRAMS = next((f for f in reversed(_FOLDERS) if (f / "initdb").exists()), None)
REASON = "PostgreSQL is not installed (Debian: apt-get install postgresql)"


class PostgresServer:
    """Runs as an unprivileged user while the block does."""

    def __enter__(self) -> Self:
        assert PROGRAMS is not None, REASON
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", "data", "-U", "gateway", "-A", "trust", "-E", "UTF8", "-N")
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self._folder}"
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        """Stop it if it runs, cutting its connections off."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", "fast", "stop", check=False)

    def database(self, name: str) -> str:
        """Create an empty database and return its address."""
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "gateway"]
        self._run("createdb", *address, name)
        return f"postgresql://gateway@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        assert PROGRAMS is not None
        subprocess.run(
            [PROGRAMS / program, *arguments],
            check=check,
            cwd=self._folder,
            user="nobody" if os.geteuid() == 0 else None,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
