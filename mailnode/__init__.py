"""mailnode: a mail node on Twisted that speaks the whole of RFC 821."""

__version__ = "0.1.0"
