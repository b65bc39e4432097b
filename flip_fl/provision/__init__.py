"""Kits: what a server, an administrator and each site need to be part of a federation under their own name.

Kits for NVFLARE are made by its own provisioning library. Not there yet: kits for Flower, renewing a certificate,
issuing one for another host, revoking a slot, and the sites' settings template, policy, container and unit files.
"""
