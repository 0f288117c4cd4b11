"""The HTTP reverse proxy: our own data path on asyncio protocols, and the pure rules of who answers.

`classify`, `rewrite`, `retry`, `hold` and `stow` decide and are pure; `caller`, `upstream`, `pool`, `body`,
`exchange` and `tunnel` move bytes; `server` puts them together. What an upstream can do it is told by `app`.
"""
