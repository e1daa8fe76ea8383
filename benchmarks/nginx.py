"""nginx with nchan as a process on loopback: one server of event streams that is written in C, as a limit."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.deployment import eventually, free_port

MODULES = (
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),  # Debian's libnginx-mod-nchan
    Path("/usr/share/nginx/modules/ngx_nchan_module.so"),
)

CONFIGURATION = """
load_module {module};
{user}
worker_processes 1;
worker_rlimit_nofile 21000;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 512M;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{ return 204; }}
        location ~ ^/publish/(\\w+)$ {{
            nchan_publisher;
            nchan_channel_id $1;
            nchan_message_buffer_length 64;
        }}
        location ~ ^/watch/(\\w+)$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


def missing() -> str:
    """Why there is no nginx with nchan, or nothing."""
    if shutil.which("nginx", path=_path()) is None:
        return "there is no nginx on PATH"
    if not any(module.exists() for module in MODULES):
        return "nginx has no nchan: on Debian, apt install libnginx-mod-nchan"
    return ""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], tuple[str, int]]]:
    """The process and its address, for as long as the block lasts."""
    program = shutil.which("nginx", path=_path())
    assert program is not None
    port = free_port()
    module = next(module for module in MODULES if module.exists())
    configuration = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker could not write into the folder
    configuration.write_text(CONFIGURATION.format(module=module, user=user, folder=folder, port=port))
    with (folder / "nginx.log").open("wb") as output:
        process = subprocess.Popen(
            [program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(configuration)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(lambda: _answers(process, port), what="nginx answers")
        yield process, ("127.0.0.1", port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"  # where users do not look, and nginx is


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "nginx has ended"
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code == 204
    except httpx.TransportError:
        return False
