"""Confidential aggregation: updates go sealed to the enclave, receipts and releases come here."""

from __future__ import annotations

import contextlib
import json
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from logging import getLogger
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fl_protocol.codes import AsynclaveError, Code, ReceiptRejected, RunRejected
from fl_protocol.flower import RECEIPT
from fl_protocol.ports import Clock, Rng, SystemClock, SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.receipts import (
    ACCEPTED,
    Chained,
    Receipt,
    verify_opening,
    verify_receipt,
    verify_record,
)
from fl_protocol.signatures import Signed
from fl_server.durable.lock import locked
from fl_server.intake.base import Outcome
from fl_server.intake.config import ServerConfig
from fl_server.intake.continued import Continued, read_folder
from fl_server.intake.keeper import ChainKeeper, free_folder
from fl_server.intake.published import PublishedMean
from fl_server.intake.releases import OpenedRun, fetch_release, open_messages
from fl_server.intake.witness import ChainWitness
from strategies.batch import Pending
from strategies.catalog import recipe_from
from strategies.errors import StrategyError
from strategies.layout import Layout
from strategies.recipe import Recipe
from strategies.reject import Reject
from strategies.update import Merge, Vector, digest_of
from tee_sim.appraisal import Attested
from tee_sim.node_config import connect

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
        Seconds between two looks whether the enclave was replaced.

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
    ) -> None:
        self._config = config if isinstance(config, ServerConfig) else ServerConfig.load(config)
        self._wanted = recipe
        self._connection = connect(self._config, clock or SystemClock(), rng or SystemRng())
        self._watch_interval = watch_interval
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._merges: deque[Merge] = deque()
        self._nodes: dict[str, str] = {}
        self._counted: set[str] = set()
        self._witness = ChainWitness()
        self._state_folder = state_folder
        self._keeper: ChainKeeper | None = None
        self._stack = ExitStack()
        self._version = 0
        self._recipe: Recipe
        self._run: OpenedRun
        self._params: Vector
        self._published: Vector
        self._mean: PublishedMean
        self._attested: Attested

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
            self._run = OpenedRun(run_id, layout)
            self._params = self._published = params
            self._attested = self._connection.attestor.refresh()
            self._recipe = self._wanted or _recipe_of(self._attested)
            self._mean = PublishedMean(self._recipe.parts())
            continued = self._begin_records()
            self._open_in_enclave(continued, join=continued is not None)
        arguments = (weakref.ref(self), self._stopped, self._watch_interval)
        threading.Thread(target=_watch, args=arguments, name="enclave-watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching, write down the last records and close the connection."""
        self._stopped.set()
        with self._lock, self._stack:
            if self._keeper is not None:
                self._keeper.close()
        self._connection.session.close()

    @property
    def version(self) -> int:
        """The newest released version."""
        return self._version

    @property
    def params(self) -> Vector:
        """The parameters of the newest released version, shape (P,)."""
        return self._params

    @property
    def waiting(self) -> Sequence[Pending]:
        """None: what waits is the enclave's secret."""
        return ()

    @property
    def published(self) -> Vector:
        """The published parameters, shape (P,): the recipe's running mean if it has one."""
        return self._published

    @property
    def attested(self) -> Attested:
        """The enclave the run is open in."""
        return self._attested

    def offer(
        self, reply: RecordDict, client: str, base_version: int, base: Vector, now: float
    ) -> Outcome:
        """Check the receipt in a reply and fetch what was released since.

        A node is bound to the first client id it presents a receipt for; no id serves two nodes.
        """
        with self._lock:
            staleness = max(0, self._version - base_version)
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
            if receipt.update_id in self._counted:
                return Outcome(False, Reject.DUPLICATE_UPDATE.value, staleness)
            self._counted.add(receipt.update_id)
            self._fetch_up_to(receipt.version)
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
        """Attest the enclave now and, if it is a new one, open the run there again."""
        with self._lock:
            attested = self._connection.attestor.refresh()
            if attested.epoch == self._attested.epoch:
                return
            _logger.warning(
                "The enclave was replaced (epoch %d, now %d); opening run %s at version %d again",
                self._attested.epoch,
                attested.epoch,
                self._run.run_id,
                self._version,
            )
            self._attested, self._witness = attested, ChainWitness()
            # Joined if the answer to an earlier attempt was lost: somebody may be in its buffer.
            self._open_in_enclave(join=True)

    def _begin_records(self) -> Continued | None:
        run_id, layout = self._run.run_id, self._run.layout
        if self._state_folder is not None:
            self._stack.enter_context(locked(self._state_folder))
            folder = self._state_folder
        elif self._config.records_dir:
            folder = free_folder(Path(self._config.records_dir), run_id)
        else:
            return None
        self._keeper = ChainKeeper(self._connection.session, folder, self._config.trust_policy())
        continued = read_folder(folder, run_id, layout)
        if continued is None:
            self._keeper.begin(layout, self._params)
            return None
        self._keeper.continue_()
        self._take_up(continued)
        return continued

    def _take_up(self, continued: Continued) -> None:
        self._version, self._params = continued.version, continued.params
        self._published, self._counted = continued.params, set(continued.counted)
        if server := continued.server:
            self._nodes = dict(server["nodes"])
            self._mean.restore(server["merges"], server.get("mean"))

    def _open_in_enclave(self, continued: Continued | None = None, *, join: bool) -> None:
        reply = self._ask_to_open(join=join)
        if reply.epoch != self._attested.epoch:
            self.follow_enclave()
            return
        signed = Signed(reply.opening.payload, reply.opening.signature)
        opening = verify_opening(signed, self._attested.receipt_key)
        known = self._known_records(continued, signed)
        opened = (opening.run_id, opening.version, opening.model_digest, opening.manifest_digest)
        layout = self._run.layout
        expected = (self._run.run_id, self._version, digest_of(self._params), layout.digest)
        if opened != expected and not known:
            raise RunRejected(Code.RUN_MANIFEST)
        self._witness.observe(opening, signed)
        if self._keeper is not None:
            seq = known[-1].seq + 1 if known else opening.seq
            self._keeper.follow(self._attested, self._witness, seq)
        if continued is not None:
            self._fetch_up_to(reply.version)
            while self.take_merge():
                # The run goes on from the newest; these were made while nobody was here.
                pass

    def catch_up(self) -> None:
        """Fetch every release that there is, although no receipt has named it yet."""
        with self._lock:
            reply = self._ask_to_open(join=True)
            if reply.epoch == self._attested.epoch:
                self._fetch_up_to(reply.version)
            else:
                self.follow_enclave()

    def _ask_to_open(self, *, join: bool) -> pb.OpenRunReply:
        reply: pb.OpenRunReply = self._connection.session.call(
            "OpenRun",
            lambda: open_messages(self._run, self._recipe, self._params, self._version, join=join),
        )
        return reply

    def _known_records(self, continued: Continued | None, opening: Signed) -> list[Chained]:
        """Return the records this side has of the enclave that it joins, after checking them."""
        if continued is None or continued.epoch != self._attested.epoch:
            return []
        links = [link for link in continued.links if link.record is not None]
        if not any(link.signed == opening for link in links):
            return []
        for link in links:
            self._witness.observe(
                verify_record(link.signed, self._attested.receipt_key), link.signed
            )
        return [link.record for link in links if link.record is not None]

    def _verified(self, record: ConfigRecord | None, client: str, base_version: int) -> Receipt:
        signed = Signed(_member(record, "payload", bytes), _member(record, "signature", bytes))
        try:
            receipt = verify_receipt(signed, self._attested.receipt_key)
        except ReceiptRejected:
            # Perhaps signed by a successor that this side has not met yet.
            self.follow_enclave()
            receipt = verify_receipt(signed, self._attested.receipt_key)
        owner = self._nodes.get(client, receipt.client_id)
        taken = receipt.client_id in self._nodes.values() and client not in self._nodes
        if (
            receipt.federation != self._config.federation
            or receipt.run_id != self._run.run_id
            or receipt.epoch != self._attested.epoch
            or receipt.base_version != base_version
            or receipt.outcome != ACCEPTED
            or receipt.client_id != owner
            or taken
        ):
            raise ReceiptRejected(Code.RECEIPT_INVALID)
        self._witness.observe(receipt, signed)
        self._nodes[client] = receipt.client_id
        return receipt

    def _fetch_up_to(self, version: int) -> None:
        if self._version < version and self._keeper is not None:
            # Before the model: what a server continues from is always named in its records.
            self._keeper.fetch()
        while self._version < version:
            try:
                merge = fetch_release(
                    self._connection.session,
                    self._run,
                    self._version + 1,
                    self._attested,
                    self._witness,
                )
            except RunRejected as error:
                if error.code != Code.RUN_UNKNOWN:
                    raise
                # The enclave died between the receipt and this call; its release is lost.
                self.follow_enclave()
                return
            self._merges.append(merge)
            self._version, self._params = merge.version, merge.params
            if self._keeper is not None:
                self._keeper.model(merge.params, self._server_state())

    def _server_state(self) -> dict[str, Any]:
        merges, mean = self._mean.state()
        meta = {"version": self._version, "merges": merges, "nodes": self._nodes}
        state: dict[str, Any] = {"meta": json.dumps(meta)}
        return state if mean is None else {**state, "mean": mean}


def _member(record: ConfigRecord | None, name: str, kind: type) -> Any:
    value = None if record is None else record.get(name)
    return value if isinstance(value, kind) else kind()


def _recipe_of(attested: Attested) -> Recipe:
    recipe = attested.policy.recipe
    try:
        return recipe_from(recipe["name"], **recipe["options"])
    except StrategyError as error:
        raise RunRejected(Code.RUN_RECIPE, error.sentence) from error


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
