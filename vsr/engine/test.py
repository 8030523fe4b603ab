"""Testing: restore and measure every test set of an option file, and report."""

import contextlib
import datetime
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from vsr import __version__
from vsr.config import OptionError, Options
from vsr.config.reader import Node, read_file
from vsr.data.fingerprint import fingerprint
from vsr.engine.checkpoint import BEST_WEIGHTS
from vsr.engine.evaluate import EvaluationSet, definitions, frame_file, frame_writer, higher_is_better
from vsr.engine.prediction_results import compare_predictions, write_pictures
from vsr.engine.report import Example, SetReport, common_baseline, pick_examples, write_report
from vsr.engine.results import format_sets, format_table, set_row, write_csv, write_sets_csv
from vsr.engine.run_folder import archive, write_options
from vsr.engine.stages import trained_weights
from vsr.models.prediction import PredictionModel
from vsr.models.published import TABLE
from vsr.models.restoration import RestorationModel
from vsr.registry import MODELS
from vsr.utils import dist, logs
from vsr.utils.images import read_image
from vsr.utils.records import Record

log = logging.getLogger(__name__)

SETS = "report.csv"  # the totals of all sets, where there are several


def test(options: Options) -> dict[str, list[Record]]:
    """Test on every section of ``datasets`` but ``train``; an option file for training serves as well.

    The weights are those of path.pretrain_network_g, or else the best (or else the newest) ones
    of the training run of that name.

    Args:
        options: A checked option file.

    Returns:
        The records of each set, by the key of its section.
    """
    keys = [key for key in options.datasets if key != "train"]
    if not keys:
        raise ValueError("datasets: expected a section to test on (test, test_2 or val ...), found none. Add one.")
    device = dist.init(options.dist.timeout)
    named = options.path.pretrain_network_g  # a stage before this one is where training starts, not what it leads to
    weights = named if isinstance(named, str) else trained_weights(options)
    options = with_weights(options, weights)
    root = Path(options.path.results_root) / options.name
    if dist.is_main():
        archive(root)
        root.mkdir(parents=True)
        write_options(root, options)
    dist.barrier()
    logs.to_file(root / "test.log")
    model: RestorationModel = MODELS.build({"type": options.model_type}, options=options, device=device, train=False)
    model.load_pretrained(weights)
    warn_of_other_pooling(options.network_g.type, Path(weights))
    test_sets = [EvaluationSet(key, options) for key in keys]
    for test_set in test_sets:
        model.check_sample(test_set.dataset[0], f"datasets.{test_set.key}", train=False)

    defined = definitions(model, test_sets)
    results, reports, totals, seconds, data = {}, [], [], {}, {}
    for test_set in test_sets:
        pictures = root / "visualization" / test_set.name
        save = frame_writer(pictures, options.val.suffix) if saves(options) else None
        began = time.perf_counter()
        records = results[test_set.key] = test_set.measure(model, save)
        seconds[test_set.name] = (time.perf_counter() - began) / max(len(records), 1) * dist.world_size()
        baseline = test_set.baseline(model)
        reference = test_set.reference(model)
        totals.append(set_row(test_set.name, records, baseline, reference))
        log.info("\n%s", format_table(test_set.name, records, defined, baseline, test_set.beside))
        if isinstance(model, PredictionModel):
            compare_predictions(test_set, model, records, baseline)
        if dist.is_main():
            found = data[test_set.name] = fingerprint(test_set.dataset)
            log.info("data of %s: %s", test_set.name, found)
            table = root / f"{test_set.name}.csv"
            write_csv(table, records, baseline, beside=test_set.beside, fingerprint=found, reference=reference)
            reports.append(report_of(test_set, model, options, records, baseline, pictures, defined))
    if dist.is_main():
        if len(reports) > 1 and any(row.restored for row in totals):
            beside = common_baseline(reports)
            log.info("\n%s", format_sets(totals, defined, beside))
            write_sets_csv(root / SETS, totals, beside)
        about = facts(model, options, weights, seconds, data)
        write_report(root / "report.html", title=options.name, facts=about, sets=reports)
        show_predictions(model, test_sets, root / "Results")
        if saves(options):
            log.info("pictures: %s", root / "visualization")
        log.info("report: %s", root / "report.html")
    dist.wait_for_all()  # the fingerprint of large sets takes rank 0 minutes
    return results


def show_predictions(model: RestorationModel, test_sets: list[EvaluationSet], folder: Path) -> None:
    """Write pictures of each set's predictions, of a model that has any; what fails costs a warning, not the test."""
    if not isinstance(model, PredictionModel) or not model.prediction.results:
        return
    try:
        for test_set in test_sets:
            write_pictures(model, test_set.dataset, folder / test_set.name)
    except Exception as error:  # disks fail, and networks of one's own give what is no picture
        log.warning("%s: pictures of predictions could not be written: %s; the test goes on", folder, error)


def warn_of_other_pooling(network: str, weights: Path) -> None:
    """Warn if the weights are those of a network that pools locally, NAFNetLocal say, and NAFNet is tested.

    The two have the same tensors: nothing else would tell. On GoPro, whose images are larger than the crops of the
    training, plain NAFNet falls 0.6 dB behind.
    """
    beside = weights.parent.parent / "options.yml"
    trained = next((entry.measured_as for entry in TABLE.values() if Path(entry.file).name == weights.name), "")
    if beside.is_file():
        with contextlib.suppress(OptionError, OSError):  # read alone, not checked: it may be of another version
            network_g = read_file(beside).get("network_g")
            trained = network_g.get("type", trained) if isinstance(network_g, Node) else trained
    if trained == f"{network}Local":
        log.warning(
            "network_g.type: %s was trained or published as %s, and is tested as %s, which averages over whole images: "
            "expect less on images larger than the crops of the training. Set network_g.type: %s",
            weights, trained, network, trained,
        )  # fmt: skip


def saves(options: Options) -> bool:
    """Whether restored frames are written: yes, unless val.save_img is false."""
    return options.val.save_img is not False


def with_weights(options: Options, weights: str) -> Options:
    """Return the options with the checkpoint that is really tested, so that the saved copy repeats the test."""
    return replace(options, path=replace(options.path, pretrain_network_g=weights))


def report_of(
    test_set: EvaluationSet,
    model: RestorationModel,
    options: Options,
    records: list[Record],
    baseline: list[Record] | None,
    pictures: Path,
    defined: Mapping[str, str],
) -> SetReport:
    """Put together the report of one set, with the pictures of its best, median and worst frame.

    A frame that was saved is read again; only others, of which there are none by default, are restored
    once more.
    """
    higher = {name: higher_is_better(options, model, name) for name in model.metrics}
    values = {record.key: record.metrics for record in records}
    examples = []
    first = next(iter(model.metrics), None)
    for label, key in pick_examples(records, first, higher[first]) if first else []:
        saved = frame_file(pictures, options.val.suffix, key)
        restored = read_image(saved) if saved.is_file() else None
        before, after, target = test_set.pictures(model, key, restored)
        examples.append(Example(label=label, key=key, metrics=values[key], before=before, after=after, target=target))
    return SetReport(
        name=test_set.name,
        records=records,
        baseline=baseline,
        beside=test_set.beside,
        definitions=defined,
        higher_is_better=higher,
        examples=examples,
    )


def facts(
    model: RestorationModel,
    options: Options,
    weights: str,
    seconds: dict[str, float],
    data: dict[str, str | None],
) -> dict[str, str]:
    """Return what stands at the head of the report."""
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "CPU"
    return {
        "Network": options.network_g.type,
        "Parameters": f"{sum(p.numel() for p in model.network_g.parameters()):,}",
        "Checkpoint": weights + (", chosen by validation while training" if Path(weights).name == BEST_WEIGHTS else ""),
        "Scale": f"x{options.scale}",
        "Device": f"{device}, {dist.world_size()} process{'es' if dist.world_size() > 1 else ''}",
        "Time": ", ".join(f"{name}: {t:.3f} s a frame (restored, measured, saved)" for name, t in seconds.items()),
        "Data": ", ".join(f"{name}: {found}" for name, found in data.items()),
        "Versions": f"vsr {__version__}, torch {torch.__version__}",
        "Date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
