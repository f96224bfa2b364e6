from asynclave.run.history import Evaluation, History, speed_up


def history(*points: tuple[float, float]) -> History:
    evaluations = [
        Evaluation(time, version, accuracy, 0.0) for version, (time, accuracy) in enumerate(points)
    ]
    return History("run", evaluations)


def test_compares_the_times_to_the_lower_of_the_two_best_accuracies() -> None:
    fast, slow = history((0, 0.1), (2, 0.8), (4, 0.9)), history((0, 0.1), (10, 0.7), (20, 0.85))

    gain = speed_up(fast, slow)

    assert gain is not None
    assert (gain.target, gain.asynchronous, gain.synchronous) == (0.85, 4, 20)
    assert gain.ratio == 5


def test_compares_at_a_given_target() -> None:
    fast, slow = history((0, 0.1), (2, 0.8)), history((0, 0.1), (10, 0.7), (30, 0.9))

    gain = speed_up(fast, slow, target=0.7)

    assert gain is not None and gain.ratio == 5


def test_says_nothing_about_a_target_that_was_not_reached() -> None:
    assert speed_up(history((0, 0.1), (2, 0.5)), history((0, 0.1), (3, 0.9)), target=0.8) is None


def test_a_slower_asynchronous_run_is_reported_as_such() -> None:
    gain = speed_up(history((0, 0.1), (10, 0.8)), history((0, 0.1), (5, 0.8)))

    assert gain is not None and gain.ratio == 0.5
