"""The twistd plugins. Each names its module; nothing is imported before it is used."""

from twisted.application.service import ServiceMaker

WHOLE = "A mail node: receives, delivers, turns."
RECEIVER = "A mail node's part that accepts mail."
SENDER = "A mail node's part that works the spool off."

mailnode = ServiceMaker("mailnode", "mailnode.tap", WHOLE, "mailnode")
receiver = ServiceMaker("mailnode receiver", "mailnode.tap_receiver", RECEIVER, "mailnode-receiver")
sender = ServiceMaker("mailnode sender", "mailnode.tap_sender", SENDER, "mailnode-sender")
