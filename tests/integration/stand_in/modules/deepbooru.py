"""deepbooru.py: nothing is described here."""
