"""The HTTP application: its routes, who may use them, and how errors are told."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..errors import DeviceError, FitError, LinkError, RequestError, TernlightError
from ..image import Image
from ..tokenizer import Tokenizer
from .engine import BusyError, Engine
from .generation import Generation
from .protocol import Answer, Asked, Limits, ParameterError, error_body, read_chat, read_completion, usage_of

BODY_SECONDS = 30.0
"""A client that sends its body more slowly is turned away."""
RETRY_AFTER = {"Retry-After": "5"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def build_app(
    engine: Engine,
    image: Image,
    *,
    keys: Sequence[str] = (),
    limits: Limits | None = None,
    hosts: Sequence[str] = ("*",),
) -> Starlette:
    """The application of a started engine.

    keys: any of them opens /v1; without keys everybody may use it. hosts: names by which clients may call the server:
    a web page of anywhere can point a name of its own at this machine.
    """
    server = _Server(engine, image, [key.encode() for key in keys], limits or Limits())
    return Starlette(
        routes=[
            Route("/", server.page),
            Route("/health", server.health),
            Route("/v1/models", server.models),
            Route("/v1/models/{model:path}", server.model),
            Route("/v1/completions", server.completions, methods=["POST"]),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={TernlightError: _refusal, HTTPException: _http_refusal},
        lifespan=server.lifespan,
    )


class _Server:
    """What the routes share."""

    def __init__(self, engine: Engine, image: Image, keys: list[bytes], limits: Limits) -> None:
        self.engine = engine
        self.image = image
        self.keys = keys
        self.limits = limits
        assert image.tokenizer is not None
        self.tokenizer = Tokenizer(image.tokenizer)
        self.created = int(time.time())
        self.html = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """The engine ends with the application."""
        yield
        await run_in_threadpool(self.engine.close)

    async def page(self, _: Request) -> Response:
        """A page to chat on."""
        return HTMLResponse(self.html, headers=PAGE_HEADERS)

    async def health(self, _: Request) -> Response:
        """Whether the device answers, and what it does."""
        health = self.engine.health()
        return JSONResponse(health, 200 if health["status"] == "ok" else 503)

    async def models(self, request: Request) -> Response:
        """The one model."""
        self._authorise(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """A model by its name."""
        self._authorise(request)
        name = request.path_params["model"]
        if name != self.image.config.name:
            raise ParameterError("model", f"there is no model {name!r} here", "model_not_found")
        return JSONResponse(self._model())

    async def completions(self, request: Request) -> Response:
        """A text goes on."""
        return await self._generate(request, read_completion, chat=False)

    async def chat(self, request: Request) -> Response:
        """A conversation, made one text, goes on."""
        return await self._generate(request, read_chat, chat=True)

    async def _generate(
        self, request: Request, read: Callable[[dict[str, Any], str, Limits], Asked], *, chat: bool
    ) -> Response:
        self._authorise(request)
        body = await self._body(request)
        name = self.image.config.name
        asked = read(body, name, self.limits)
        prompt = asked.prompt
        if isinstance(prompt, str):
            prompt = await run_in_threadpool(self.tokenizer.encode, prompt)
        if len(prompt) > self.limits.prompt_tokens:
            limit = self.limits.prompt_tokens
            raise ParameterError(
                "prompt" if not chat else "messages",
                f"the prompt has {len(prompt)} tokens, and the limit here is {limit}: shorten it",
                "context_length_exceeded",
            )
        host = request.client.host if request.client is not None else ""
        eos = self.image.config.eos
        generation = Generation(
            self.engine,
            self.tokenizer,
            prompt=prompt,
            max_tokens=asked.max_tokens,
            sampling=asked.sampling,
            stop=[] if eos is None else [eos],
            stops=asked.stops,
            client=f"{host} {asked.user}",
        )
        fingerprint = f"{self.engine.build_id:08x}-{self.engine.model.identity:08x}"
        answer = Answer.new(chat=chat, model=name, fingerprint=fingerprint)
        if asked.stream:
            return _EventStream(generation, answer, usage=len(prompt) if asked.usage_in_stream else None)
        try:
            text = await _while_connected(request, _whole(generation))
        finally:
            generation.cancel()
        if text is None:
            return Response(status_code=499)  # Nobody reads it.
        return JSONResponse(answer.whole(text, generation.finish, usage_of(len(prompt), generation.generated)))

    def _model(self) -> dict[str, Any]:
        return {"id": self.image.config.name, "object": "model", "created": self.created, "owned_by": "ternlight"}

    def _authorise(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if self.keys and not (
            scheme.lower() == "bearer"
            and any(secrets.compare_digest(key.strip().encode(), known) for known in self.keys)
        ):
            raise HTTPException(401, "this server wants an API key: send Authorization: Bearer KEY")

    async def _body(self, request: Request) -> dict[str, Any]:
        # A page of another site can send no JSON without asking first, and is not answered then.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the body must be JSON: send Content-Type: application/json")
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    data += piece
                    if len(data) > self.limits.body_bytes:
                        raise HTTPException(413, f"the body is larger than the limit of {self.limits.body_bytes} bytes")
        except TimeoutError:
            raise HTTPException(408, f"the body did not come within {BODY_SECONDS:g} seconds") from None
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            raise HTTPException(400, "the body is no JSON") from None
        if not isinstance(body, dict):
            raise HTTPException(400, "the body must be a JSON object")
        return body


class _EventStream(StreamingResponse):
    """Server-sent events of an answer; a client that goes away ends it on the device. usage: prompt tokens to tell."""

    def __init__(self, generation: Generation, answer: Answer, *, usage: int | None) -> None:
        self._generation = generation
        self._answer = answer
        self._usage = usage
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.cancel()

    async def _events(self) -> AsyncGenerator[bytes, None]:
        generation, answer, first = self._generation, self._answer, True
        try:
            async with aclosing(generation.pieces()) as pieces:
                async for piece in pieces:
                    yield _event(answer.piece(piece, first=first))
                    first = False
        except TernlightError as error:
            yield _event(_told(error)[1])
            return
        if first:
            yield _event(answer.piece("", first=True))
        yield _event(answer.end(generation.finish))
        if self._usage is not None:
            yield _event(answer.usage(usage_of(self._usage, generation.generated)))
        yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


async def _whole(generation: Generation) -> str:
    async with aclosing(generation.pieces()) as pieces:
        return "".join([piece async for piece in pieces])


async def _while_connected(request: Request, work: Any) -> Any:
    """The result of a coroutine, or None when the client has gone away before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        watch.cancel()


def _told(error: TernlightError) -> tuple[int, dict[str, Any]]:
    """Status and body of an error."""
    if isinstance(error, ParameterError):
        status = 404 if error.code == "model_not_found" else 400
        return status, error_body(str(error), "invalid_request_error", name=error.name, code=error.code)
    if isinstance(error, RequestError | FitError):
        return 400, error_body(str(error), "invalid_request_error", code="invalid_value")
    if isinstance(error, BusyError):
        return 429, error_body(str(error), "rate_limit_error", code="busy")
    if isinstance(error, LinkError | DeviceError):
        return 503, error_body(str(error), "server_error", code="device_unavailable")
    return 500, error_body(str(error), "server_error")


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, TernlightError)
    status, body = _told(error)
    return JSONResponse(body, status, headers=RETRY_AFTER if status in (429, 503) else None)


async def _http_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "invalid_api_key" if error.status_code == 401 else None
    headers = dict(error.headers or {}) | ({"WWW-Authenticate": "Bearer"} if error.status_code == 401 else {})
    return JSONResponse(
        error_body(error.detail, "invalid_request_error", code=code), error.status_code, headers=headers
    )
