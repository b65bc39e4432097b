"""What the services of this package share: serving on loopback, bounds, and refusals that leak nothing."""
