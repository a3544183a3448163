"""What an operator writes, read: values, sections, decoding, checks. `mailnode.config` is its front."""
