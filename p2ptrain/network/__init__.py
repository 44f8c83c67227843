"""The only place that imports grpc or hivemind."""
