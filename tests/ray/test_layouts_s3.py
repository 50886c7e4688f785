"""Sets of public layouts in a bucket, against a real server."""

from pathlib import Path
from typing import TYPE_CHECKING

from layout_files import write_clip_benchmark, write_coco, write_folders
from orchestrator.data.index import save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.labelled.labelled_set import RowRequest
from orchestrator.data.labelled.recognise import open_labelled_set
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.evaluation import LayoutSpec
from orchestrator.storage.store import open_store

if TYPE_CHECKING:
    from tests.conftest import S3Server


def test_sets_of_public_layouts_are_the_same_in_a_bucket_as_on_disk(s3_server: "S3Server", tmp_path: Path) -> None:
    s3 = S3Spec(endpoint=s3_server.endpoint)
    for root in (tmp_path, s3_server.folder / "layouts"):
        write_folders(root / "imagenet/val", 3)
        write_clip_benchmark(root / "cars", "test", [b"1", b"0", b"1"])
        write_coco(root / "coco")
        (root / "cars/names.txt").write_text("estate\nvan\n")
    options = {"cars": LayoutSpec(class_names="names.txt")}
    for name, num_rows in (("imagenet", 9), ("cars", 3), ("coco", 7)):
        rows = []
        for uri in (tmp_path.as_uri(), f"{s3_server.uri}/layouts"):
            found = open_labelled_set(open_store(f"{uri}/{name}", s3), options.get(name), s3)
            for folder in found.shard_folders:
                save_index(folder, index_dataset(folder))
            rows.append(list(found.read(RowRequest(8))))
        assert len(rows[0]) == num_rows
        for here, there in zip(*rows, strict=True):
            assert here.image.tobytes() == there.image.tobytes()
            assert (here.index, here.targets, here.captions) == (there.index, there.targets, there.captions)
