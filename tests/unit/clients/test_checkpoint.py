"""An operation that follows another at once has its answer for itself."""

from __future__ import annotations

import threading

from failover.clients.checkpoint import Checkpoint
from tests.peers.process import wait_for


class Reactor:
    """What pynetdicom's `Association` does in its own thread: pause if told to, then look for a message."""

    def __init__(self) -> None:
        self._is_paused = False
        self._reactor_checkpoint = Checkpoint(self)
        self.looked = 0
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            self._is_paused = True
            self._reactor_checkpoint.wait()
            self._is_paused = False
            self.looked += 1


def test_a_reactor_that_is_paused_again_before_it_woke_does_not_look() -> None:
    reactor = Reactor()
    checkpoint = reactor._reactor_checkpoint
    thread = threading.Thread(target=reactor.run)
    thread.start()
    try:
        for _ in range(8):
            checkpoint.set()
            checkpoint.clear()  # the next operation begins: from "paused" on, the answer is its own
            wait_for(lambda: reactor._is_paused, "it is paused")
            looked = reactor.looked
            threading.Event().wait(0.002)
            assert reactor.looked == looked
    finally:
        reactor.ended = True
        checkpoint.set()
        thread.join(30)


def test_it_goes_on_when_the_operation_has_ended() -> None:
    reactor = Reactor()
    thread = threading.Thread(target=reactor.run)
    thread.start()
    reactor._reactor_checkpoint.clear()
    wait_for(lambda: reactor._is_paused, "it is paused")
    looked = reactor.looked
    reactor._reactor_checkpoint.set()
    wait_for(lambda: reactor.looked > looked, "it looks again")
    reactor.ended = True
    thread.join(30)
