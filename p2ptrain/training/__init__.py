"""The only place that touches `nn.Module`: the flat replica, the trainer, checkpoints, and the tasks that ship."""
