"""The only place that imports grpc or hivemind."""

import os

# gRPC writes a line to stderr for every connection that ends; it reads this once, when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
