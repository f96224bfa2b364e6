"""The journal: entries that survive a loss of power once `Journal.sync` has returned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Never

from fl_protocol import canonical
from fl_protocol.codes import Code, StorageFailed
from fl_protocol.ports import Chunk, Disk, LogFile, Rng
from fl_protocol.storage import storage_failure
from fl_server.durable import frames
from fl_server.durable.frames import ENTRY, MARK, Frame, SegmentHead

_SUFFIX = ".journal"
_SALT_BYTES = 4


@dataclass(frozen=True)
class Entry:
    """One entry, its body still on disk.

    Attributes
    ----------
    number : int
        Counts from 1 without gaps over the whole life of the journal.
    meta : dict
        What was appended beside the body.
    """

    number: int
    meta: dict[str, Any]
    segment: Path
    frame: Frame


@dataclass
class _Segment:
    path: Path
    head: SegmentHead
    entries: list[Entry]
    size: int
    synced: int

    @property
    def known_synced(self) -> bool:
        """Whether all entries were synced, the marks between and behind them left aside."""
        return not self.entries or self.synced >= self.entries[-1].frame.end


class Journal:
    """Append-only segments in a folder; one writer.

    Parameters
    ----------
    folder : Path
        Created when missing.
    disk, rng : Disk, Rng
        Where it is; source of the segments' salts.
    segment_bytes : int
        A segment that has grown beyond it is closed.

    Attributes
    ----------
    cut : int
        Bytes of a torn tail that were cut off when the journal was opened. They were never synced.

    Raises
    ------
    StorageFailed
        ``JOURNAL_DAMAGED``: something that was synced is gone or altered; nothing was changed.
        ``JOURNAL_FAILED``: the disk cannot be read.
    """

    def __init__(
        self, folder: Path, disk: Disk, rng: Rng, *, segment_bytes: int = 32 << 20
    ) -> None:
        self._folder, self._disk, self._rng = folder, disk, rng
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._log: LogFile | None = None
        self._appended: list[Entry] = []
        self._broken = False
        self.cut = 0
        try:
            self._open()
        except OSError as error:
            raise storage_failure("The journal", error) from error

    @property
    def next_number(self) -> int:
        """The number the next entry gets."""
        if not self._segments:
            return 1
        last = self._segments[-1]
        return last.head.first + len(last.entries) + len(self._appended)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """Yield the synced entries above a number, oldest first."""
        for segment in self._segments:
            yield from (entry for entry in segment.entries if entry.number > after)

    def read(self, entry: Entry) -> bytes:
        """Return an entry's body; raises StorageFailed ``JOURNAL_DAMAGED``."""
        frame = entry.frame
        try:
            content = self._disk.read_at(
                entry.segment, frame.content_offset, frame.meta_length + frame.body_length
            )
        except OSError as error:
            raise storage_failure("The journal", error) from error
        if frames.content_crc((content,)) != frame.crc:
            raise _damaged(f"entry {entry.number} in {entry.segment}")
        return content[frame.meta_length :]

    def append(self, meta: dict[str, Any], body: Sequence[Chunk] = ()) -> int:
        """Write an entry and return its number; it counts once `sync` has returned.

        Raises
        ------
        StorageFailed
            ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: nothing of it is kept, nor of what was
            appended since the last sync.
        """
        self._require_usable()
        encoded = canonical.encode(meta)
        if len(encoded) > frames.MAX_META_BYTES:
            raise ValueError(f"an entry's meta has at most {frames.MAX_META_BYTES} bytes")
        length = sum(memoryview(chunk).nbytes for chunk in body)
        crc = frames.content_crc((encoded, *body))
        try:
            segment, log = self._writable()
            offset = self._appended[-1].frame.end if self._appended else segment.size
            frame = Frame(ENTRY, offset, len(encoded), length, segment.synced, crc)
            log.append([frame.head(segment.head.salt), encoded, *body])
        except OSError as error:
            self._give_up(error)
        entry = Entry(self.next_number, meta, segment.path, frame)
        self._appended.append(entry)
        return entry.number

    def sync(self) -> None:
        """Return when everything appended will survive a loss of power.

        Raises
        ------
        StorageFailed
            ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: nothing appended since the last sync is kept.
        """
        if not self._appended:
            return
        self._require_usable()
        assert self._log is not None
        segment = self._segments[-1]
        try:
            self._log.sync()
        except OSError as error:
            # The mark behind the last sync is lost with the rest.
            segment.size = segment.synced
            self._give_up(error)
        segment.entries += self._appended
        segment.size = segment.synced = self._appended[-1].frame.end
        self._appended = []
        self._mark(segment, self._log)

    def retire(self, up_to: int) -> None:
        """Remove the segments whose entries are all numbered `up_to` or lower, but the last."""
        while len(self._segments) > 1 and self._segments[1].head.first <= up_to + 1:
            try:
                self._disk.remove(self._segments[0].path)
            except OSError:
                # It is in the way of nobody; the next call tries again.
                return
            del self._segments[0]

    def close(self) -> None:
        """Close the file; what was not synced is lost."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _open(self) -> None:
        """Read all segments, and change something only when everything synced is found whole."""
        names = [name for name in self._disk.list(self._folder) if name.endswith(_SUFFIX)]
        paths = [self._folder / name for name in names]
        interrupted = [path for path in paths[-1:] if self._was_interrupted(path)]
        for path in paths[: len(paths) - len(interrupted)]:
            segment = self._load(path)
            if self._segments and segment.head.first != self.next_number:
                raise _damaged(f"entries {self.next_number} to {segment.head.first - 1} are gone")
            self._segments.append(segment)
        for path in interrupted:
            self.cut += self._disk.size(path)
            self._disk.remove(path)
        if self._segments:
            newest = self._segments[-1]
            self._cut_tail(newest)
            if not newest.known_synced:
                self._rewrite(newest)

    def _was_interrupted(self, path: Path) -> bool:
        """Whether a segment was being made when it ended, before there could be an entry in it."""
        size = self._disk.size(path)
        whole = frames.decode_segment_head(self._disk.read_at(path, 0, frames.SEGMENT_HEAD_BYTES))
        return whole is None and size <= frames.SEGMENT_HEAD_BYTES

    def _rewrite(self, segment: _Segment) -> None:
        """Make durable what was read back; it may be in the machine's memory only.

        Another sync would not do: after one that failed, the kernel takes for written what is not.
        """
        mark = self._mark_of(segment, segment.size)
        content = self._disk.read_at(segment.path, 0, segment.size)
        self._disk.write_atomic(segment.path, content + mark.head(segment.head.salt))
        segment.size = segment.synced = mark.end

    def _load(self, path: Path) -> _Segment:
        size, read = self._disk.size(path), partial(self._disk.read_at, path)
        head = frames.decode_segment_head(read(0, frames.SEGMENT_HEAD_BYTES))
        if head is None:
            raise _damaged(f"the head of {path}")
        segment = _Segment(path, head, [], *2 * (frames.SEGMENT_HEAD_BYTES,))
        for frame in frames.scan(read, size, head.salt):
            if frame.kind == ENTRY:
                number = head.first + len(segment.entries)
                segment.entries.append(Entry(number, self._meta(path, frame), path, frame))
            segment.size = frame.end
            segment.synced = max(segment.synced, frame.synced)
        if segment.size < size and frames.was_synced(read, segment.size, size, head.salt):
            raise _damaged(f"{path} at byte {segment.size}")
        return segment

    def _meta(self, path: Path, frame: Frame) -> dict[str, Any]:
        data = self._disk.read_at(path, frame.offset + frames.FRAME_HEAD_BYTES, frame.meta_length)
        return canonical.decode_object(data, frames.MAX_META_BYTES)

    def _cut_tail(self, segment: _Segment) -> None:
        torn = self._disk.size(segment.path) - segment.size
        if torn > 0:
            self._disk.truncate(segment.path, segment.size)
            self.cut += torn

    def _writable(self) -> tuple[_Segment, LogFile]:
        full = self._segments and self._segments[-1].size >= self._segment_bytes
        if not self._segments or (full and not self._appended):
            self._begin_segment()
        segment = self._segments[-1]
        if self._log is None:
            self._log = self._disk.open_log(segment.path)
        return segment, self._log

    def _begin_segment(self) -> None:
        self.close()
        head = SegmentHead(int.from_bytes(self._rng.bytes(_SALT_BYTES), "big"), self.next_number)
        path = self._folder / f"{head.first:020d}{_SUFFIX}"
        self._disk.remove(path)
        log = self._disk.open_log(path)
        try:
            # Synced on its own: a bad head with frames behind it can only be damage.
            log.append([frames.encode_segment_head(head)])
            log.sync()
        except OSError:
            log.close()
            with suppress(OSError):
                self._disk.remove(path)
            raise
        self._log = log
        self._segments.append(_Segment(path, head, [], *2 * (frames.SEGMENT_HEAD_BYTES,)))

    def _mark(self, segment: _Segment, log: LogFile) -> None:
        mark = self._mark_of(segment, segment.synced)
        try:
            log.append([mark.head(segment.head.salt)])
        except OSError:
            self._cut_back()
        else:
            segment.size = mark.end

    @staticmethod
    def _mark_of(segment: _Segment, synced: int) -> Frame:
        return Frame(MARK, segment.size, 0, 0, synced, frames.content_crc(()))

    def _give_up(self, error: OSError) -> Never:
        """Forget what was not synced: after a failed write or sync nobody knows what is on disk."""
        self._appended = []
        self._cut_back()
        raise storage_failure("The journal", error) from error

    def _cut_back(self) -> None:
        self.close()
        if not self._segments:
            return
        segment = self._segments[-1]
        try:
            if self._disk.size(segment.path) > segment.size:
                self._disk.truncate(segment.path, segment.size)
        except OSError:
            self._broken = True

    def _require_usable(self) -> None:
        if self._broken:
            # A successful cut makes it usable again, for instance when there is room once more.
            self._broken = False
            self._cut_back()
        if self._broken:
            raise StorageFailed(Code.JOURNAL_FAILED)


def _damaged(where: str) -> StorageFailed:
    return StorageFailed(
        Code.JOURNAL_DAMAGED,
        f"The journal is damaged ({where}); what was acknowledged there cannot be read. Restore "
        "the folder from a copy, or begin a new run.",
    )
