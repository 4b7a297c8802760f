"""The few torchvision transforms that diffusers' script uses, for machines whose torch has no torchvision.

Only benchmarks/peer.py puts this folder on the path, and only where torchvision itself cannot be imported.
"""
