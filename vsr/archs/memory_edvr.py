"""EDVR that reads a memory: what it fused is completed by what it finds in the frames of the window.

There is no publication of this network, and no weights: its variants are those of a comparison of memories whose names
and sizes are known. The mathematics is a reading of them, after end-to-end memory networks (see ``vsr.archs.memory``):
the query is the centre frame's features at level 1, slots are the frames' features, aligned by PCD where there is one,
and what was read joins the fused features before the reconstruction.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from torch import Tensor

from vsr.archs.blocks import ResidualBlockNoBN
from vsr.archs.edvr import EDVR, PCDAlignment
from vsr.archs.memory_fusion import Memory
from vsr.registry import MEMORIES, NETWORKS


@NETWORKS.register
class MemoryEDVR(EDVR):
    """EDVR with a memory: a fresh one changes nothing, so that with EDVR's weights it begins as EDVR.

    All of EDVR's tensors have EDVR's names; a checkpoint of EDVR lacks ``memory.*`` only.

    Args:
        num_feat: Width of the features; none: 64, or what the named variant has.
        memory: Kind of the memory with its arguments; none: pixwise with crop 3, or what the named variant has.
        with_pcd: Align the frames, by deformable convolutions, before they are fused and read. Without, the memory
            alone finds what moves; needs no compiled code. None: true, or what the named variant has.
    """

    checkpointed = (ResidualBlockNoBN, PCDAlignment, Memory)
    variant: ClassVar[dict[str, Any]] = {"num_feat": 64, "with_pcd": True, "memory": {"type": "pixwise", "crop": 3}}

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int | None = None,
        num_frame: int = 5,
        deformable_groups: int = 8,
        num_extract_block: int = 5,
        num_reconstruct_block: int = 10,
        center_frame_idx: int | None = None,
        hr_in: bool = False,
        with_predeblur: bool = False,
        with_tsa: bool = True,
        memory: Annotated[str | Mapping[str, Any] | None, "MEMORIES"] = None,
        with_pcd: bool | None = None,
    ) -> None:
        num_feat = self.variant["num_feat"] if num_feat is None else num_feat
        with_pcd = self.variant["with_pcd"] if with_pcd is None else with_pcd
        super().__init__(
            num_in_ch=num_in_ch,
            num_out_ch=num_out_ch,
            num_feat=num_feat,
            num_frame=num_frame,
            deformable_groups=deformable_groups if with_pcd else 1,  # of no consequence without
            num_extract_block=num_extract_block,
            num_reconstruct_block=num_reconstruct_block,
            center_frame_idx=center_frame_idx,
            hr_in=hr_in,
            with_predeblur=with_predeblur,
            with_tsa=with_tsa,
        )
        self.with_pcd = with_pcd
        if not with_pcd:
            for part in ("conv_l2_1", "conv_l2_2", "conv_l3_1", "conv_l3_2", "pcd_align"):
                delattr(self, part)
            if not with_tsa and not with_predeblur:
                self.size_multiple = self.min_size = 1  # nothing is left that halves sizes
        kind = self.variant["memory"] if memory is None else memory
        option = {"type": kind} if isinstance(kind, str) else kind
        self.memory = MEMORIES.build(option, channels=num_feat, slots=num_frame, center=self.center_frame_idx)

    def _pyramid(self, first: Tensor) -> list[Tensor]:
        return super()._pyramid(first) if self.with_pcd else [self.feature_extraction(first)]

    def reconstruct(self, pyramid: Sequence[Tensor], center: Tensor) -> Tensor:
        """Restore the centre frame (b, num_in_ch, H, W) from the window's pyramid of (b, t, c, ...) levels."""
        first = pyramid[0]
        frames = self._align(pyramid) if self.with_pcd else first
        fused = self.memory(self._fuse(frames), first[:, self.center_frame_idx], frames)
        return self._enlarge(fused, center)


def _variant(num_feat: int, *, with_pcd: bool = True, **memory: Any) -> dict[str, Any]:
    return {"num_feat": num_feat, "with_pcd": with_pcd, "memory": memory}


@NETWORKS.register
class EDVR_PixSim(MemoryEDVR):  # noqa: N801
    """MemoryEDVR of 64 channels with one weight for each frame."""

    variant = _variant(64, type="pixsim")


@NETWORKS.register
class EDVR_PixWise(MemoryEDVR):  # noqa: N801
    """MemoryEDVR of 64 channels with weights for each pixel, of the same place in each frame."""

    variant = _variant(64, type="pixwise", crop=0)


@NETWORKS.register
class EDVR_PixSentence(MemoryEDVR):  # noqa: N801
    """MemoryEDVR of 64 channels that searches all positions of all frames."""

    variant = _variant(64, type="pixsentence")


@NETWORKS.register
class EDVR_Concat256(MemoryEDVR):  # noqa: N801
    """MemoryEDVR of 128 channels, crop 3, whose features and memory are joined to 256."""

    variant = _variant(128, type="pixwise", crop=3, fusion="concat")


@NETWORKS.register
class EDVR_Concat128Norm(MemoryEDVR):  # noqa: N801
    """EDVR_Concat256 that compares the directions of its keys."""

    variant = _variant(128, type="pixwise", crop=3, fusion="concat", norm=True)


@NETWORKS.register
class EDVR_Crop3(MemoryEDVR):  # noqa: N801
    """MemoryEDVR of 128 channels, crop 3."""

    variant = _variant(128, type="pixwise", crop=3)


@NETWORKS.register
class EDVR_Crop5(MemoryEDVR):  # noqa: N801
    """MemoryEDVR of 128 channels, crop 5."""

    variant = _variant(128, type="pixwise", crop=5)


@NETWORKS.register
class EDVR_NoPCD(MemoryEDVR):  # noqa: N801
    """EDVR_Crop5 whose frames are not aligned."""

    variant = _variant(128, with_pcd=False, type="pixwise", crop=5)
