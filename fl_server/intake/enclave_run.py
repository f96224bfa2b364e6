"""A run in whichever enclave is attested: opened there, followed to its successor, its releases."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger

from fl_protocol.codes import Code, ReceiptRejected, RunRejected
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.receipts import (
    Chained,
    Receipt,
    Release,
    is_from,
    verify_opening,
    verify_receipt,
    verify_record,
)
from fl_protocol.signatures import Signed
from fl_server.intake.continued import Continued
from fl_server.intake.keeper import ChainKeeper
from fl_server.intake.releases import (
    Fetched,
    OpenedRun,
    fetch_again,
    fetch_release,
    open_messages,
)
from fl_server.intake.witness import ChainWitness
from strategies.catalog import recipe_from
from strategies.errors import StrategyError
from strategies.recipe import Recipe
from strategies.update import Merge, Vector, digest_of
from tee_sim.appraisal import Attested
from tee_sim.node_config import Connection

_logger = getLogger(__name__)


class EnclaveRun:
    """One run, at its newest released version, and the enclave that it is open in.

    Parameters
    ----------
    connection : Connection
        To the gateway.
    run : OpenedRun
        Name and layout.
    params : Vector
        Model to begin with, shape (P,).
    recipe : Recipe, optional
        Must equal the enclave policy's recipe, which is taken when omitted.
    released : callable
        Called with every release that is fetched, in order, and again if it raised.

    Attributes
    ----------
    run_id : str
        Name of the run.
    version : int
        Of the newest release.
    params : Vector
        Its parameters, shape (P,).
    attested : Attested
        The enclave.
    recipe : Recipe
        Of the run.
    keeper : ChainKeeper or None
        Writes the enclave's records down.
    """

    def __init__(
        self,
        connection: Connection,
        run: OpenedRun,
        params: Vector,
        recipe: Recipe | None,
        released: Callable[[Merge], None],
    ) -> None:
        self._connection, self._run, self.run_id = connection, run, run.run_id
        self.version, self.params = 0, params
        self.attested: Attested = connection.attestor.refresh()
        self.recipe = recipe or _recipe_of(self.attested)
        self.keeper: ChainKeeper | None = None
        self._released, self._witness = released, ChainWitness()
        # By which a release of an enclave that has died is recognised.
        self._keys = {self.attested.epoch: self.attested.receipt_key}
        self._is_open = False

    def open(self, continued: Continued | None = None, *, join: bool) -> int:
        """Open the run in the enclave, or join it there; returns its newest version.

        Raises
        ------
        RunRejected
            RUN_RECIPE, LEAKY_RECIPE, RUN_MANIFEST or RUN_REGRESSED.
        """
        self._is_open = False
        if continued is not None:
            self._keys = {**continued.keys, **self._keys}
        reply = self._ask_to_open(join=join)
        if reply.epoch != self.attested.epoch:
            self._follow()
            return self.version
        signed = Signed.of(reply.opening)
        opening = verify_opening(signed, self.attested.receipt_key)
        known = self._known_records(continued, signed)
        opened = (opening.run_id, opening.version, opening.model_digest, opening.manifest_digest)
        expected = (self._run.run_id, self.version, digest_of(self.params), self._run.layout.digest)
        if opened != expected and not known:
            raise RunRejected(Code.RUN_MANIFEST)
        self._witness.observe(opening, signed)
        if self.keeper is not None:
            self.keep_records(known[-1].seq + 1 if known else opening.seq)
        self._is_open = True
        return int(reply.version)

    def keep_records(self, seq: int) -> None:
        """Have the enclave's records from a number on written down; needs a keeper."""
        assert self.keeper is not None
        self.keeper.follow(self.attested, self._witness, seq)

    def follow(self) -> None:
        """Attest the enclave now and, unless the run is open there, open it again."""
        self._follow(again=not self._is_open)

    def _follow(self, *, again: bool = False) -> None:
        attested = self._connection.attestor.refresh()
        if attested.epoch == self.attested.epoch and not again:
            return
        _logger.warning(
            "The enclave was replaced (epoch %d, now %d); opening run %s at version %d again",
            self.attested.epoch,
            attested.epoch,
            self._run.run_id,
            self.version,
        )
        self.attested, self._witness = attested, ChainWitness()
        self._keys[attested.epoch] = attested.receipt_key
        # Joined if the answer to an earlier attempt was lost: somebody may be in its buffer.
        self.open(join=True)

    def newest(self) -> int:
        """Ask the enclave for the newest version of the run."""
        reply = self._ask_to_open(join=True)
        if reply.epoch != self.attested.epoch:
            self._follow()
            return self.version
        return int(reply.version)

    def receipt(self, signed: Signed) -> Receipt:
        """Read a receipt of this enclave, or of a successor, which is then followed.

        Raises
        ------
        ReceiptRejected
            ``RECEIPT_INVALID``.
        """
        try:
            return verify_receipt(signed, self.attested.receipt_key)
        except ReceiptRejected:
            self.follow()
            return verify_receipt(signed, self.attested.receipt_key)

    def observe(self, receipt: Receipt, signed: Signed) -> None:
        """Hold a receipt against the chain; raises ReceiptRejected."""
        self._witness.observe(receipt, signed)

    def fetch(self) -> bool:
        """Fetch the next release; False if its enclave has died, whose successor is followed.

        Raises
        ------
        ReceiptRejected
            The release is not what the enclave signed.
        RunRejected
            ``RELEASE_NOT_READY``.
        """
        if not self._is_open:
            # The answer to the last attempt was lost.
            self.follow()
            return False
        try:
            fetched = fetch_release(
                self._connection.session, self._run, self.version + 1, self.attested, self._witness
            )
        except RunRejected as error:
            if error.code != Code.RUN_UNKNOWN:
                raise
            self.follow()
            return False
        self._adopt(fetched)
        return True

    def _adopt(self, fetched: Fetched) -> None:
        merge = fetched.merge
        if self.keeper is not None:
            # Before the model: what a server continues from is always named in its records.
            self.keeper.release(fetched.record, fetched.signed)
        # First: a release that could not be kept is fetched again, and none after it before that.
        self._released(merge)
        self.version, self.params = merge.version, merge.params

    def _ask_to_open(self, *, join: bool) -> pb.OpenRunReply:
        while True:
            try:
                return self._asked_to_open(join=join)
            except RunRejected as error:
                if error.code != Code.RUN_REGRESSED or not join:
                    raise
                # The enclave before may have died while it handed out the next release, or this
                # one has made so many that it knows the model no more.
                self._adopt(self._fetched_again(error))

    def _fetched_again(self, regressed: RunRejected) -> Fetched:
        try:
            return fetch_again(
                self._connection.session, self._run, self.version + 1, self._believed
            )
        except (RunRejected, ReceiptRejected):
            raise regressed from None

    def _believed(self, release: Release, signed: Signed) -> bool:
        key = self._keys.get(release.epoch)
        return key is not None and is_from(release, signed, key)

    def _asked_to_open(self, *, join: bool) -> pb.OpenRunReply:
        reply: pb.OpenRunReply = self._connection.session.call(
            "OpenRun",
            lambda: open_messages(self._run, self.recipe, self.params, self.version, join=join),
        )
        return reply

    def _known_records(self, continued: Continued | None, opening: Signed) -> list[Chained]:
        """Return the records this side has of the enclave that it joins, after checking them."""
        if continued is None or continued.epoch != self.attested.epoch:
            return []
        links = [link for link in continued.links if link.record is not None]
        if not any(link.signed == opening for link in links):
            return []
        for link in links:
            record = verify_record(link.signed, self.attested.receipt_key)
            self._witness.observe(record, link.signed)
        return [link.record for link in links if link.record is not None]


def _recipe_of(attested: Attested) -> Recipe:
    recipe = attested.policy.recipe
    try:
        return recipe_from(recipe["name"], **recipe["options"])
    except StrategyError as error:
        raise RunRejected(Code.RUN_RECIPE, error.sentence) from error
