"""What Ray's dashboard sends of a log that grows: one connection, over which everything comes once.

Such a stream has no end, and not even a beginning while the log is empty. Whoever reads it is told when nothing came
for a while, and decides.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from ssl import SSLContext

logger = logging.getLogger(__name__)

_CONNECT_S = 30.0


def read_stream(url: str, headers: Mapping[str, str], ssl: SSLContext | bool, quiet_after_s: float) -> Iterator[bytes]:
    """The log's parts from its beginning on, an empty one for each time of quiet; ends where the connection breaks off.

    Raises:
        aiohttp.ClientResponseError: the dashboard sends no log; its message is what it says.
    """
    with asyncio.Runner() as runner:
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        receiving = runner.get_loop().create_task(_receive(url, headers, ssl, parts))
        while (part := runner.run(_next_part(parts, quiet_after_s))) is not None:
            yield part
        runner.run(_outcome(receiving))


async def _receive(
    url: str, headers: Mapping[str, str], ssl: SSLContext | bool, parts: asyncio.Queue[bytes | None]
) -> None:
    """Fills ``parts``, and ends them with None."""
    from aiohttp import ClientConnectionError, ClientPayloadError, ClientResponseError, ClientSession, ClientTimeout

    try:
        async with (
            ClientSession(headers=headers, timeout=ClientTimeout(sock_connect=_CONNECT_S)) as session,
            session.get(url, ssl=ssl) as answer,
        ):
            if answer.status != 200:
                said = (await answer.text()).strip()
                raise ClientResponseError(answer.request_info, (), status=answer.status, message=said)
            async for part in answer.content.iter_any():
                parts.put_nowait(part)
    except (ClientConnectionError, ClientPayloadError) as error:
        logger.debug("the connection to %s broke off: %s", url, error)
    finally:
        parts.put_nowait(None)


async def _next_part(parts: asyncio.Queue[bytes | None], quiet_after_s: float) -> bytes | None:
    try:
        return await asyncio.wait_for(parts.get(), quiet_after_s)
    except TimeoutError:
        return b""


async def _outcome(receiving: asyncio.Task[None]) -> None:
    await receiving
