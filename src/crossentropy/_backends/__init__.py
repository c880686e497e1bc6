"""The backends: a folder or file each, of one shape (contract.py), loaded and chosen by registry.py."""
