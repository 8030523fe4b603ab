"""The weights that a run leaves to the next: the stages of a recipe."""

import logging
from pathlib import Path

from vsr.config import Options, StageOptions, load_options
from vsr.engine.checkpoint import BEST_WEIGHTS

log = logging.getLogger(__name__)


def starting_weights(options: Options) -> str | None:
    """Return the checkpoint that path.pretrain_network_g names, or the stage that it names has left.

    Raises:
        FileNotFoundError: that stage has no weights yet.
        ValueError: it has not come to its end, or would start from itself.
    """
    named = options.path.pretrain_network_g
    if not isinstance(named, StageOptions):
        return named
    before = load_options(named.stage)
    if _models(before) == _models(options):
        raise ValueError(
            f"path.pretrain_network_g.stage: expected the option file of another run than this one "
            f"({options.name}), got {named.stage}. Give the two names of their own."
        )
    weights = _best(before) if named.weights == "best" else _newest(before)
    if weights is None:
        raise FileNotFoundError(
            f"path.pretrain_network_g.stage: expected {named.weights} weights of {named.stage} in {_models(before)}, "
            f"found none. Run that stage first: train.py -opt {named.stage}"
        )
    newest = _newest(before)
    if newest and before.train and not before.train.scale_iterations:
        done, total = _step(newest), before.train.total_iter
        text = f"expected {named.stage} to have come to its end, step {total}, found step {done}"
        if done < total and named.weights == "best":
            log.warning("path.pretrain_network_g.stage: %s. Its best weights so far are taken", text)
        elif done < total:
            raise ValueError(
                f"path.pretrain_network_g.stage: {text}. Go on with it, or name a checkpoint: "
                f"path.pretrain_network_g={weights}"
            )
    log.info("path.pretrain_network_g: the stage %s has left %s", named.stage, weights)
    return str(weights)


def trained_weights(options: Options) -> str:
    """Return the best, or else the newest, weights of the training run of this name.

    Raises:
        FileNotFoundError: there are none.
    """
    weights = _best(options) or _newest(options)
    if weights is None:
        raise FileNotFoundError(
            f"path.pretrain_network_g: expected a checkpoint to test, or weights of a training run in "
            f"{_models(options)}, found neither. Name a checkpoint, or train first."
        )
    return str(weights)


def _models(options: Options) -> Path:
    return Path(options.path.experiments_root) / options.name / "models"


def _best(options: Options) -> Path | None:
    best = _models(options) / BEST_WEIGHTS
    return best if best.is_file() else None


def _newest(options: Options) -> Path | None:
    numbered = [path for path in _models(options).glob("net_g_*.pth") if path.stem[6:].isdecimal()]
    return max(numbered, key=_step, default=None)


def _step(weights: Path) -> int:
    return int(weights.stem.removeprefix("net_g_"))
