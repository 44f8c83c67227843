"""Virtual time and simulated links: the same nodes, deterministic. A public test tool."""
