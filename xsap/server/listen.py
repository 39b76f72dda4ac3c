"""Listening: a port is taken first and opened last, and a service that is stopped first answers what it has accepted."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from xsap.errors import ConfigError

KEEP_ALIVE = 30  # seconds for which an idle connection stays open


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that has an address but does not listen yet, so that nobody connects to a service that is not ready.

    Args:
        host: Name or address to listen on.
        port: The port; 0 for any that is free.

    Raises:
        ConfigError: There is no such host, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"expected --host to be a name or address of this computer, found '{host}'") from None
    with socket.socket(family, kind, protocol) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reserved.bind(address)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}, port {port}: {error.strerror}; choose another --port"
            ) from None
        yield reserved


def address_of(reserved: socket.socket, host: str) -> str:
    """The URL of a service, without a slash at its end.

    Args:
        reserved: Its socket.
        host: As given.
    """
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{reserved.getsockname()[1]}"


def serve_until_stopped(app: ASGIApp, reserved: socket.socket, on_ready: Callable[[], None]) -> None:
    """Answer requests until SIGTERM or Ctrl+C; what was accepted by then is answered first.

    Args:
        app: The service.
        reserved: Where it listens from now on.
        on_ready: Called once it listens.

    Raises:
        KeyboardInterrupt: After Ctrl+C.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.ensure_future(server.serve([reserved]))
        while not (server.started or serving.done()):
            await asyncio.sleep(0.005)
        if server.started:
            on_ready()
        await serving

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        server.should_exit = True

    # uvicorn stops at a signal, then raises it once more for the handler before: a service that ends after SIGTERM has not failed
    before = signal.signal(signal.SIGTERM, stop)
    try:
        asyncio.run(run())
    finally:
        signal.signal(signal.SIGTERM, before)
