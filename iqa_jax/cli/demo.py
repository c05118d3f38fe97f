"""A page without a server, from the command line."""

from pathlib import Path
from typing import Annotated

import typer

from iqa_jax.cli.options import Ema, Json, Step, arguments_as_options, step_of
from iqa_jax.cli.output import put_out, say_of_revision
from iqa_jax.errors import UserError
from iqa_jax.files import new_directory


def demo(
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("demo"),
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="A run, a folder of weights, an ONNX file or hf://OWNER/NAME; with reference, without, or "
            "one of each; default: full-reference and blind, which ship with the package.",
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="onnxruntime-web, as `npm pack` wrote it or npm installed it; by default it is fetched from "
            "the npm registry once."
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the folder to this machine until Ctrl-C.")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Serve it and open it in the browser.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="To serve at; 0: any that is free.")] = 8000,
    step: Step = "best",
    ema: Ema = False,
    as_json: Json = False,
) -> None:
    """Write a page that scores pictures in the browser: drop two pictures or one, nothing leaves the machine.

    The folder works offline, and on any server of static files.

    Example: python -m iqa_jax demo --output demo --serve
    """
    from iqa_jax.reporting.demo import server_of, write_demo
    from iqa_jax.scoring.load import BLIND, FULL_REFERENCE, load

    output = new_directory(output)
    metrics = [
        load(name, step=step_of(step), ema=ema, engine=_engine(name))
        for name in weights or (FULL_REFERENCE, BLIND)
    ]
    for metric in metrics:
        say_of_revision(metric.record)
    with arguments_as_options("runtime"):
        page = write_demo(metrics, output, runtime=runtime)
    if not (serve or open_page):
        how = f"to see it: python -m http.server --directory {output}, then http://localhost:8000"
        put_out({"output": str(page)}, as_json, f"wrote {page}", how)
        return
    try:
        server = server_of(output, port)
    except UserError as error:
        raise UserError(f"--{error}") from None
    with server:
        address = f"http://localhost:{server.server_port}"
        put_out(
            {"output": str(page), "address": address}, as_json, f"wrote {page}", f"{address} until Ctrl-C"
        )
        if open_page:
            import webbrowser

            webbrowser.open(address)
        server.serve_forever()


def _engine(name: str) -> str:
    """onnx for weights that are in ONNX already; others are exported."""
    from iqa_jax.scoring.onnx_model import FILE
    from iqa_jax.weights.places import place_of

    place = place_of(name)
    return "onnx" if place.suffix.lower() == ".onnx" or (place / FILE).is_file() else "jax"
