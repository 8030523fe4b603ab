"""A small HumanEva for runs of predictions, and option files for them."""

from pathlib import Path

from kit import write_frames

OPTIONS = """\
name: predicted
model_type: PredictionModel
manual_seed: 3
datasets:
  train:
    type: HumanEvaDataset
    dataroot: {root}/HumanEva
    partition: train
    input_size: 4
    frame_interval: 3
    W: 24
    H: 16
    with_flow: true
    batch_size_per_gpu: 2
    num_worker_per_gpu: 0
  val:
    type: HumanEvaDataset
    dataroot: {root}/HumanEva
    partition: val
    input_size: 4
    frame_interval: 3
    W: 24
    H: 16
    with_flow: true
    samples_per_clip: 3
    num_worker_per_gpu: 0
network_g:
  type: MemoryPrediction
  channels: [3, 4, 6]
  noskip: [true, false]
  input_size: 4
  memory_size: 4
  embed_size: 8
  pad: 1
path: {{experiments_root: {root}/experiments, results_root: {root}/results}}
train:
  total_iter: 2
  pixel_opt: {{type: L1Loss}}
  optim_g: {{type: Adam, lr: 1e-3}}
val:
  val_freq: 1
  metrics:
    l1: {{type: calculate_l1}}
    psnr: {{type: calculate_psnr}}
logger: {{print_freq: 1, save_checkpoint_freq: 1, use_tb_logger: false}}
prediction: {{pictures: 2}}
"""


def write_humaneva(root: Path) -> Path:
    """Write clips of drifting texture below ``root``, two to train on and one to validate on; return an option file."""
    for seed, (name, count) in enumerate({"S1_Box_1_(C1)": 15, "S1_Jog_1_(C1)": 16, "S2_Box_1_(C1)": 20}.items()):
        write_frames(root / "HumanEva" / "image" / name, count, (32, 48), seed=seed)
    for partition, names in {"train": "S1/Box_1_(C1)\nS1/Jog_1_(C1).avi", "val": "S2/Box_1_(C1)"}.items():
        (root / "HumanEva" / f"{partition}_list.csv").write_text(f"clip\n{names}\n")
    path = root / "predicted.yml"
    path.write_text(OPTIONS.format(root=root), encoding="utf-8")
    return path
