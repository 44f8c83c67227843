"""One of two nodes is four times slower: who waits for it takes more than twice as long as who does not."""

from benchmarks import slow_node


def test_dadao_is_there_in_less_than_half_of_the_time_of_gradient_tracking() -> None:
    dadao = slow_node.seconds_to_target(slow_node.topology({"name": "dadao", "unit": 1.0}, 2, 50, "complete"))
    assert dadao is not None
    tracking = {"name": "gradient-tracking", "lr": 0.8}
    assert slow_node.seconds_to_target(slow_node.topology(tracking, 2, 50, "complete"), 2 * dadao) is None
    alike = slow_node.topology(tracking, 2, 5, "complete", slow=False)
    assert slow_node.seconds_to_target(alike, 100) is not None, "it does get there"
