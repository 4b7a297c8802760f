"""A stand-in for AUTOMATIC1111's WebUI, with the parts that the extension uses.

`modules` and `networks` have the WebUI's own names and behave like the files that their docstrings name. The same tests run
against the stand-in and a real WebUI.
"""
