"""What nodes say about themselves: event types, the fold (state, event) -> state, and sinks."""
