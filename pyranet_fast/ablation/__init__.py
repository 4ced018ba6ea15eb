"""The studies behind `python -m pyranet_fast.ablate`."""
