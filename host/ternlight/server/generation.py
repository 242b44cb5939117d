"""From a job in the engine's thread to pieces of text on the server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from ..abi import Finish
from ..errors import TernlightError
from ..sampling import Sampling
from ..tokenizer import StreamDecoder, Tokenizer
from .engine import Engine, Job
from .stop_text import StopText


class Generation:
    """One answer on its way. It is submitted when it is made: raises RequestError or BusyError.

    prompt: its tokens; stop: tokens that end it; stops: texts that do. client: in whose turn it is served.
    Attributes: finish ("length" or "stop", once the pieces have ended), generated (tokens so far).
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        prompt: list[int],
        max_tokens: int,
        sampling: Sampling,
        stop: Sequence[int],
        stops: Sequence[str],
        client: str,
    ) -> None:
        self.finish = ""
        self.generated = 0
        self._engine = engine
        self._decoder = StreamDecoder(tokenizer)
        self._stop = StopText(stops)
        self._loop = asyncio.get_running_loop()
        # Bounded by max_tokens: the device does not wait for a slow client.
        self._news: asyncio.Queue[list[int] | Finish | TernlightError] = asyncio.Queue()
        self._job = Job(client, prompt, max_tokens, sampling, stop, self._tell, self._tell)
        engine.check(self._job)
        engine.submit(self._job)

    def cancel(self) -> None:
        """Nobody wants the rest: the device is free for others. Does no harm to an answer that has ended."""
        self._engine.cancel(self._job)

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The text, in pieces of whole characters; raises the TernlightError that ends it too early."""
        while True:
            match await self._news.get():
                case list(tokens):
                    piece = "".join(map(self._take, tokens))
                    if piece:
                        yield piece
                    if self._stop.stopped:
                        self.finish = "stop"
                        self.cancel()
                        return
                case Finish() as finish:
                    piece = self._stop.push(self._decoder.finish()) + self._stop.finish()
                    if piece:
                        yield piece
                    self.finish = "stop" if finish == Finish.STOP or self._stop.stopped else "length"
                    return
                case TernlightError() as error:
                    raise error

    def _take(self, token: int) -> str:
        if self._stop.stopped:
            return ""
        self.generated += 1
        return self._stop.push(self._decoder.push(token))

    def _tell(self, news: list[int] | Finish | TernlightError) -> None:
        # From the engine's thread; a loop that is closed has no more clients.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
