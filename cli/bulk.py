"""``ratchet predict``: a file of texts answered over one stream, read and written at the same time."""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import SplitResult, urlsplit

import h11
from rich.console import Console

from cli.client import Client, RequestFailed
from cli.labelled import BadFile
from cli.progress import bar
from core.tasks import Task

_PATH: Final = "/v1/predict/stream"
_PIECE: Final = 65_536
_SILENCE_S: Final = 300.0  # an overloaded service makes a stream wait, but not so long
_SHOWN: Final = 10

Advance = Callable[[], None]


@dataclass(kw_only=True)
class BulkReport:
    """What came of a file."""

    answered: int = 0
    refused: int = 0
    #: texts that each version answered
    versions: dict[str, int] = field(default_factory=dict)
    #: the first few refusals
    problems: list[str] = field(default_factory=list)


def predict_file(client: Client, file: Path, out: Path | None, console: Console) -> BulkReport:
    """Answer every line of a file; the answers are written as they come, each with the number of its line.

    Without ``out`` they go to standard output. A line's fields that are not the task's (a label, an id) are not sent.

    Raises:
        BadFile: the file cannot be read.
        RequestFailed: the service refuses the stream, or it ended before the last line.
    """
    task = client.task()
    total = _count(file)
    report = BulkReport()
    # opened only now: what an earlier run wrote there is kept where the service is not there at all
    with bar(console) as progress, out.open("wb") if out else nullcontext(sys.stdout.buffer) as answers:
        bar_id = progress.add_task(f"answering {file.name}", total=total)
        stream = _Stream(client, lambda: progress.advance(bar_id))
        with _readable(file):
            asyncio.run(stream.run(_pieces(file, task), answers, report))
        answers.flush()
    if (done := report.answered + report.refused) != total:
        raise RequestFailed(f"{_PATH}: the stream ended after {done} of {total} lines; what came is written")
    return report


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise BadFile(f"{file} cannot be read: {error.strerror}") from error


def _count(file: Path) -> int:
    with _readable(file):
        return sum(1 for line in _lines(file) if line.strip())


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines):
            yield line if number else line.removeprefix(b"\xef\xbb\xbf")


def _pieces(file: Path, task: Task) -> Iterator[bytes]:
    """The file's lines as they are sent, in pieces that are worth a packet."""
    piece: list[bytes] = []
    size = 0
    for line in _lines(file):
        piece.append(_sent(line, task))
        size += len(piece[-1])
        if size >= _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    yield b"".join(piece)


def _sent(line: bytes, task: Task) -> bytes:
    """A line with the task's fields alone; one that cannot be read goes as it is, and the service says what is wrong."""
    try:
        document = json.loads(line)
        fields = {name: document[name] for name in task.input_fields}
    except (ValueError, LookupError, TypeError, RecursionError):
        return line.rstrip(b"\r\n") + b"\n"
    return json.dumps(fields).encode() + b"\n"


class _Stream:
    """One request whose body is sent while its answer is read: httpx would send all of it first, and both would wait."""

    def __init__(self, client: Client, advance: Advance) -> None:
        self._url = client.url
        self._headers = client.headers
        self._advance = advance
        self._http = h11.Connection(our_role=h11.CLIENT)

    async def run(self, pieces: Iterator[bytes], out: BinaryIO, report: BulkReport) -> None:
        """Send the pieces and write what comes. Raises RequestFailed."""
        url = urlsplit(self._url)
        try:
            reader, writer = await _connect(url)
        except (OSError, ValueError) as error:
            raise RequestFailed(f"no answer from {self._url}: {error}; is it running?") from error
        sending = asyncio.create_task(self._send(writer, url, pieces))
        try:
            await self._receive(reader, out, report)
            _check_sent(sending)
        except (TimeoutError, ConnectionError, h11.RemoteProtocolError) as error:
            raise RequestFailed(f"{_PATH}: the stream broke off: {error or 'no answer for a long time'}") from error
        finally:
            sending.cancel()
            writer.close()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, writer: asyncio.StreamWriter, url: SplitResult, pieces: Iterator[bytes]) -> None:
        headers = [
            ("Host", url.netloc.rpartition("@")[2]),
            ("Content-Type", "application/x-ndjson"),
            ("Transfer-Encoding", "chunked"),
            *self._headers.items(),
        ]
        target = url.path.rstrip("/") + _PATH
        writer.write(self._http.send(h11.Request(method="POST", target=target, headers=headers)) or b"")
        for piece in pieces:
            writer.write(self._http.send(h11.Data(data=piece)) or b"")
            await writer.drain()
        writer.write(self._http.send(h11.EndOfMessage()) or b"")
        await writer.drain()

    async def _receive(self, reader: asyncio.StreamReader, out: BinaryIO, report: BulkReport) -> None:
        rest = b""
        async for piece in self._body(reader):
            *complete, rest = (rest + piece).split(b"\n")
            for line in complete:
                out.write(line + b"\n")
                _note(line, report)
                self._advance()

    async def _body(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """The pieces of the response's body. Raises RequestFailed where the status is an error."""
        status, refusal = 0, b""
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                async with asyncio.timeout(_SILENCE_S):
                    self._http.receive_data(await reader.read(_PIECE))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data) and status == 200:
                yield bytes(event.data)
            elif isinstance(event, h11.Data):
                refusal += bytes(event.data)
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("the connection was closed")
        if status != 200:
            raise RequestFailed(f"{_PATH}: {_message(refusal) or status}")


def _check_sent(sending: asyncio.Task[None]) -> None:
    """Raise what kept the body from being sent; a connection that the service closed has told its story already."""
    fault = sending.exception() if sending.done() else None
    if fault is not None and not isinstance(fault, ConnectionError):
        raise fault


async def _connect(url: SplitResult) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    secure = url.scheme == "https"
    return await asyncio.open_connection(
        url.hostname, url.port or (443 if secure else 80), ssl=ssl.create_default_context() if secure else None
    )


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return ""


def _note(line: bytes, report: BulkReport) -> None:
    try:
        answer = json.loads(line)
        problem = answer.get("error")
        version = answer["model_version"] if problem is None else ""
    except (ValueError, LookupError, AttributeError):
        raise RequestFailed(f"{_PATH}: the answer is not that of a ratchet service: {line[:100]!r}") from None
    if problem is None:
        report.answered += 1
        report.versions[version] = report.versions.get(version, 0) + 1
        return
    report.refused += 1
    if len(report.problems) < _SHOWN:
        report.problems.append(f"line {answer['line']}: {problem['message']}")


def print_bulk(report: BulkReport, seconds: float, console: Console) -> None:
    """The sums, and the first of what was refused."""
    versions = ", ".join(f"{version} ({count})" for version, count in report.versions.items()) or "no version"
    rate = report.answered / seconds if seconds else 0.0
    console.print(
        f"{report.answered} texts answered in {seconds:.1f} s ({rate:.0f} a second) by {versions}; "
        f"{report.refused} lines refused"
    )
    for problem in report.problems:
        console.print(f"  {problem}")
