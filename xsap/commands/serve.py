"""`xsap serve`: answer OpenRefine, other programs and FHIR clients from an index, over HTTP."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from xsap.errors import ConfigError
from xsap.terminal import Ann, Dtype, DtypeOption, MovedModel, Rerank, announce_wait, log


def serve(
    index: Annotated[Path, typer.Option(help="Index folder.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for every network of this computer.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
    public_url: Annotated[
        str | None, typer.Option(help="Address that clients use, if the service is behind a proxy.")
    ] = None,
    model: MovedModel = None,
    rerank: Rerank = None,
    ann: Ann = False,
    dtype: DtypeOption = Dtype.AUTO,
    max_batch: Annotated[int, typer.Option(min=1, help="Maximum number of mentions in a request.")] = 256,
    max_queue: Annotated[
        int,
        typer.Option(
            min=1, help="Maximum number of mentions that wait for answers; above it, requests get status 503."
        ),
    ] = 4096,
) -> None:
    """Serve an index over HTTP: JSON, OpenRefine and FHIR."""
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise ConfigError(f"xsap serve needs {package}; install it: pip install 'xsap[serve]'")
    if max_batch > max_queue:
        raise ConfigError(f"--max-queue must be at least --max-batch, found {max_queue:,} and {max_batch:,}")
    from xsap.server.listen import address_of, reserved_port, serve_until_stopped

    with reserved_port(host, port) as reserved:  # before the model is loaded, so that a port in use is reported at once
        with announce_wait(f"loading the model of {index}"):
            from xsap.linking.linker import Linker
            from xsap.server.app import ServiceLimits, create_service, is_loopback, warm_up

            linker = Linker.load(index, model=model, ann=ann, dtype=dtype.value, rerank=rerank)
            local_only = is_loopback(host)
            limits = ServiceLimits(max_batch, max_queue)
            app = create_service(linker, linker.index, limits=limits, local_only=local_only, public_url=public_url)
            warm_up(linker)
        if not local_only:
            log(
                f"warning: {host} is not this computer alone: whoever reaches this port can use the service, without a password"
            )
        url = address_of(reserved, host)
        serve_until_stopped(
            app, reserved, lambda: log(f"{url}/reconcile/0.2 for OpenRefine; {url}/link for programs; Ctrl+C stops")
        )
