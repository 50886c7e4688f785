"""Which layout a folder of labelled images has: by what it holds, or as the job says."""

from types import ModuleType

from orchestrator.data.labelled import clip_benchmark, coco, image_folder, karpathy, shards
from orchestrator.data.labelled.labelled_set import LabelledSet
from orchestrator.data.labelled.set_folder import SetFolder
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.evaluation import Layout, LayoutSpec
from orchestrator.storage.store import Store, check_store

_LAYOUTS: dict[Layout, ModuleType] = {
    "shards": shards,
    "clip_benchmark": clip_benchmark,
    "coco": coco,
    "karpathy": karpathy,
    "image_folder": image_folder,
}
"""Each module has ``MARK`` (what it is known by), ``fits`` and ``open_set``. The last is asked only if no other fits:
it lists every file of the set."""


def open_labelled_set(store: Store, options: LayoutSpec | None = None, s3: S3Spec | None = None) -> LabelledSet:
    """The set in a folder; reads what describes it, and no image.

    Raises:
        StorageAccessError: the folder does not open.
        DatasetError: no layout fits, or several do; or its own files do not say what to ask.
    """
    check_store(store, write=False)
    folder = SetFolder(store, options or LayoutSpec(), s3 or S3Spec())
    if folder.options.layout is not None:
        return _open(folder, folder.options.layout)
    *marked, last = _LAYOUTS
    fitting = [name for name in marked if _LAYOUTS[name].fits(folder)]
    if len(fitting) > 1:
        raise folder.error(f"it fits the layouts {', '.join(fitting)}; name one in evaluation.layouts")
    if not fitting and not _LAYOUTS[last].fits(folder):
        tried = "; ".join(f"{name}: no {module.MARK}" for name, module in _LAYOUTS.items())
        raise folder.error(f"no layout of labelled images fits ({tried}); docs/evaluation.md describes them")
    return _open(folder, fitting[0] if fitting else last)


def _open(folder: SetFolder, name: Layout) -> LabelledSet:
    found: LabelledSet = _LAYOUTS[name].open_set(folder)
    if folder.options.train_samples is not None and found.train is None:
        raise folder.error(f"train_samples is set, but layout {name} has no training part")
    return found
