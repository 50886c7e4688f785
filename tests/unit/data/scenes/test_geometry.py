"""The scenes' annotations, through shards, crop, resize and flip, against rays through the very same places."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator import columns
from orchestrator.data.annotations import read_annotation_header
from orchestrator.data.blocks import BlockFormat, BlockTask, unpack_block
from orchestrator.data.crop import Crop
from orchestrator.data.dataset_order import ChunkTable, DatasetOrder
from orchestrator.data.draw import SampleDraw
from orchestrator.data.image import crop_box
from orchestrator.data.index import save_index
from orchestrator.data.indexing import index_dataset
from orchestrator.data.node_index import ShardsSource
from orchestrator.data.order import BlockLayout, SampleOrder, WindowShuffle
from orchestrator.data.scenes.geometry import GEOMETRY
from orchestrator.data.scenes.render import SKY, Hits, trace
from orchestrator.data.scenes.sample import sample_scene
from orchestrator.data.scenes.scene import TAN_HALF_VIEW, Scene
from orchestrator.data.scenes.write import write_scenes
from orchestrator.data.shards_reader import ShardsBlockReader
from orchestrator.runs.annotations import read_annotation_facts
from orchestrator.spec.annotation import AnnotationPlan
from orchestrator.spec.augmentation import AugmentationSpec
from orchestrator.spec.batches import Batches
from orchestrator.spec.job import ShardsSpec
from orchestrator.storage.store import open_store

NUM_SCENES, IMAGE_SIZE, SIZE = 24, 96, 64
AUGMENTATION = AugmentationSpec(crop_scale=(0.3, 1.0), flip=True)


def trace_at(scene: Scene, x_S: np.ndarray, y_S: np.ndarray) -> tuple[Hits, np.ndarray]:
    """What rays through places of the image (shares of its sides) meet, and their normals in the camera's frame."""
    v_SS, u_SS = np.meshgrid((2 * y_S - 1) * TAN_HALF_VIEW, (2 * x_S - 1) * TAN_HALF_VIEW, indexing="ij")
    camera_3N = np.stack([u_SS.ravel(), v_SS.ravel(), np.ones(v_SS.size)])
    hits = trace(scene, np.einsum("ji,jn->in", scene.camera.rotation_33, camera_3N))
    return hits, np.einsum("ij,jn->ni", scene.camera.rotation_33, hits.normal).reshape(len(y_S), len(x_S), 3)


def crop_of(draw: SampleDraw) -> Crop:
    """As the read task draws it."""
    box = crop_box(IMAGE_SIZE, IMAGE_SIZE, AUGMENTATION, draw)
    return Crop(IMAGE_SIZE, IMAGE_SIZE, *box, flipped=draw.uniform("flip") < 0.5)


def surroundings(scene: Scene, x_S: np.ndarray, y_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of which everything within a pixel of the image is one thing; and those where it is also smooth: depth
    differs by less than a tenth, normals by less than 20 degrees (corners of a cube and the far ground are not)."""
    steps = (-1 / IMAGE_SIZE, 0, 1 / IMAGE_SIZE)
    around = [trace_at(scene, x_S + across, y_S + down) for across in steps for down in steps]
    (center, normal), shape = around[4], (len(y_S), len(x_S))
    inside, smooth = np.ones(shape, bool), np.ones(shape, bool)
    for hits, turned in around:
        inside &= (hits.instance == center.instance).reshape(shape)
        with np.errstate(invalid="ignore"):  # the sky is infinitely far away
            smooth &= (np.abs(hits.depth / center.depth - 1) < 0.1).reshape(shape)
        smooth &= (turned * normal).sum(axis=2) > np.cos(np.radians(20))
    return inside, inside & smooth


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """One epoch of scenes as a worker gets them."""
    folder = tmp_path_factory.mktemp("scenes") / "small"
    write_scenes(str(folder), NUM_SCENES, 4, 0, image_size=IMAGE_SIZE, samples_per_shard=16, num_processes=1)
    store = open_store(str(folder / "train"))
    index = index_dataset(store)
    save_index(store, index)
    facts = read_annotation_facts(store, index, {"truth": GEOMETRY})["truth"]
    assert facts.num_shards == 2
    plan = AnnotationPlan(name="truth", folder=GEOMETRY, columns=facts.columns, missing="skip", digests=(facts.digest,))
    order = SampleOrder(
        [DatasetOrder(ChunkTable(index.shards.num_samples), 0)],
        WindowShuffle(NUM_SCENES, 0, Batches(global_size=NUM_SCENES)),
    )
    reader = ShardsBlockReader(
        (ShardsSource.now(store, index.digest),),
        ShardsSpec(kind="shards", train="x", augmentation=AUGMENTATION, decode="exact"),
        order.shuffle,
        BlockLayout(Batches(global_size=8), 8, 1),
        BlockFormat((columns.IMAGE,), SIZE, 8, 4, None, None, (plan,)),
    )
    task = BlockTask(tuple(range(NUM_SCENES // 8)), order.window_visits(0, NUM_SCENES))
    return [unpack_block(block, SIZE) for block in reader.read_blocks(task)]


def test_depth_normals_and_masks_are_those_of_the_places_that_the_image_shows(
    blocks: list[dict[str, np.ndarray]],
) -> None:
    """Masks and the sky exactly wherever no edge is within a pixel; surfaces, where they are smooth, to half a per
    cent of depth and a degree and a half of normals."""
    flips, depth_errors, angles = set(), [], []
    for block in blocks:
        for row, (shard, index) in enumerate(zip(block["shard"].tolist(), block["index"].tolist(), strict=True)):
            crop = crop_of(SampleDraw(0, 0, 0, shard, index))
            flips.add(crop.flipped)
            scene, places = sample_scene(0, "train", 16 * shard + index), crop.centers(SIZE)
            hits, normal = trace_at(scene, *places)
            inside, smooth = surroundings(scene, *places)
            thing = hits.instance.reshape(SIZE, SIZE)
            mask, depth, normals = (block[f"truth.{name}"][row] for name in ("mask", "depth", "normals"))
            assert np.array_equal(mask[inside], np.maximum(thing, 0)[inside])
            assert not depth[inside & (thing == SKY)].any()
            assert not normals[inside & (thing == SKY)].any()
            assert inside.mean() > 0.6
            depth_errors.append(np.abs(depth[smooth] / hits.depth.reshape(SIZE, SIZE)[smooth] - 1))
            normal[..., 0] *= -1 if crop.flipped else 1
            found = normals[smooth] / np.linalg.norm(normals[smooth].astype(float), axis=1, keepdims=True)
            angles.append(np.degrees(np.arccos((found * normal[smooth]).sum(axis=1).clip(-1, 1))))
    assert flips == {False, True}
    depth_error, angle = np.concatenate(depth_errors), np.concatenate(angles)
    assert len(angle) > 0.6 * NUM_SCENES * SIZE**2
    assert depth_error.max() < 0.005
    assert angle.max() < 1.5


def test_annotations_of_all_splits_name_their_shard_by_checksum(tmp_path: Path) -> None:
    write_scenes(str(tmp_path / "x"), 6, 4, 0, image_size=16, samples_per_shard=4, num_processes=1)
    for split, shards in (("train", 2), ("val", 1), ("eval", 1)):
        store = open_store(str(tmp_path / "x" / split))
        index = index_dataset(store)
        headers = [read_annotation_header(store, GEOMETRY, shard) for shard in index.shards]
        assert len(headers) == shards
        assert all(header is not None and len(header.shard.sha256) == 64 for header in headers)
    write_scenes(str(tmp_path / "y"), 4, 4, 0, image_size=16, annotate=False, num_processes=1)
    assert not list((tmp_path / "y").rglob("*.parquet"))
