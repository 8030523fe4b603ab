import pytest

from vsr.config.legacy_realesrgan import translate_realesrgan
from vsr.config.reader import Node, parse, plain

GAN = "model_type: RealESRGANModel\ndatasets: {train: {type: RealESRGANDataset}}\n"


def translated(text: str) -> Node:
    root = parse(text, "x.yml")
    assert isinstance(root, Node)
    translate_realesrgan(root)
    return root


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (f"{GAN}l1_gt_usm: true\npercep_gt_usm: true\ngan_gt_usm: true", {"type": "USM"}),
        (f"{GAN}l1_gt_usm: true\npercep_gt_usm: true\ngan_gt_usm: false", {"type": "USM"}),
        # LQ is made from sharpened GT in any case
        (f"{GAN}l1_gt_usm: false\npercep_gt_usm: false\ngan_gt_usm: false", {"type": "USM", "gt": False}),
        (f"{GAN.replace('GANModel', 'NetModel')}gt_usm: true", {"type": "USM"}),
        (f"{GAN.replace('GANModel', 'NetModel')}gt_usm: false", {"type": "RandomBlur"}),
    ],
)
def test_gt_is_sharpened_for_all_losses_or_for_none(
    text: str, first: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    train = plain(translated(text))["datasets"]["train"]
    assert train["type"] == "PairedImageDataset"
    assert train["degradations"][0] == first
    mixed = "gan_gt_usm: false" in text and "l1_gt_usm: true" in text
    assert ("GT is sharpened for all losses, also for the discriminator" in caplog.text) == mixed


def test_each_key_goes_to_its_stage_and_none_is_left() -> None:
    blur = "blur_sigma: [1, 2], blur_sigma2: [3, 4], final_sinc_prob: 0.5"
    text = GAN.replace("Dataset}", f"Dataset, gt_size: 400, {blur}}}")
    root = plain(translated(f"{text}jpeg_range: [1, 2]\njpeg_range2: [3, 4]\nqueue_size: 180\ngt_size: 256\n"))
    assert list(root) == ["model_type", "datasets"]
    train = root["datasets"]["train"]
    assert (list(train), train["gt_size"]) == (["type", "gt_size", "degradations"], 256)
    stages = train["degradations"]
    assert (stages[1]["blur_sigma"], stages[5]["blur_sigma"]) == ([1, 2], [3, 4])
    assert (stages[4]["jpeg_range"], stages[8]["groups"][1][0]["jpeg_range"]) == ([1, 2], [3, 4])
    assert stages[8]["groups"][0][1] == {"type": "SincFilter", "prob": 0.5}


def test_other_models_are_left_alone() -> None:
    text = GAN.replace("RealESRGANModel", "SRModel")
    assert plain(translated(text)) == plain(parse(text, "x.yml"))
