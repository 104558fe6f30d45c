"""Around `Model.submit`: many images in order, and one from asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from .errors import FoveateError
from .result import Result

Submit = Callable[[Any], Future[Result]]


def in_order(
    submit: Submit, images: Iterable[Any], ahead: int, return_exceptions: bool
) -> Iterator[Result | FoveateError]:
    """The answers of images that are submitted up to `ahead` before theirs is asked for. Those that nobody asks for any
    more are cancelled."""
    futures: deque[Future[Result]] = deque()

    def first() -> Result | FoveateError:
        try:
            return futures.popleft().result()
        except FoveateError as error:
            if not return_exceptions:
                raise
            return error

    try:
        for image in images:
            if len(futures) == ahead:
                yield first()
            futures.append(submit(image))
        while futures:
            yield first()
    finally:
        for future in futures:
            future.cancel()


async def awaited(submit: Submit, image: Any) -> Result:
    """On a thread of the event loop's executor, for `submit` may wait for room. Cancelled, it cancels the image too."""
    submitted = asyncio.get_running_loop().run_in_executor(None, submit, image)
    try:
        future = await asyncio.shield(submitted)
    except asyncio.CancelledError:
        submitted.add_done_callback(
            lambda done: done.cancelled() or done.exception() or done.result().cancel()
        )
        raise
    return await asyncio.wrap_future(future)
