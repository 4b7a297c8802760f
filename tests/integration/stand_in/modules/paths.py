"""paths.py: set by the server from --data-dir."""

data_path = ""
