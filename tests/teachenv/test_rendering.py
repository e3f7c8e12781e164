import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachenv.rendering import HEIGHT, WIDTH, Frame, draw, text

floats = st.floats(allow_nan=True, allow_infinity=True)
LEFT, RIGHT = np.s_[:, : WIDTH // 2], np.s_[100:420, WIDTH * 6 // 10 : WIDTH * 9 // 10]


def frame(steps: int = 5, **changes) -> Frame:
    fields = {
        "steps": list(range(1, steps + 1)),
        "objective": [0.1 + 0.05 * i for i in range(steps)],
        "dev_score": [0.2 + 0.05 * i for i in range(steps)],
        "train_loss": [2.0 - 0.1 * i for i in range(steps)],
        "horizon": 20,
        "coefficients": np.eye(10),
        "coefficient_label": "loss matrix",
        "title": "digits",
    }
    return Frame(**(fields | changes))


@pytest.mark.parametrize("steps", [0, 1, 15])
@pytest.mark.parametrize("shape", [(1, 7), (1, 1), (10, 10), (100, 100), (1, 500), (3, 40)])
def test_frames_are_rgb_images_of_one_even_size(steps, shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    image = draw(frame(steps, coefficients=matrix))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert HEIGHT % 2 == WIDTH % 2 == 0
    assert image.flags.c_contiguous
    assert image.std() > 5


def test_the_same_frame_is_the_same_image():
    assert np.array_equal(draw(frame()), draw(frame()))


def test_each_half_shows_its_own_part():
    plain = draw(frame())
    moved = draw(frame(objective=[0.9] * 5))
    recoloured = draw(frame(coefficients=-np.eye(10)))
    assert not np.array_equal(plain[LEFT], moved[LEFT])
    assert np.array_equal(plain[RIGHT], moved[RIGHT])
    assert not np.array_equal(plain[RIGHT], recoloured[RIGHT])
    assert np.array_equal(plain[LEFT], recoloured[LEFT])


def test_positive_is_red_negative_is_blue_and_zero_is_near_white():
    def middle(value):
        red, green, blue = draw(frame(coefficients=np.full((2, 2), value)))[200, 650].astype(int)
        return red, green, blue

    assert middle(1.0)[0] > middle(1.0)[2] + 50
    assert middle(-1.0)[2] > middle(-1.0)[0] + 50
    assert min(middle(0.0)) > 230


def test_a_diverged_student_is_still_drawn():
    bad = [float("nan"), float("inf"), -float("inf"), 1e300, 0.5]
    matrix = np.eye(4)
    matrix[0, 0], matrix[1, 1] = np.nan, np.inf
    diverged = frame(objective=bad, dev_score=bad, train_loss=bad, coefficients=matrix)
    assert draw(diverged).shape == (HEIGHT, WIDTH, 3)
    assert "nan" in text(frame(objective=[*bad[1:], float("nan")]))
    assert draw(frame(coefficients=np.full((1, 3), np.nan))).shape == (HEIGHT, WIDTH, 3)


def test_titles_are_text_and_not_mathematics():
    assert draw(frame(title="cost $5 of $x_", coefficient_label="a$b$")).shape == (HEIGHT, WIDTH, 3)


def test_drawing_leaves_no_global_state(in_new_process):
    in_new_process(
        "import sys, numpy as np, teachenv.rendering as r\n"
        "assert 'matplotlib' not in sys.modules\n"
        "r.draw(r.Frame([], [], [], [], 5, np.eye(3), 'c', 't'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )


def test_text_shows_progress_numbers_and_the_course_of_the_objective():
    lines = text(frame(objective=[0.0, 0.25, 0.5, 0.75, 1.0])).splitlines()
    assert lines[0] == "digits"
    assert "25%  step 5/20" in lines[1]
    assert lines[1].count("█") == 10  # of 40
    assert "dev objective 1.000   dev accuracy 0.400   train loss 1.600" in lines[2]
    assert lines[3].endswith("▁▃▅▆█")
    assert lines[4] == "loss matrix: 10x10, 0 to 1"


def test_text_of_a_fresh_episode_has_no_numbers_yet():
    assert "dev objective -   dev accuracy -   train loss -" in text(frame(0))
    assert "0%  step 0/20" in text(frame(0))


def test_a_long_history_ends_with_its_last_value():
    values = [0.0] * 999 + [1.0]
    line = text(frame(1000, horizon=1000, objective=values)).splitlines()[3]
    assert line.endswith("▁█")
    assert len(line) < 80


@given(values=st.lists(floats, max_size=60))
def test_text_never_fails_and_stays_narrow(values):
    n = len(values)
    shown = text(frame(n, objective=values, dev_score=values, coefficients=np.array([[*values, 1.0]]), horizon=100))
    assert shown.count("\n") == 4
    assert len(shown.splitlines()[3]) < 80


def test_frames_that_cannot_be_drawn_are_errors():
    with pytest.raises(ValueError, match="one entry of each per recorded step"):
        frame(objective=[0.1])
    for shape in ((3,), (0, 3), (2, 2, 2)):
        with pytest.raises(ValueError, match="expected a non-empty matrix"):
            frame(coefficients=np.zeros(shape))
    with pytest.raises(ValueError, match="horizon is 0"):
        frame(horizon=0)
