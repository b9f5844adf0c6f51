import io

import pytest
from PIL import Image

from gpukmeans_cli.formats.gif_scan import is_animated_gif


def gif(n_frames, **options):
    data = io.BytesIO()
    first, *others = [Image.effect_noise((40, 30), 9 + i) for i in range(n_frames)]
    first.save(data, "GIF", save_all=True, append_images=others, **options)
    return data.getvalue()


@pytest.mark.parametrize("options", [{}, {"loop": 0}, {"comment": b"x" * 600}, {"transparency": 3}])
def test_a_gif_is_animated_from_two_frames_on(tmp_path, options):
    for n_frames in (1, 2, 5):
        path = tmp_path / f"{n_frames}.GIF"
        path.write_bytes(gif(n_frames, **options))
        assert is_animated_gif(path) == (n_frames > 1)


def test_a_gif_that_ends_early_is_animated_once_its_second_frame_begins(tmp_path):
    data, path = gif(2), tmp_path / "a.gif"
    seen = []
    for end in range(len(data)):
        path.write_bytes(data[:end])
        seen.append(is_animated_gif(path))
    assert seen == sorted(seen)
    assert seen[0] is False
    assert seen[-1] is True


def test_other_files_are_not_animated_gifs(tmp_path):
    for name, data in {"a.png": gif(2), "b.gif": b"GIF87b" + gif(2)[6:], "c.gif": gif(1)[:30] + b"xyz"}.items():
        (tmp_path / name).write_bytes(data)
        assert not is_animated_gif(tmp_path / name)
    (tmp_path / "d.gif").mkdir()
    assert not is_animated_gif(tmp_path / "d.gif")
    assert not is_animated_gif(tmp_path / "none.gif")
