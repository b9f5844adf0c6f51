import numpy as np
import pytest
from helpers.animations import (
    BLEND_SOURCE,
    DISPOSE_BACKGROUND,
    DISPOSE_NONE,
    PALETTE,
    animation_of,
    decoded_by_pillow,
    error_of,
    moving_square,
    read,
    read_animation,
    rgba_of,
    save_frames,
    square_indices,
    visible,
)
from PIL import Image, ImageCms

from gpukmeans_cli.formats.animation import encode_animation
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.system.atomic_files import ImageError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_frames_are_whole_canvases_although_the_file_stores_only_changes(tmp_path, suffix):
    frames = moving_square()
    path = save_frames(tmp_path / f"a{suffix}", frames, duration=[100, 50, 200, 40, 1000], loop=3)
    found = read(path)
    np.testing.assert_array_equal(found.frames, rgba_of(frames))
    assert found.frames.dtype == np.uint8
    assert found.durations == (100, 50, 200, 40, 1000)
    assert found.plays == (4 if suffix == ".gif" else 3)
    assert found.n_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".gif", {"disposal": 2}),
        (".png", {"disposal": DISPOSE_NONE, "blend": BLEND_SOURCE}),
        (".png", {"disposal": DISPOSE_BACKGROUND, "blend": BLEND_SOURCE}),
        (".webp", {}),
    ],
)
def test_a_cleared_frame_is_not_visible_in_the_next(tmp_path, suffix, options):
    frames = moving_square(mode="RGBA")
    path = save_frames(tmp_path / f"a{suffix}", frames, duration=100, **options)
    np.testing.assert_array_equal(visible(read(path).frames), visible(rgba_of(frames)))


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif", ".jpg", ".bmp"])
def test_a_still_image_is_not_an_animation(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    moving_square(1)[0].save(path)
    assert read_animation(path) is None


def test_pages_of_a_tiff_are_not_an_animation(tmp_path):
    assert read_animation(save_frames(tmp_path / "a.tif", moving_square())) is None


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_a_truncated_animation_is_an_error(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (4, 30, 30, 3), dtype=np.uint8)
    path = save_frames(tmp_path / f"a{suffix}", [Image.fromarray(frame) for frame in noise], duration=100)
    data = path.read_bytes()
    for fraction in (0.4, 0.6, 0.9):
        path.write_bytes(data[: int(fraction * len(data))])
        assert error_of(path).startswith("cannot be decoded (")


def test_a_file_that_cannot_be_opened_gives_the_error_of_a_still_image(tmp_path):
    assert error_of(tmp_path / "none.gif") == "does not exist; check the path"
    assert error_of(tmp_path) == "is a folder; name an image file in it"
    (tmp_path / "empty.gif").touch()
    assert error_of(tmp_path / "empty.gif").startswith("is empty")
    (tmp_path / "text.gif").write_text("no image")
    assert error_of(tmp_path / "text.gif").startswith("is not an image")


def test_a_grey_profile_is_dropped(tmp_path):
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]
    path = save_frames(tmp_path / "a.png", moving_square(mode="L"), duration=100, icc_profile=grey)
    assert read(path).metadata.icc_profile is None


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_equal_frames_are_not_merged(suffix):
    indices = np.repeat(square_indices(2), 3, axis=0)
    animation = animation_of([10, 20, 30, 40, 50, 60])
    frames, durations, _ = decoded_by_pillow(encode_animation(PALETTE, indices, animation, suffix))
    assert durations == [10, 20, 30, 40, 50, 60]
    np.testing.assert_array_equal(frames, PALETTE[indices])


@pytest.mark.parametrize(
    ("suffix", "plays", "stored"),
    [(".gif", 0, 0), (".gif", 1, None), (".gif", 2, 1), (".gif", 65_536, 65_535), (".gif", 1 << 30, 65_535)]
    + [(".png", plays, plays) for plays in (0, 1, 2, 65_536, 1 << 30)],
)
def test_a_gif_stores_repetitions_and_a_png_plays(tmp_path, suffix, plays, stored):
    data = encode_animation(PALETTE, square_indices(), animation_of([40] * 5, plays=plays), suffix)
    assert decoded_by_pillow(data)[2] == stored
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    assert read(path).plays == (plays if suffix == ".png" else min(plays, 65_536))


@pytest.mark.parametrize(("suffix", "stored"), [(".gif", "comment"), (".png", "all")])
def test_metadata_is_stored_as_far_as_the_format_allows(tmp_path, suffix, stored):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    metadata = Metadata(
        icc_profile=SRGB,
        dpi=(300.0, 150.0),
        exif=exif.tobytes()[6:],
        xmp=b"<x:xmpmeta/>",
        text={"Comment": "caf\xe9 \u540d " * 100, "Title": "short"},
    )
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode_animation(PALETTE, square_indices(), animation_of([40] * 5, metadata=metadata), suffix))
    found = read(path).metadata
    if stored == "comment":
        assert found == Metadata(text={"Comment": metadata.text["Comment"]})
        return
    assert found.dpi == pytest.approx((300, 150), abs=0.02)
    assert (found.icc_profile, found.exif, found.xmp, found.text) == (SRGB, metadata.exif, metadata.xmp, metadata.text)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize("target", [".gif", ".png"])
def test_a_decoded_animation_can_be_encoded_again(tmp_path, suffix, target):
    frames = moving_square(mode="RGBA")
    options = {".gif": {"disposal": 2}, ".png": {"blend": 0}}.get(suffix, {})
    source = read(save_frames(tmp_path / f"a{suffix}", frames, duration=[100, 50, 200, 40, 1000], loop=3, **options))
    palette, indices = np.unique(visible(source.frames).reshape(-1, 4), axis=0, return_inverse=True)
    indices = indices.reshape(source.frames.shape[:3]).astype(np.uint8)
    path = tmp_path / f"b{target}"
    path.write_bytes(encode_animation(palette, indices, source, target))
    decoded = read(path)
    np.testing.assert_array_equal(visible(decoded.frames), visible(rgba_of(frames)))
    assert decoded.durations == source.durations == (100, 50, 200, 40, 1000)
    assert decoded.plays == source.plays == (4 if suffix == ".gif" else 3)


def test_equal_frames_give_equal_bytes():
    for suffix in (".gif", ".png"):
        first, second = (encode_animation(PALETTE, square_indices(), animation_of([40] * 5), suffix) for _ in range(2))
        assert first == second


def test_another_suffix_is_an_error_that_lists_the_supported_ones():
    for suffix, name in ((".webp", ".webp"), ("", "file without suffix")):
        with pytest.raises(ImageError, match=rf"^cannot become an animated {name}; use \.gif or \.png$"):
            encode_animation(PALETTE, square_indices(), animation_of([40] * 5), suffix)


@pytest.mark.parametrize(
    ("palette", "indices", "durations", "message"),
    [
        (PALETTE.astype(np.int64), square_indices(), [40] * 5, "palette must be uint8"),
        (np.zeros((257, 3), dtype=np.uint8), square_indices(), [40] * 5, "palette must be uint8"),
        (PALETTE[:1], square_indices(), [40] * 5, "indices must be below 1"),
        (PALETTE, square_indices()[0], [40] * 5, "indices must be uint8"),
        (PALETTE, square_indices()[:0], [], "durations must have at least 1 value, got none"),
        (PALETTE, square_indices(), [40] * 6, "indices must have 6 frames"),
        (PALETTE, [square_indices()[0], square_indices()[0, :3]], [40] * 2, "indices must have 2 frames of one size"),
        (PALETTE, square_indices(), [40] * 4, "indices must have 4 frames"),
        (PALETTE, square_indices(), [40] * 4 + [float("nan")], "durations must be finite"),
        (PALETTE, square_indices(), [40] * 4 + [-1], "durations must be finite"),
    ],
)
def test_arguments_that_do_not_match_are_a_value_error(palette, indices, durations, message):
    with pytest.raises(ValueError, match=message):
        encode_animation(palette, indices, animation_of(durations), ".png")
