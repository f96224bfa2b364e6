"""Who counts as taking part."""

from strategies.population import Population


def test_longest_silent_client_leaves_beyond_the_bound():
    population = Population(max_age=100.0, max_clients=2)
    for client in "abca":
        population.touch(client)

    assert population.expire(keep={"a"}) == ["b"]
    assert population.size == 2


def test_uploading_clients_stay_even_beyond_the_bound():
    population = Population(max_age=100.0, max_clients=1)
    for client in "abc":
        population.touch(client)

    assert population.expire(keep={"b", "c"}) == ["a"]
    assert population.size == 2


def test_client_leaves_when_silent_for_max_age_uploads_per_client():
    population = Population(max_age=2.0)
    population.touch("silent")
    for _ in range(4):
        population.touch("busy")
        assert population.expire(keep={"busy"}) == []

    population.touch("busy")

    assert population.expire(keep={"busy"}) == ["silent"]


def test_known_size_is_used_from_the_start():
    population = Population(max_age=1.0, num_clients=50)
    population.touch("a")

    assert population.size == 50
