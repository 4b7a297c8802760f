"""A stand-in for AUTOMATIC1111's WebUI: as much of it as the host's side of the extension touches, and no more.

`modules` and `networks` here carry the WebUI's own names, and behave as its files do that the comments name. The suite
in tests/integration holds it to the real one: the same tests run against both.
"""
