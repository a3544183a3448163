"""An intake that counts the messages which one conversation brings."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailnode.interfaces import ICustody, IIntake
from mailnode.mail import PLAIN_TERMS, Body, Client, Envelope, Mode, Path, Reply, Rights, Terms


@implementer(IIntake)
class CountedIntake:
    """`begun` transactions, `taken` messages."""

    def __init__(self, intake: IIntake) -> None:
        self._intake = intake
        self.begun = 0
        self.taken = 0
        self._open = 0

    def use(self, intake: IIntake) -> None:
        """The next transactions are for this one."""
        self._intake = intake

    @property
    def idle(self) -> bool:
        """Whether no transaction is open."""
        return not self._open

    def begin(
        self,
        client: Client,
        rights: Rights,
        mode: Mode,
        reverse_path: Path,
        size: int,
        terms: Terms = PLAIN_TERMS,
        once: str = "",
    ) -> ICustody | Reply:
        self.begun += 1
        custody = self._intake.begin(client, rights, mode, reverse_path, size, terms, once)
        if isinstance(custody, Reply):
            return custody
        self._open += 1
        return _Counted(self, custody)

    def submit(self, envelope: Envelope, body: Body) -> Deferred[str]:
        return self._intake.submit(envelope, body)

    def ended(self, is_taken: bool) -> None:
        self._open -= 1
        self.taken += is_taken


@implementer(ICustody)
class _Counted:
    """A custody whose end is counted."""

    def __init__(self, counted: CountedIntake, custody: ICustody) -> None:
        self._counted = counted
        self._custody = custody
        self.recipient = custody.recipient
        self.open = custody.open
        self.write = custody.write
        self._over = False

    def commit(self, hurry: bool = True) -> Deferred[Reply]:
        return self._custody.commit(hurry).addCallback(self._committed)

    def abort(self) -> None:
        self._custody.abort()
        self._end(False)

    def _committed(self, reply: Reply) -> Reply:
        self._end(reply.ok)
        return reply

    def _end(self, is_taken: bool) -> None:
        if not self._over:
            self._over = True
            self._counted.ended(is_taken)
