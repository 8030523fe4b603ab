"""``train.mode`` of networks with a memory, a spelling of ``train.freeze``.

freeze: everything but the memory stays as path.pretrain_network_g has it. scratch: everything trains; a checkpoint to
start from need not fit. In both, what a checkpoint lacks begins afresh, and is told: path.strict_load_g: false. An
override with scratch or null takes away what freeze of the file has frozen.
"""

from typing import Any

from vsr.config.legacy_moves import mapping, put
from vsr.config.reader import Node, show


def translate_mode(root: Node, problems: list[str], *, over: Node | None) -> None:
    """Take ``train.mode`` out of a file, or out of an override that is put ``over`` one.

    Beside freeze, ``train.freeze: {until: N}`` says from which step on everything trains.
    """
    train = root.get("train")
    if not isinstance(train, Node) or "mode" not in train:
        return
    mode, mark = train.take("mode")
    if mode in ("scratch", None) and "freeze" not in train and over is not None and _is_mode(over.get("train")):
        train.put("freeze", None, mark)  # what the file's mode froze
    if mode is None:
        return
    if mode not in ("freeze", "scratch"):
        problems.append(f"{mark}: expected freeze or scratch, got {show(mode)}. Or write train.freeze.")
        return
    if mode == "freeze":
        phase = train.get("freeze")
        others = [key for key in ("tsa_iter", "fix_flow") if train.get(key)]
        if isinstance(phase, Node) and set(phase) - {"until"}:
            others.append("freeze")
        if others:
            problems.append(f"{mark}: expected either this or {others[0]}, got both. Keep one; freeze may have until.")
            return
        train.put("freeze", phase if isinstance(phase, Node) else mapping(mark), mark)
        for key, value in (("except", ["memory"]), ("pretrained", True)):
            put(root, ["train", "freeze", key], value, mark, problems)
    if not any(_has_strict(node) for node in (root, over)):
        put(root, ["path", "strict_load_g"], False, mark, problems)


def _is_mode(train: Any) -> bool:
    freeze = train.get("freeze") if isinstance(train, Node) else None
    return isinstance(freeze, Node) and "pretrained" in freeze


def _has_strict(root: Node | None) -> bool:
    path = root.get("path") if root is not None else None
    return isinstance(path, Node) and "strict_load_g" in path
