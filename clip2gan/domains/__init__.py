"""What the package knows of single domains: their judges, and texts whose meaning is known."""
