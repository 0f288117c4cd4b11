"""`make bench-failover`: the primary fails in every way we know while callers go on, with us and the peers.

`stage` builds the world (the primary in a network namespace of its own), `primary` is the stand-in that can
be told to misbehave, `peers` are HAProxy, nginx and Caddy set up as well as their manuals allow, `callers`
ask and judge, `readers` are inside long answers when the fault comes, `rows` are the faults; what begins with
`dicom_` is the same for associations. Needs root for the namespace.
"""
