"""Generated from `protos/` by `make protos`; a test holds the two against each other."""
