"""A bounded buffer filled by one thread: what comes out is what the function gives, in order, its errors too."""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """Calls `produce` again and again in a thread, at most `depth` results ahead; ends with its last reference."""

    def __init__(self, produce: Callable[[], Item], depth: int) -> None:
        self._buffer: _Buffer[Item] = _Buffer(depth)
        # The thread knows the buffer, not this object, so that a forgotten one is collected and ends its thread.
        self._thread = threading.Thread(target=_work, args=(self._buffer, produce), daemon=True, name="loader")
        self._end = weakref.finalize(self, _close, self._buffer, self._thread)
        self._thread.start()

    def get(self) -> Item:
        """The next result; waits for it. Raises what `produce` raised, now and at every later call."""
        return self._buffer.take()

    def close(self) -> None:
        """End the thread after the call that it is in; results not taken are lost."""
        self._end()


class _Buffer(Generic[Item]):
    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[Item] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def wait_for_room(self) -> bool:
        """Whether to go on: False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            return not self._closed

    def take(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._error is not None)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            assert self._error is not None
            raise self._error

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _work(buffer: "_Buffer[Item]", produce: Callable[[], Item]) -> None:
    try:
        while buffer.wait_for_room():
            buffer.put(produce())
    except BaseException as error:  # noqa: BLE001 - handed to whoever takes
        buffer.fail(error)


def _close(buffer: "_Buffer[Item]", thread: threading.Thread) -> None:
    buffer.close()
    if thread is not threading.current_thread():
        thread.join()
