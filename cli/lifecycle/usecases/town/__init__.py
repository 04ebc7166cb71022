"""Card payments of an invented town: a use case small enough to live a whole life within minutes."""
