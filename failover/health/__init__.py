"""Observed health of both upstreams: probes, live traffic, and the rule that makes verdicts of them."""
