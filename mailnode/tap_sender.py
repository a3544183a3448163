"""twistd mailnode-sender: only what works the spool off."""

from functools import partial

from mailnode import tap
from mailnode.tap import Options as Options

makeService = partial(tap.makeService, receive=False, send=True)  # noqa: N816 - twistd's name
