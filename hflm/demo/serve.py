"""`hflm demo`: loads a model and serves its page on this machine only."""

import ipaddress
import os
import socket
import sys
import threading

from hflm.core import MissingExtra, UserError
from hflm.demo.tabs import Examples

FONT, MONOSPACE = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # nothing to fetch
LAUNCH = {
    "prevent_thread_lock": True,
    "quiet": True,
    "inline": False,
    "share": False,
    "enable_monitoring": False,
    "run_history": False,  # would keep what was typed in the browser
    "mcp_server": False,
    "pwa": False,
    "ssr_mode": False,
    "num_workers": 0,
    "footer_links": [],
    "max_file_size": "1kb",  # nothing is uploaded
}


def serve_demo(
    model: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    revision: str | None = None,
    examples: Examples | None = None,
    dtype: str | None = None,
) -> None:
    """Load a model, serve its page until Ctrl-C, and print the address. `examples` and `dtype` as open_session takes them.

    Raises MissingExtra without Gradio, UserError when the port is taken, and ModelError.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it when it is imported
    try:
        from gradio.themes import Default as DefaultTheme
    except ImportError:
        raise MissingExtra("demo", "hflm demo", "hflm demo MODEL") from None
    import matplotlib

    from hflm.demo.app import STYLE, build_page
    from hflm.demo.session import SETTINGS, open_session

    _try_address(host, port)
    if not is_loopback(host):
        print(
            f"warning: {host} is not this machine alone: everybody who reaches it can use the demo, without a password.",
            file=sys.stderr,
        )
    session = open_session(model, revision, examples, dtype)
    # Gradio asks matplotlib for its backend at each request: found out at the first one, that takes seconds.
    matplotlib.use("agg")
    # The first text takes longer than all later ones.
    next(session.continuation("", 0, {name: value for name, (_, _, value, _) in SETTINGS.items()}))
    page = build_page(session)
    try:
        _, address, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            css=STYLE,
            theme=DefaultTheme(
                primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONOSPACE
            ),
            **LAUNCH,
        )
    except OSError as error:
        raise _address_error(host, port, error) from None
    print(f"{session.title}: {address}  (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


def _try_address(host: str, port: int | None) -> None:
    """Raises UserError for an address that cannot be listened at, before a model is loaded for nothing."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise _address_error(host, port, error) from None


def _address_error(host: str, port: int | None, error: OSError) -> UserError:
    address = host if port is None else f"{host}, port {port}"
    return UserError(f"the page cannot be served at {address}: {error.strerror or error}. Try another --port or --host")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
