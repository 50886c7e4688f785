"""A gateway in front of Ray's dashboard that asks for a token of its own, which can be replaced while it serves."""

import asyncio
import contextlib
import re
import secrets
import socket
from collections.abc import Iterator

from tls_proxy import HERE, pass_on, serving

_REFUSAL = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class TokenGateway:
    """Passes on what carries its token, with Ray's in place of it."""

    def __init__(self, port: int, ray_token: str) -> None:
        self._port, self._ray_token = port, ray_token
        self._open: dict[asyncio.StreamWriter, bytes] = {}
        self.token = secrets.token_hex(24)

    @property
    def is_followed(self) -> bool:
        """Whether somebody listens to a log."""
        return any(b"/logs/tail" in head for head in list(self._open.values()))

    def replace_token(self, token: str) -> None:
        """Take this token alone from here on; connections of the old one are cut off."""
        self.token = token
        for writer in list(self._open):
            writer.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; its first request tells."""
        head = await reader.readuntil(b"\r\n\r\n")
        given = re.search(rb"(?im)^authorization: bearer (\w+)\r$", head)
        if given is None or given[1].decode() != self.token:
            writer.write(_REFUSAL)
            writer.close()
            return
        self._open[writer] = head
        try:
            await pass_on(self._port, reader, writer, head.replace(given[1], self._ray_token.encode()))
        finally:
            del self._open[writer]


@contextlib.contextmanager
def token_gateway(port: int, ray_token: str) -> Iterator[tuple[TokenGateway, str]]:
    """A gateway to Ray's dashboard at ``port`` of the loopback, and its address."""
    gateway = TokenGateway(port, ray_token)
    with serving(gateway.handle) as own_port:
        yield gateway, f"http://{HERE}:{own_port}"
