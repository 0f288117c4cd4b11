"""The one audit trail: what happened to the route, by whose wish, and why."""
