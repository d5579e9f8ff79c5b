"""The servers that Ratchet is measured against, one a file, each tuned as its own documentation says."""
