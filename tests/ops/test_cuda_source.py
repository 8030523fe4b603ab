"""The CUDA source on machines without a GPU: its arithmetic, its kernels imitated on the CPU, its compilation."""

import ctypes
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from vsr.ops import build

TESTS = Path(__file__).parents[1]
SHARED_BYTES = 99 << 10  # that a block may have on every GPU from compute capability 8.0 on
MOST_BLOCKS = 2**31 - 1


def compile_shared(library: Path, *arguments: str) -> Path:
    try:
        compiler = build.find_compiler("cpu")
    except build.BuildError as error:
        pytest.skip(str(error))
    command = [*compiler.command, "-std=c++20", "-Wall", "-fPIC", "-shared", *arguments, "-o", str(library)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert not re.search(r"csrc.*warning", run.stderr), run.stderr
    return library


# ---- the arithmetic of launches -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometry:
    """vsr::Geometry of csrc/deform_conv.h, field by field."""

    batch: int = 1
    in_channels: int = 64
    height: int = 64
    width: int = 64
    out_channels: int = 64
    kernel_h: int = 3
    kernel_w: int = 3
    out_h: int = 64
    out_w: int = 64
    stride_h: int = 1
    stride_w: int = 1
    padding_h: int = 1
    padding_w: int = 1
    dilation_h: int = 1
    dilation_w: int = 1
    groups: int = 1
    deform_groups: int = 8

    @property
    def c(self) -> ctypes.Array[ctypes.c_int64]:
        return (ctypes.c_int64 * len(fields(self)))(*(getattr(self, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Driver:
    library: ctypes.CDLL

    def one(self, name: str, *arguments: object) -> int:
        """Call a function that returns a number."""
        function = getattr(self.library, name)
        function.restype = ctypes.c_int64
        return function(*(ctypes.c_int64(a) if isinstance(a, int) else a for a in arguments))

    def many(self, name: str, *arguments: object) -> list[int]:
        """Call a function that fills an array."""
        out = (ctypes.c_int64 * 8)()
        getattr(self.library, name)(*(ctypes.c_int64(a) if isinstance(a, int) else a for a in arguments), out)
        return list(out)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    source = str(Path(__file__).parent / "cuda_launch_driver.cpp")
    library = compile_shared(tmp_path_factory.mktemp("driver") / "driver.so", f"-I{build.SOURCES}", source)
    return Driver(ctypes.CDLL(str(library)))


@pytest.mark.parametrize("pixels", [32, 64])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 4, 16), (3, 5, 17), (2, 9, 40), (1, 33, 15)])
def test_tiles_cover_every_pixel_once(driver: Driver, size: tuple[int, int, int], pixels: int) -> None:
    batch, out_h, out_w = size
    g = Geometry(batch=batch, out_h=out_h, out_w=out_w).c
    seen = []
    for tile in range(driver.one("tiles", g, pixels)):
        for i in range(pixels):
            *place, inside = driver.many("pixel", g, pixels, tile, i)[:4]
            if inside:
                seen.append(tuple(place))
    every = [(b, y, x) for b in range(batch) for y in range(out_h) for x in range(out_w)]
    assert sorted(seen) == every


def test_the_last_pixel_of_a_huge_output_is_found(driver: Driver) -> None:
    g = Geometry(batch=70_000, out_h=300, out_w=500)  # 10.5e9 pixels
    count = driver.one("tiles", g.c, 64)
    assert count == 70_000 * 75 * 32
    assert driver.many("pixel", g.c, 64, count - 1, 3 * 16 + 3)[:4] == [69_999, 299, 499, 1]
    assert driver.many("pixel", g.c, 64, count - 1, 3 * 16 + 4)[3] == 0


def test_indices_do_not_end_at_two_to_the_31(driver: Driver) -> None:
    g = Geometry(batch=300, in_channels=256, height=3000, width=4000, out_channels=512, out_h=3000, out_w=4000)
    b, y, x = 299, 2999, 3999
    assert driver.one("at_image", g.c, b, y, x) == (b * 3000 + y) * 4000 + x > 2**31
    assert driver.one("at_offset", g.c, b, 143, y, x) == ((b * 144 + 143) * 3000 + y) * 4000 + x
    assert driver.one("at_mask", g.c, b, 71, y, x) == ((b * 72 + 71) * 3000 + y) * 4000 + x
    strides = (ctypes.c_int64 * 4)(256 * 12_000_000, 12_000_000, 4000, 1)
    assert driver.one("at_strides", strides, b, 255, y, x) == ((b * 256 + 255) * 3000 + y) * 4000 + x > 2**39
    wide = Geometry(in_channels=2**17, out_channels=2**18, kernel_h=7, kernel_w=7, groups=2)
    assert driver.one("at_weight", wide.c, 1, 2**17 - 1, 2**16 - 1, 48) == 2**18 * 2**16 * 49 - 1 > 2**31


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize(("channels", "groups", "deform_groups"), [(64, 1, 8), (96, 2, 3), (30, 3, 2), (7, 7, 1)])
def test_chunks_cover_every_channel_once_and_name_their_deformable_groups(
    driver: Driver, channels: int, groups: int, deform_groups: int, width: int
) -> None:
    g = Geometry(in_channels=channels, groups=groups, deform_groups=deform_groups, out_channels=groups, kernel_w=5)
    seen = []
    for group in range(groups):
        for part in range(driver.one("parts", g.c, width)):
            i, j, first, number, first_group, number_of_groups = driver.many("chunk", g.c, width, 13, group, part)[:6]
            assert (i, j) == (2, 3)
            own = range(first, first + number)
            assert 0 < number <= width
            assert all(c // (channels // groups) == group for c in own)
            named = range(first_group, first_group + number_of_groups)
            assert set(named) == {c // (channels // deform_groups) for c in own}
            seen += own
    assert seen == list(range(channels))


@pytest.mark.parametrize(("n", "shares"), [(9, 9), (9, 4), (1, 1), (900, 29), (2**40, 7)])
def test_shares_cover_everything_and_none_is_empty(driver: Driver, n: int, shares: int) -> None:
    begins = [driver.one("share", n, shares, s) for s in range(shares + 1)]
    assert (begins[0], begins[-1]) == (0, n)
    sizes = [b - a for a, b in pairwise(begins)]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def geometries() -> Iterator[Geometry]:
    rng = random.Random(0)
    for _ in range(300):
        groups, deform_groups = rng.choice([1, 1, 2, 3, 16]), rng.choice([1, 2, 8, 16, 48])
        size = {"out_h": rng.choice([1, 7, 64, 180, 2160]), "out_w": rng.choice([1, 5, 64, 320, 3840])}
        yield Geometry(
            batch=rng.choice([1, 4, 64]),
            in_channels=48 * rng.choice([1, 2, 4, 11]),
            out_channels=groups * rng.choice([1, 8, 64, 65, 128, 1000]),
            kernel_h=rng.choice([1, 3, 7, 31]),
            kernel_w=rng.choice([1, 3, 5, 31]),
            groups=groups,
            deform_groups=deform_groups,
            **size,
        )


@pytest.mark.parametrize("itemsize", [4, 2])
@pytest.mark.parametrize("processors", [1, 108, 132])
def test_shared_memory_and_grids_stay_within_the_limits_for_every_shape(
    driver: Driver, processors: int, itemsize: int
) -> None:
    for g in geometries():
        pixels, outputs, width, offset_groups, blocks, shared = driver.many("forward", g.c, itemsize, processors)[:6]
        assert (pixels, outputs) in {(32, 64), (64, 64), (64, 128)}
        per_group = g.out_channels // g.groups
        tiles = g.batch * -(-g.out_h // (pixels // 16)) * -(-g.out_w // 16)
        assert blocks == tiles * g.groups * -(-per_group // outputs) <= MOST_BLOCKS
        assert shared <= SHARED_BYTES, g
        assert offset_groups <= width
        data_blocks, data, weight_blocks, weight, partial, taps, shares, tiles = driver.many(
            "backward", g.c, itemsize, processors
        )
        assert max(data, weight) <= SHARED_BYTES, g
        assert data_blocks == tiles * taps <= MOST_BLOCKS
        assert weight_blocks <= MOST_BLOCKS
        assert 1 <= taps <= g.kernel_h * g.kernel_w
        assert 1 <= shares <= tiles
        assert shares == 1 or partial <= 2**24


def test_vectors_are_read_where_channels_allow_and_small_outputs_get_small_tiles(driver: Driver) -> None:
    def tile(itemsize: int = 4, **other: int) -> list[int]:
        return driver.many("forward", Geometry(**other).c, itemsize, 132)[:3]

    assert tile() == [32, 64, 32]  # 64 x 64 pixels: 64 tiles of 64 would leave half of the GPU idle
    assert tile(batch=8) == [64, 64, 32]
    assert tile(batch=8, out_channels=128) == [64, 128, 32]
    assert tile(batch=8, in_channels=128, deform_groups=16, itemsize=2) == [64, 64, 32]
    assert tile(batch=8, in_channels=32, deform_groups=8, itemsize=2) == [64, 64, 16]  # 4 channels are 8 bytes
    assert tile(batch=8, in_channels=60, deform_groups=1, groups=3, out_channels=3) == [64, 64, 32]
    assert tile(batch=8, in_channels=60, deform_groups=6) == [64, 64, 16]


def test_the_weights_gradient_is_shared_out_to_all_processors(driver: Driver) -> None:
    blocks, partial, shares = (driver.many("backward", Geometry(batch=4).c, 4, 132)[i] for i in (2, 4, 6))
    assert shares == 30  # 9 taps x 2 chunks x 30 >= 4 blocks x 132
    assert (blocks, partial) == (18 * 30, 30 * 9 * 64 * 64 * 4)


# ---- the kernels ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of CPU kernels made of the CUDA source."""
    torch_folder = Path(torch.__file__).parent
    (version,) = (flag for flag in build.COMMON if "TORCH_TARGET_VERSION" in flag)
    return compile_shared(
        tmp_path_factory.mktemp("emulated") / "emulated.so",
        *("-O1", version, "-Wno-unknown-pragmas", "-isystem", f"{torch_folder}/include"),
        *("-x", "c++", str(build.SOURCES / "deform_conv_cuda.cu")),
        *(f"-L{torch_folder}/lib", "-ltorch_cpu"),
    )


@pytest.fixture
def run_emulated(emulated: Path) -> Callable[..., str]:
    def run(*arguments: str, **environment: str) -> str:
        # In a process of its own: its kernels take the place of the CPU's.
        command = [sys.executable, "-m", "pytest", str(TESTS / "ops/test_deform_conv_cuda.py"), *arguments]
        settings = {**os.environ, "VSR_EMULATED_CUDA": str(emulated), "VSR_OPS": "off", **environment}
        done = subprocess.run(command, cwd=TESTS.parent, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return done.stdout

    return run


def passed(output: str) -> int:
    found = re.search(r"(\d+) passed", output)
    return int(found[1]) if found else 0


@pytest.mark.slow
def test_the_kernels_are_right_when_the_cpu_imitates_them(run_emulated: Callable[..., str]) -> None:
    assert passed(run_emulated("-m", "cuda and not slow")) > 80


@pytest.mark.slow
def test_the_slow_tests_pass_too(run_emulated: Callable[..., str]) -> None:
    assert passed(run_emulated("-m", "cuda and slow")) > 20


@pytest.mark.slow
def test_tf32_is_an_option(run_emulated: Callable[..., str]) -> None:
    arguments = ("-m", "cuda and not slow", "-k", "networks_shapes and many or any_shape or rounds")
    assert passed(run_emulated(*arguments, VSR_CUDA_TF32="1")) == 14


# ---- compilation ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nvcc_compiles_it_without_a_warning_and_with_hardly_a_spill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        compiler = build.find_compiler("cuda")
    except build.BuildError as error:
        pytest.skip(str(error))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    recipe = build.recipe("cuda", build.installed_torch())
    assert recipe is not None
    units = tuple((source, name, (*flags, "--ptxas-options=-v")) for source, name, flags in recipe.units)
    log = tmp_path / "log.txt"
    library = build.compile_library(replace(recipe, units=units), compiler, tmp_path, log)
    said = log.read_text(encoding="utf-8")
    assert "warning" not in said
    kernels = re.findall(r"Compiling entry function '\S+' for '(sm_\d+)'", said)
    assert kernels.count("sm_80") == kernels.count("sm_90") > 20
    assert max(map(int, re.findall(r"(\d+) bytes spill loads", said))) <= 32
    if torch.version.cuda is not None:
        return
    # A torch without CUDA lacks one function that the library needs: with that in place, everything else is found.
    code = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }\n'
    (tmp_path / "stream.cpp").write_text(code, encoding="utf-8")
    stream = compile_shared(tmp_path / "stream.so", str(tmp_path / "stream.cpp"))
    code = f"""
import ctypes, torch, vsr.ops.deform_conv
try:
    ctypes.CDLL({str(library)!r})
except OSError as error:
    print(error)
ctypes.CDLL({str(stream)!r}, ctypes.RTLD_GLOBAL)
torch.ops.load_library({str(library)!r})
for op in ("modulated_deform_conv2d", "modulated_deform_conv2d_backward"):
    print(torch._C._dispatch_has_kernel_for_dispatch_key("vsr::" + op, "CUDA"))
"""
    settings = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)
    assert "undefined symbol: aoti_torch_get_current_cuda_stream" in done.stdout, done.stderr
    assert done.stdout.split()[-2:] == ["True", "True"], done.stderr
