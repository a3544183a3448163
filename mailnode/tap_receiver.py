"""twistd mailnode-receiver: only what accepts mail."""

from functools import partial

from mailnode import tap
from mailnode.tap import Options as Options

makeService = partial(tap.makeService, receive=True, send=False)  # noqa: N816 - twistd's name
