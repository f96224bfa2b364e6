"""Confidential aggregation: updates go sealed to the enclave, receipts and releases come here."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from logging import getLogger
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fl_protocol.codes import AsynclaveError, Code, ReceiptRejected
from fl_protocol.flower import RECEIPT
from fl_protocol.ports import Clock, Disk, Rng, SystemClock, SystemRng
from fl_protocol.receipts import ACCEPTED, Receipt
from fl_protocol.signatures import Signed
from fl_server.durable.lock import locked
from fl_server.intake.base import Outcome
from fl_server.intake.config import ServerConfig
from fl_server.intake.continued import Continued, read_folder
from fl_server.intake.enclave_run import EnclaveRun
from fl_server.intake.keeper import ChainKeeper, free_folder
from fl_server.intake.published import PublishedMean
from fl_server.intake.releases import OpenedRun
from strategies.batch import Pending
from strategies.layout import Layout
from strategies.recipe import Recipe
from strategies.reject import Reject
from strategies.update import Merge, Vector
from tee_sim.appraisal import Attested
from tee_sim.node_config import Carrier, connect

# What a client reports when its update met an enclave that does not know the run (any more).
_ENCLAVE_REPLACED = frozenset({Code.RUN_UNKNOWN, Code.ENV_EPOCH, Code.ENV_KEY_ID})

_logger = getLogger(__name__)


class SealedIntake:
    """An `Intake` whose engine runs in the attested enclave behind a gateway.

    When the enclave was replaced, the run is opened again there from the last released model; what
    the old one had buffered is gone with its key. With a folder, a server that was killed takes the
    run up again: in the same enclave with all that this has buffered, or in its successor.

    Parameters
    ----------
    config : ServerConfig or path
        The server's bundle.
    recipe : Recipe, optional
        Must equal the enclave policy's recipe, which is taken when omitted.
    state_folder : Path, optional
        Where the run is kept, instead of a folder in the bundle's `records_dir`; a run that was
        begun there is continued.
    clock, rng : Clock, Rng, optional
        The system's by default.
    watch_interval : float
        Seconds between two looks whether the enclave was replaced; infinity leaves them to
        `follow_enclave`.
    disk : Disk, optional
        Of the server; the local disk by default.
    carrier : callable, optional
        Makes what carries the calls to the gateway; see `tee_sim.node_config.connect`.

    Raises
    ------
    ConfigInvalid
        The bundle is not usable.
    """

    def __init__(
        self,
        config: ServerConfig | Path | str,
        recipe: Recipe | None = None,
        *,
        state_folder: Path | None = None,
        clock: Clock | None = None,
        rng: Rng | None = None,
        watch_interval: float = 1.0,
        disk: Disk | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self._config = config if isinstance(config, ServerConfig) else ServerConfig.load(config)
        self._wanted = recipe
        self._connection = connect(
            self._config, clock or SystemClock(), rng or SystemRng(), disk=disk, carrier=carrier
        )
        self._disk = disk
        self._watch_interval = watch_interval
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._merges: deque[Merge] = deque()
        self._nodes: dict[str, str] = {}
        self._counted: set[str] = set()
        # The newest version that a receipt has named, and the epoch of its enclave.
        self._named = (0, 0)
        self._state_folder = state_folder
        self._stack = ExitStack()
        self._run: EnclaveRun | None = None
        self._published: Vector
        self._mean: PublishedMean

    def open(self, run_id: str, layout: Layout, params: Vector) -> None:
        """Attest the enclave and open a run in it from initial parameters, shape (P,).

        A run that the state folder holds is joined, or opened again at its newest model.

        Raises
        ------
        EvidenceRejected
            The enclave does not meet the bundle's demands.
        RunRejected
            RUN_RECIPE when the strategy differs from the enclave's policy, LEAKY_RECIPE when its
            releases could be differenced, RUN_MANIFEST for a model that does not fit,
            RUN_REGRESSED when a newer model has been handed out than this side has.
        GatewayUnavailable
            The gateway cannot be reached.
        StorageFailed
            The state folder holds another run, is damaged or in use.
        """
        with self._lock:
            run = OpenedRun(run_id, layout)
            self._run = EnclaveRun(self._connection, run, params, self._wanted, self._released)
            self._published, self._mean = params, PublishedMean(self._run.recipe.parts())
            continued = self._begin_records(run)
            newest = self._run.open(continued, join=continued is not None)
            if continued is not None:
                self._fetch_up_to(newest)
                while self.take_merge():
                    # The run goes on from the newest; these were made while nobody was here.
                    pass
        if self._watch_interval == math.inf:
            return
        arguments = (weakref.ref(self), self._stopped, self._watch_interval)
        threading.Thread(target=_watch, args=arguments, name="enclave-watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching, write down the last records and close the connection."""
        self._stopped.set()
        with self._lock, self._stack:
            if self._run is not None and self._run.keeper is not None:
                self._run.keeper.close()
        self._connection.session.close()

    @property
    def version(self) -> int:
        """The newest released version."""
        return 0 if self._run is None else self._run.version

    @property
    def params(self) -> Vector:
        """The parameters of the newest released version, shape (P,)."""
        return self._opened.params

    @property
    def waiting(self) -> Sequence[Pending]:
        """None: what waits is the enclave's secret."""
        return ()

    @property
    def least_clients(self) -> int:
        """Distinct clients without which no version is made."""
        return self._opened.attested.policy.k

    @property
    def published(self) -> Vector:
        """The published parameters, shape (P,): the recipe's running mean if it has one."""
        return self._published

    @property
    def attested(self) -> Attested:
        """The enclave the run is open in."""
        return self._opened.attested

    def begin_task(self, digest: str) -> None:
        """Take note of what is asked of nodes from now on, see `fl_protocol.task.task_digest`.

        Raises
        ------
        StorageFailed
            ``STATE_MISMATCH``: the run is continued, and updates that wait for the next version
            were trained for another task, so that the enclave would take none of this one.
        """
        with self._lock:
            if self._opened.keeper is not None:
                self._opened.keeper.begin_task(self._opened.run_id, digest)

    def offer(
        self, reply: RecordDict, client: str, base_version: int, base: Vector, now: float
    ) -> Outcome:
        """Check the receipt in a reply and fetch what was released since.

        A node is bound to the first client id it presents a receipt for; no id serves two nodes.
        """
        with self._lock:
            staleness = max(0, self.version - base_version)
            record = reply.config_records.get(RECEIPT)
            code = _member(record, "code", str)
            if code != ACCEPTED:
                if code in _ENCLAVE_REPLACED:
                    self.follow_enclave()
                return Outcome(False, code or Code.RECEIPT_INVALID.value, staleness)
            try:
                receipt = self._verified(record, client, base_version)
            except ReceiptRejected as error:
                _logger.warning("Receipt of node %s: %s", client, error)
                return Outcome(False, error.code, staleness)
            known = receipt.update_id in self._counted
            self._counted.add(receipt.update_id)
            # Also if it is known: what an enclave lost comes again under its id, and may fill the
            # buffer of the next.
            self._named = max(self._named, (receipt.epoch, receipt.version))
            self._fetch_named()
            if known:
                return Outcome(False, Reject.DUPLICATE_UPDATE.value, staleness)
            return Outcome(True, ACCEPTED, receipt.staleness)

    def take_merge(self) -> Merge | None:
        """Return the oldest release not yet taken, or None."""
        with self._lock:
            if not self._merges:
                return None
            merge = self._merges.popleft()
            self._published = self._mean.add(merge.params, len(self._nodes))
            return merge

    def follow_enclave(self) -> None:
        """Attest the enclave now and, if it is a new one, open the run there again.

        A release that could not be fetched when a receipt named it is fetched now.
        """
        with self._lock:
            self._opened.follow()
            self._fetch_named()

    def catch_up(self) -> None:
        """Fetch every release that there is, although no receipt has named it yet."""
        with self._lock:
            self._fetch_up_to(self._opened.newest())

    @property
    def _opened(self) -> EnclaveRun:
        assert self._run is not None
        return self._run

    def _begin_records(self, run: OpenedRun) -> Continued | None:
        if self._state_folder is not None:
            self._stack.enter_context(locked(self._state_folder, self._disk))
            folder = self._state_folder
        elif self._config.records_dir:
            free = free_folder(Path(self._config.records_dir), run.run_id, self._disk)
            folder = self._stack.enter_context(free)
        else:
            return None
        keeper = ChainKeeper(
            self._connection.session, folder, self._config.trust_policy(), self._disk
        )
        self._opened.keeper = keeper
        trust = self._config.trust_policy()
        continued = read_folder(folder, run.run_id, run.layout, trust, self._disk)
        if continued is None:
            keeper.begin(run.layout, self._opened.params)
            return None
        keeper.continue_(continued.epoch, continued.next_seq)
        if continued.epoch == self._opened.attested.epoch:
            self._opened.keep_records(continued.next_seq)
        self._take_up(continued)
        return continued

    def _take_up(self, continued: Continued) -> None:
        self._opened.version, self._opened.params = continued.version, continued.params
        self._published, self._counted = continued.params, set(continued.counted)
        if server := continued.server:
            self._nodes = dict(server["nodes"])
            self._mean.restore(server["merges"], server.get("mean"))

    def _verified(self, record: ConfigRecord | None, client: str, base_version: int) -> Receipt:
        signed = Signed(_member(record, "payload", bytes), _member(record, "signature", bytes))
        receipt = self._opened.receipt(signed)
        owner = self._nodes.get(client, receipt.client_id)
        taken = receipt.client_id in self._nodes.values() and client not in self._nodes
        if (
            receipt.federation != self._config.federation
            or receipt.run_id != self._opened.run_id
            or receipt.epoch != self.attested.epoch
            or receipt.base_version != base_version
            or receipt.outcome != ACCEPTED
            or receipt.client_id != owner
            or taken
        ):
            raise ReceiptRejected(Code.RECEIPT_INVALID)
        self._opened.observe(receipt, signed)
        self._nodes[client] = receipt.client_id
        return receipt

    def _fetch_named(self) -> None:
        epoch, version = self._named
        # What an enclave made and did not hand out is gone with it.
        if epoch == self.attested.epoch:
            self._fetch_up_to(version)

    def _fetch_up_to(self, version: int) -> None:
        run = self._opened
        while run.version < version:
            # The records before a release come first, for they may end with their enclave.
            if run.keeper is not None and not run.keeper.fetch():
                run.follow()
                return
            if not run.fetch():
                return
            if run.keeper is not None and run.version == version:
                # With a head that covers the release.
                run.keeper.fetch()

    def _released(self, merge: Merge) -> None:
        keeper = self._opened.keeper
        if keeper is not None:
            keeper.model(merge.params, self._server_state(merge.version))
        self._merges.append(merge)

    def _server_state(self, version: int) -> dict[str, Any]:
        merges, mean = self._mean.state()
        meta = {"version": version, "merges": merges, "nodes": self._nodes}
        state: dict[str, Any] = {"meta": json.dumps(meta)}
        return state if mean is None else {**state, "mean": mean}


def _member(record: ConfigRecord | None, name: str, kind: type) -> Any:
    value = None if record is None else record.get(name)
    return value if isinstance(value, kind) else kind()


def _watch(reference: weakref.ref[SealedIntake], stopped: threading.Event, interval: float) -> None:
    """Look for a replaced enclave while no reply would show it; ends with the intake."""
    while not stopped.wait(interval):
        intake = reference()
        if intake is None:
            return
        # Whatever fails here fails again, visibly, in the call that needs it.
        with contextlib.suppress(AsynclaveError, ValueError):
            intake.follow_enclave()
        del intake
