"""HTTP as bytes in, events out: heads, framing, forwarding fields, multipart, media types. Pure."""
