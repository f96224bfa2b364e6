"""A server that notes what each reply carried, then waits so that its memory can be searched."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.serverapp import Grid, ServerApp

from asynclave import AsyncWA
from canary_app.planted import CONTROL, SIZE, planted

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    settings = context.run_config
    witness = Path(str(settings["witness-dir"]))
    # The positive control: a tensor that a search of this process and of its log must find.
    control = planted(CONTROL)
    print(control.tobytes().hex())
    replies = note_replies(grid)
    strategy = AsyncWA(
        buffer_size=int(settings["buffer-size"]),
        fraction_evaluate=0.0,
        gateway=str(settings["asynclave-server-config"]) or None,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"weights": Array(np.zeros(SIZE, np.float32))}),
        num_rounds=int(settings["num-server-rounds"]),
    )
    (witness / "replies.json").write_text(json.dumps(replies))
    (witness / "trained").touch()
    while not (witness / "searched").exists():
        time.sleep(0.2)
    print(float(control.sum()))


def note_replies(grid: Grid) -> list[dict[str, object]]:
    """Have the grid note the records of every reply it delivers."""
    notes: list[dict[str, object]] = []
    pull = grid.pull_messages

    def pull_and_note(message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(pull(message_ids))
        notes.extend(map(described, replies))
        return replies

    grid.pull_messages = pull_and_note  # type: ignore[method-assign]
    return notes


def described(reply: Message) -> dict[str, object]:
    """Return what a reply carried, as JSON."""
    if reply.has_error():
        return {"error": reply.error.reason}
    content = reply.content
    receipts = [record["code"] for record in content.config_records.values() if "code" in record]
    return {
        "arrays": sorted(content.array_records),
        "metrics": sorted(content.metric_records),
        "receipts": receipts,
        "bytes": sum(record.count_bytes() for record in content.values()),
    }
