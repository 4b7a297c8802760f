"""deepbooru.py: there only to be imported."""
