"""The twistd plugins. Each names its module; nothing is imported before it is used."""

from twisted.application.service import ServiceMaker

mailnode = ServiceMaker("mailnode", "mailnode.tap", "A mail node: receives, delivers, turns.", "mailnode")
receiver = ServiceMaker(
    "mailnode receiver", "mailnode.tap_receiver", "A mail node's part that accepts mail.", "mailnode-receiver"
)
sender = ServiceMaker(
    "mailnode sender", "mailnode.tap_sender", "A mail node's part that works the spool off.", "mailnode-sender"
)
