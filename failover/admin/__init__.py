"""The operators' door: `guards` decides who may come in, `requests` reads what they ask, `api` answers."""
